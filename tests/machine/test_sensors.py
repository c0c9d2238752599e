from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest
import torch

from tp_vgg.latency.cuda import TorchCuda
from tp_vgg.machine.sensors import (
    NvidiaSmi,
    Nvml,
    cpu_cache_bytes,
    cpu_state,
    gpu_of,
    throttle_reasons,
)

SAID = {
    "driver_version": "580.1", "pstate": "P0", "clocks.sm": "1980", "clocks.mem": "2619",
    "clocks.max.sm": "1980", "temperature.gpu": "41", "power.draw": "312.55",
    "power.limit": "[N/A]", "clocks.default_applications.graphics": "1755",
    "clocks_event_reasons.active": "0x0000000000000024",
}  # fmt: skip
"""Answers of a newer driver, which does not know the older field name of the throttle reasons."""


class NvmlError(Exception):
    pass


def nvml(**changed: Any) -> types.SimpleNamespace:
    """A stand-in for pynvml that reports all values; an exception in ``changed`` is raised."""
    known: dict[str, Any] = {
        "nvmlInit": None, "nvmlDeviceGetHandleByUUID": 7,
        "nvmlDeviceGetClockInfo": lambda _, kind: {1: 1400, 2: 2619}[kind],
        "nvmlDeviceGetDefaultApplicationsClock": 1755,
        "nvmlDeviceGetMaxClockInfo": 1980, "nvmlDeviceGetPowerUsage": 312550,
        "nvmlDeviceGetEnforcedPowerLimit": 700000, "nvmlDeviceGetTemperature": 41,
        "nvmlSystemGetDriverVersion": "580.1", "nvmlDeviceGetPerformanceState": 0,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 4, **changed,
    }  # fmt: skip

    def answer(value: Any) -> Any:
        def ask(*args: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value(*args) if callable(value) else value

        return ask

    calls = {name: answer(value) for name, value in known.items()}
    return types.SimpleNamespace(**calls, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0)


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess:
        fields = command[2].partition("=")[2].split(",")
        if not set(fields) <= set(SAID):
            raise subprocess.CalledProcessError(2, command)
        return subprocess.CompletedProcess(
            command, 0, stdout=", ".join(SAID[name] for name in fields) + "\n"
        )

    monkeypatch.setattr(subprocess, "run", run)


def test_nvml_tells_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    gpu = gpu_of("GPU-1")
    assert isinstance(gpu, Nvml)
    assert (gpu.sm_mhz(), gpu.default_sm_mhz()) == (1400.0, 1755.0)
    assert gpu.state() == {
        "sm_mhz": 1400.0, "memory_mhz": 2619.0, "max_sm_mhz": 1980.0, "default_sm_mhz": 1755.0,
        "power_watts": 312.55, "power_limit_watts": 700.0, "temperature_celsius": 41.0,
        "driver_version": "580.1", "pstate": "P0", "throttle_reasons": ["software power cap"],
    }  # fmt: skip


def test_an_error_of_nvml_is_not_known_and_nothing_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = dict.fromkeys(
        (
            name
            for name in vars(nvml())
            if name.startswith("nvml") and "Handle" not in name and name != "nvmlInit"
        ),
        NvmlError("not supported"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**failing))
    gpu = gpu_of("GPU-1")
    assert isinstance(gpu, Nvml)
    assert (gpu.sm_mhz(), gpu.default_sm_mhz(), gpu.state()) == (None, None, {})


@pytest.mark.usefixtures("smi")
def test_nvidia_smi_stands_in_where_nvml_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in (
        None,
        nvml(nvmlInit=NvmlError("no driver")),
        nvml(nvmlDeviceGetHandleByUUID=NvmlError("a part")),
    ):
        monkeypatch.setitem(sys.modules, "pynvml", package)
        gpu = gpu_of("GPU-1")
        assert isinstance(gpu, NvidiaSmi)
        assert (gpu.sm_mhz(), gpu.default_sm_mhz()) == (1980.0, 1755.0)
        assert gpu.state() == {
            "driver_version": "580.1", "pstate": "P0", "sm_mhz": 1980.0, "memory_mhz": 2619.0,
            "max_sm_mhz": 1980.0, "default_sm_mhz": 1755.0, "power_watts": 312.55,
            "temperature_celsius": 41.0,
            "throttle_reasons": ["software power cap", "software thermal slowdown"],
        }  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        OSError("no such program"),
        subprocess.TimeoutExpired("nvidia-smi", 10),
        "",
        "[N/A]\n",
        "x, y, z\n",
    ],
)
def test_whatever_nvidia_smi_does_is_no_failure(
    answer: Exception | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess:
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, 0, stdout=answer)

    monkeypatch.setattr(subprocess, "run", run)
    gpu = NvidiaSmi("GPU-1")
    assert gpu.sm_mhz() is None and gpu.default_sm_mhz() is None
    assert all(isinstance(value, str) for value in gpu.state().values())


def test_a_device_without_a_default_clock_has_the_one_that_cuda_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NVML does not support default clocks on desktop GPUs."""
    for stated, default in (({"clock_rate": 1_695_000}, 1695.0), ({}, None)):
        monkeypatch.setitem(
            sys.modules, "pynvml", nvml(nvmlDeviceGetDefaultApplicationsClock=NvmlError("no"))
        )
        properties = types.SimpleNamespace(uuid="1", **stated)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=properties: found)
        cuda = TorchCuda(torch.device("cuda"))
        assert cuda.default_sm_mhz() == default and cuda.sm_mhz() == 1400.0
        assert cuda.facts().get("default_sm_mhz") == default and "cudnn" in cuda.facts()


def test_reasons_have_names() -> None:
    assert throttle_reasons(0) == []
    assert throttle_reasons(0x1 | 0x40) == ["idle", "hardware thermal slowdown"]
    assert throttle_reasons(0x8 | 0x2000) == ["hardware slowdown", "0x2000"]


def test_a_cpu_tells_what_it_can() -> None:
    assert cpu_cache_bytes() >= 1 << 18
    assert cpu_state()["load"] and isinstance(cpu_state()["clock_mhz"], list)
