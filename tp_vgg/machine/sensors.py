"""What a machine says of itself while things are timed on it: clocks, power, temperature. What it does not say is left out, never a failure."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

State = dict[str, str | float | list[str]]
"""Names with their units; megahertz, watts and degrees as numbers."""
THROTTLE_REASONS = {
    0x1: "idle",
    0x2: "applications clocks setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks setting",
}
"""Why a GPU's clock is not higher, by the bit that NVML gives it (``nvmlClocksEventReason…``)."""


def throttle_reasons(bits: int) -> list[str]:
    """The names of the ``bits``; one without a name in hexadecimal."""
    known = [name for bit, name in THROTTLE_REASONS.items() if bits & bit]
    unknown = bits & ~sum(THROTTLE_REASONS)
    return [*known, *([hex(unknown)] if unknown else [])]


class Nvml:
    """A GPU as NVML tells of it, by the package nvidia-ml-py (extra ``[gpu]``). Raises whatever that raises where there is no NVML."""

    def __init__(self, uuid: str) -> None:
        with warnings.catch_warnings(
            action="ignore"
        ):  # an older package of the same name says that it is deprecated
            self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)

    def sm_mhz(self) -> float | None:
        """Clock of the multiprocessors now."""
        return _number(
            lambda: self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM)
        )

    def default_sm_mhz(self) -> float | None:
        """The clock that the device has under load where nobody sets another."""
        nvml = self._nvml
        return _number(
            lambda: nvml.nvmlDeviceGetDefaultApplicationsClock(self._handle, nvml.NVML_CLOCK_SM)
        )

    def state(self) -> State:
        nvml, handle = self._nvml, self._handle
        numbers = {
            "sm_mhz": self.sm_mhz(),
            "memory_mhz": _number(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            "max_sm_mhz": _number(
                lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
            ),
            "default_sm_mhz": self.default_sm_mhz(),
            "power_watts": _number(lambda: nvml.nvmlDeviceGetPowerUsage(handle), 1000),
            "power_limit_watts": _number(
                lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle), 1000
            ),
            "temperature_celsius": _number(
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
        }
        state: State = {name: value for name, value in numbers.items() if value is not None}
        with contextlib.suppress(Exception):
            state["driver_version"] = str(nvml.nvmlSystemGetDriverVersion())
        with contextlib.suppress(Exception):
            state["pstate"] = f"P{int(nvml.nvmlDeviceGetPerformanceState(handle))}"
        with contextlib.suppress(Exception):
            state["throttle_reasons"] = throttle_reasons(
                int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
            )
        return state


class NvidiaSmi:
    """The same by the program nvidia-smi, which takes a tenth of a second a question."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid

    def sm_mhz(self) -> float | None:
        return _number(lambda: self._asked("clocks.sm")["clocks.sm"])

    def default_sm_mhz(self) -> float | None:
        name = "clocks.default_applications.graphics"  # which is the multiprocessors' too
        return _number(lambda: self._asked(name)[name])

    def state(self) -> State:
        said: dict[str, str] = {}
        for query in _QUERIES:
            said |= self._asked(query)
        state: State = {name: said[name] for name in ("driver_version", "pstate") if name in said}
        for name, field in _NUMBERS.items():
            value = _number(lambda field=field: said[field])  # type: ignore[misc]
            if value is not None:
                state[name] = value
        for field in _REASONS:
            with contextlib.suppress(KeyError, ValueError):
                state["throttle_reasons"] = throttle_reasons(int(said[field], 16))
        return state

    def _asked(self, query: str) -> dict[str, str]:
        """The fields of ``query``; none where nvidia-smi is missing or does not know them all."""
        try:
            answer = subprocess.run(
                [
                    "nvidia-smi",
                    f"--id={self._uuid}",
                    f"--query-gpu={query}",
                    "--format=csv,noheader,nounits",
                ],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError, ValueError):
            return {}
        return dict(
            zip(query.split(","), (cell.strip() for cell in answer.stdout.split(",")), strict=False)
        )


_NUMBERS = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "max_sm_mhz": "clocks.max.sm",
    "default_sm_mhz": "clocks.default_applications.graphics",
    "power_watts": "power.draw",
    "power_limit_watts": "power.limit",
    "temperature_celsius": "temperature.gpu",
}
_REASONS = ("clocks_throttle_reasons.active", "clocks_event_reasons.active")
"""The older name and the newer."""
_QUERIES = (
    "driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu",
    "power.draw,power.limit",
    "clocks.default_applications.graphics",
    *_REASONS,  # a name that is not known spoils the question that it is in
)


def gpu_of(uuid: str) -> Nvml | NvidiaSmi:
    """Whichever of the two answers."""
    with contextlib.suppress(Exception):
        return Nvml(uuid)
    return NvidiaSmi(uuid)


def cpu_state() -> dict[str, Any]:
    """Clocks of the cores in megahertz, who governs them, and the load."""
    state: dict[str, Any] = {"clock_mhz": _cpu_mhz()}
    for name, path in (
        ("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ("load", "/proc/loadavg"),
    ):
        with contextlib.suppress(OSError):
            state[name] = Path(path).read_text().strip()
    return state


def cpu_cache_bytes() -> int:
    """Size of the last-level cache; 32 MB where the system does not say."""
    sizes = [
        _cache_size(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 << 20)


def _number(ask: Callable[[], Any], unit: float = 1) -> float | None:
    """The answer as a number in ``unit``; ``None`` for an error and for words."""
    with contextlib.suppress(Exception):
        return float(ask()) / unit
    return None


def _cache_size(path: Path) -> int:
    units: Mapping[str, int] = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    try:
        text = path.read_text().strip()
        return int(text[:-1]) * units[text[-1]]
    except (OSError, ValueError, KeyError, IndexError):
        return 0


def _cpu_mhz() -> list[float]:
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return []
