"""What the steps of a round share: their results, the data, the dense model, and the device to time on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from gpu.setting import DEADLINE, Setting
from gpu.setting import record as append
from tp_vgg.data.datasets import DataSet, load_data
from tp_vgg.latency.clock import CpuClock
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.machine.device import pick_device
from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.network.vgg.spec import VGGSpec

SETTING = Setting.here()
TINY = SETTING.tiny
DEVICE = pick_device(SETTING.device)
FAILED: list[str] = []
"""Names of what failed in this step."""
THIN = VGGSpec((16, 16, 32, 32, 48, 48, 48, 48), hidden=())
"""The network of a dry run."""


def left() -> float:
    """Seconds that this step still has."""
    return float(os.environ[DEADLINE]) - time.time()


def record(kind: str, **data: Any) -> None:
    """Append one line to the round's results."""
    append(SETTING.out, kind, **data)


def say(*words: object) -> None:
    """Print at once, so that a step that is stopped has said what it knows."""
    print(*words, flush=True)


def attempt(kind: str, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Record the result or the error of ``do()``; a failure loses nothing else, and the step goes on."""
    begun = time.perf_counter()
    try:
        data = do()
    except Exception as error:  # noqa: BLE001
        FAILED.append(name)
        record(kind, name=name, error=f"{type(error).__name__}: {str(error)[:300]}")
        say(f"{name}: FAILED {type(error).__name__}: {str(error)[:160]}")
        return None
    seconds = time.perf_counter() - begun
    record(kind, name=name, wall=round(seconds, 3), **data)
    say(f"{name}: {data} ({seconds:.2f} s)")
    return data


def finish() -> None:
    """Exit with status 3 if anything failed, so that the summary shows it."""
    if FAILED:
        say(f"failed: {', '.join(FAILED)}")
        sys.exit(3)


def bench() -> TimingDevice:
    """The product's bench of this device; a dry run's has samples of a millisecond."""
    timing = TimingDevice.of(DEVICE)
    if TINY and timing.cuda is None:
        clock = CpuClock(timing.threads, 1e-3)
        return replace(timing, clock=clock, quick=clock)
    return timing


def images(limits: tuple[int | None, int | None, int | None] = SETTING.limits) -> DataSet:
    """The data set of the round, on its device."""
    return load_data(SETTING.dataset, SETTING.images, DEVICE, limits=limits, quiet=True)


def dense_model() -> VGG:
    """The dense model in eval mode, on the CPU."""
    return load(SETTING.dense).eval()


def make_thin_model() -> None:
    """Save the thin network of a dry run, unless it is there."""
    if SETTING.dense.name.startswith("thin-") and not SETTING.dense.is_file():
        torch.manual_seed(0)
        model = build(THIN)
        model.meta = {
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
        }  # of no class names, so that it fits any ten classes
        save(model, SETTING.dense)
