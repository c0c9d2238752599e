"""Stand-ins for a device: CUDA with simulated time, CUDA on the CPU, a scripted clock."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tp_vgg.machine.cuda_graph import Replay

Call = Callable[[], object]
DEFAULT_MHZ = 2000.0
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda, self.at = cuda, 0.0

    def record(self) -> None:
        self._cuda.log.append("record")
        self.at = self._cuda.now()

    def elapsed_time(self, end: FakeEvent) -> float:
        self._cuda.last = end.at - self.at
        return 1000 * self._cuda.last


class FakeGraph:
    """A graph that runs the captured call ``repeats`` times, with one launch in all.

    Like a CUDA graph it keeps nothing alive; a replay fails if the call is gone.
    """

    def __init__(self, cuda: FakeCuda, call: Call, repeats: int) -> None:
        self._cuda, self._call, self._repeats = cuda, weakref.ref(call), repeats

    def replay(self) -> None:
        call = self._call()
        assert call is not None, "a graph was replayed whose memory was given to others"
        with self._cuda.one_launch():
            for _ in range(self._repeats):
                call()


class FakeCuda:
    """:class:`tp_vgg.latency.cuda.CudaCalls` without a device.

    Its time passes only in calls made by :meth:`takes`.
    """

    def __init__(
        self,
        busy: float = 0.9,
        capability: tuple[int, int] = (9, 0),
        launch: float = 0.0,
        mhz: Callable[[float], float] | None = None,
    ) -> None:
        """``mhz`` gives the clock rate at a time; ``None`` if it is not known."""
        self.log: list[str] = []
        self._time, self._busy, self._capability = 0.0, busy, capability
        self._launch = launch
        """Seconds of one launch: of each call, or of a whole replay."""
        self._mhz = mhz
        self.last = 0.0
        """Seconds between the last two events that were compared."""

    def now(self) -> float:
        return self._time

    def takes(self, seconds: float) -> Call:
        def call() -> None:
            self.log.append("call")
            self._time += self._launch + seconds

        return call

    @contextmanager
    def one_launch(self) -> Iterator[None]:
        """Charge one launch for all calls in the block."""
        self._time += self._launch
        launch, self._launch = self._launch, 0.0
        yield
        self._launch = launch

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def synchronize(self) -> None:
        self.log.append("sync")

    def kernel_seconds(self, call: Call, count: int) -> float | None:
        if not self._busy:
            return None
        for _ in range(count):
            call()
        # Not timed again: on a real CPU the same calls would not take equally long.
        return self._busy * self.last

    def allocated_peak(self, call: Call) -> int:
        call()
        return 1000

    def cache_bytes(self) -> int:
        return 1 << 16

    def capability(self) -> tuple[int, int]:
        return self._capability

    def pool(self) -> object:
        return object()

    def capture(self, call: Call, repeats: int = 1, pool: object = None) -> Call:
        self.log.append("capture")
        call()
        return Replay(FakeGraph(self, call, repeats), call)

    def sm_mhz(self) -> float | None:
        return None if self._mhz is None else self._mhz(self.now())

    def default_sm_mhz(self) -> float | None:
        return None if self._mhz is None else DEFAULT_MHZ

    def facts(self) -> dict[str, Any]:
        return {"pstate": "P0"}


class CudaOnCpu(FakeCuda):
    """The same for real calls on the CPU; its time is wall time."""

    def now(self) -> float:
        return time.perf_counter()


class ScriptedClock:
    """A clock whose samples take ``seconds(name, sample number)``; calls return their name."""

    def __init__(self, seconds: Callable[[str, int], float]) -> None:
        self.order: list[str] = []
        self._seconds = seconds

    def sample_seconds(self, call_seconds: float) -> float:
        return 2 * call_seconds

    def speed(self) -> float | None:
        return None

    def sample(self, call: Call) -> float:
        name = str(call())
        self.order.append(name)
        return self._seconds(name, len(self.order))

    def busy(self, call: Call) -> float | None:
        return None

    def peak_bytes(self, call: Call, resident_bytes: int) -> int:
        return resident_bytes

    def cache_bytes(self) -> int:
        return 1 << 16

    def conditions(self) -> dict[str, Any]:
        return {}
