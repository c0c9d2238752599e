"""Stand-ins for a device: a CUDA whose time is a number, one that runs on the CPU, and a clock with a script."""

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
    """Like a CUDA graph it keeps nothing alive: it runs ``repeats`` times what it was captured from, if that is still there, and in
    it no call has a launch of its own."""

    def __init__(self, cuda: FakeCuda, call: Call, repeats: int) -> None:
        self._cuda, self._call, self._repeats = cuda, weakref.ref(call), repeats

    def replay(self) -> None:
        call = self._call()
        assert call is not None, "a graph was replayed whose memory was given to others"
        with self._cuda.one_launch():
            for _ in range(self._repeats):
                call()


class FakeCuda:
    """:class:`tp_vgg.latency.cuda.CudaCalls` without a device; its time passes only in calls made by :meth:`takes`."""

    def __init__(
        self,
        busy: float = 0.9,
        capability: tuple[int, int] = (9, 0),
        launch: float = 0.0,
        mhz: Callable[[float], float] | None = None,
    ) -> None:
        """``mhz``: the clock at a time; not known where ``None``."""
        self.log: list[str] = []
        self._time, self._busy, self._capability = 0.0, busy, capability
        self._launch = launch
        """Seconds that each call waits for its launch, and a whole replay as much."""
        self._mhz = mhz
        self.last = 0.0
        """Seconds between the last two events that were asked for."""

    def now(self) -> float:
        return self._time

    def takes(self, seconds: float) -> Call:
        def call() -> None:
            self.log.append("call")
            self._time += self._launch + seconds

        return call

    @contextmanager
    def one_launch(self) -> Iterator[None]:
        """All calls inside have one between them."""
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
        return (
            self._busy * self.last
        )  # of the same calls once more; on a real CPU they would not take as long

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
    """The same for calls that really work, on the CPU: its time is the wall's."""

    def now(self) -> float:
        return time.perf_counter()


class ScriptedClock:
    """Samples are what ``seconds(name, sample number)`` says, for calls that return their name."""

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

    def peak_bytes(self, call: Call, held: int) -> int:
        return held

    def cache_bytes(self) -> int:
        return 1 << 16

    def conditions(self) -> dict[str, Any]:
        return {}
