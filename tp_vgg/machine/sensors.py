"""Sensors report clocks, power and temperature of a machine while models are timed on it.

A value that the machine does not report is left out; that is never a failure.
"""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

State = dict[str, str | float | list[str]]
"""Sensor values by name; MHz, watts and degrees Celsius are numbers, with the unit in the name."""
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
"""Reasons why a GPU's clock is not higher, by their bit in NVML (``nvmlClocksEventReason…``)."""


def throttle_reasons(bits: int) -> list[str]:
    """Return the names of the set ``bits``; those without a name are one hexadecimal number."""
    known = [name for bit, name in THROTTLE_REASONS.items() if bits & bit]
    unknown = bits & ~sum(THROTTLE_REASONS)
    return [*known, *([hex(unknown)] if unknown else [])]


class Nvml:
    """An Nvml reads the sensors of a GPU through NVML.

    It needs the package nvidia-ml-py (extra ``[gpu]``). Its constructor raises whatever that
    package raises if there is no NVML.
    """

    def __init__(self, uuid: str) -> None:
        # An older package of the same name warns that it is deprecated.
        with warnings.catch_warnings(action="ignore"):
            self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)

    def sm_mhz(self) -> float | None:
        """Return the clock of the multiprocessors now, in MHz; None if NVML does not report it."""
        return _number(
            lambda: self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM)
        )

    def default_sm_mhz(self) -> float | None:
        """Return the clock under load if nobody sets another, in MHz; None if not reported."""
        nvml = self._nvml
        return _number(
            lambda: nvml.nvmlDeviceGetDefaultApplicationsClock(self._handle, nvml.NVML_CLOCK_SM)
        )

    def state(self) -> State:
        """Return all values that are reported, with the driver version and the throttle reasons."""
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
    """An NvidiaSmi reads the sensors of a GPU by the program nvidia-smi, at 0.1 s per query."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid

    def sm_mhz(self) -> float | None:
        """Return the clock of the multiprocessors now, in MHz; None if it is not reported."""
        return _number(lambda: self._query("clocks.sm")["clocks.sm"])

    def default_sm_mhz(self) -> float | None:
        """Return the clock under load if nobody sets another, in MHz; None if not reported."""
        name = "clocks.default_applications.graphics"  # the multiprocessors have this clock too
        return _number(lambda: self._query(name)[name])

    def state(self) -> State:
        """Return all values that are reported, with the driver version and the throttle reasons."""
        answers: dict[str, str] = {}
        for fields in _QUERIES:
            answers |= self._query(fields)
        state: State = {
            name: answers[name] for name in ("driver_version", "pstate") if name in answers
        }
        for name, field in _NUMBERS.items():
            value = _number(lambda field=field: answers[field])  # type: ignore[misc]
            if value is not None:
                state[name] = value
        for field in _REASONS:
            with contextlib.suppress(KeyError, ValueError):
                state["throttle_reasons"] = throttle_reasons(int(answers[field], 16))
        return state

    def _query(self, fields: str) -> dict[str, str]:
        """Return the values of ``fields``; none if nvidia-smi is missing or does not know them all.

        ``fields`` holds field names separated by commas.
        """
        try:
            answer = subprocess.run(
                [
                    "nvidia-smi",
                    f"--id={self._uuid}",
                    f"--query-gpu={fields}",
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
            zip(
                fields.split(","),
                (value.strip() for value in answer.stdout.split(",")),
                strict=False,
            )
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
"""Fields of the throttle reasons, by their older and their newer name."""
_QUERIES = (
    "driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu",
    "power.draw,power.limit",
    "clocks.default_applications.graphics",
    *_REASONS,  # each is a query of its own: one unknown name makes a whole query fail
)


def gpu_of(uuid: str) -> Nvml | NvidiaSmi:
    """Return the GPU's sensors through NVML if that is available, else through nvidia-smi."""
    with contextlib.suppress(Exception):
        return Nvml(uuid)
    return NvidiaSmi(uuid)


def cpu_state() -> dict[str, Any]:
    """Return the clocks of the cores (MHz), the frequency governor and the load averages."""
    state: dict[str, Any] = {"clock_mhz": _cpu_mhz()}
    for name, path in (
        ("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ("load", "/proc/loadavg"),
    ):
        with contextlib.suppress(OSError):
            state[name] = Path(path).read_text().strip()
    return state


def cpu_cache_bytes() -> int:
    """Return the size of the last-level cache in bytes; 32 MiB if the system does not list one."""
    sizes = [
        _cache_size(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 << 20)


def _number(read: Callable[[], Any], divisor: float = 1) -> float | None:
    """Return what ``read`` returns, divided by ``divisor``; None after an error or if no number."""
    with contextlib.suppress(Exception):
        return float(read()) / divisor
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
