"""Stand-ins for a device: a CUDA whose time is a number, one that runs on the CPU, and a clock with a script."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], object]


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda, self.at = cuda, 0.0

    def record(self) -> None:
        self._cuda.log.append("record")
        self.at = self._cuda.now()

    def elapsed_time(self, end: FakeEvent) -> float:
        self._cuda.last = end.at - self.at
        return 1000 * self._cuda.last


class FakeCuda:
    """:class:`tp_vgg.clocks.CudaCalls` without a device; its time passes only in calls made by :meth:`takes`."""

    def __init__(self, busy: float = 0.9, capability: tuple[int, int] = (9, 0)) -> None:
        self.log: list[str] = []
        self._time, self._busy, self._capability = 0.0, busy, capability
        self.last = 0.0
        """Seconds between the last two events that were asked for."""

    def now(self) -> float:
        return self._time

    def takes(self, seconds: float) -> Call:
        def call() -> None:
            self.log.append("call")
            self._time += seconds

        return call

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def synchronize(self) -> None:
        self.log.append("sync")

    def kernel_seconds(self, call: Call, count: int) -> float | None:
        if not self._busy:
            return None
        for _ in range(count):
            call()
        return self._busy * self.last  # of the same calls once more; on a real CPU they would not take as long

    def allocated_peak(self, call: Call) -> int:
        call()
        return 1000

    def cache_bytes(self) -> int:
        return 1 << 16

    def capability(self) -> tuple[int, int]:
        return self._capability

    def capture(self, call: Call) -> Call:
        self.log.append("capture")
        call()
        return call

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
