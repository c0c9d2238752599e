"""The steps of a round share these helpers: results, data, dense model and timing device."""

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
"""Names of the measurements that failed in this step."""
THIN = VGGSpec((16, 16, 32, 32, 48, 48, 48, 48), hidden=())
"""The network of a dry run."""


def left() -> float:
    """Return the seconds that this step still has; negative after its time box."""
    return float(os.environ[DEADLINE]) - time.time()


def record(kind: str, **data: Any) -> None:
    """Append one line of the given kind to the round's results.jsonl."""
    append(SETTING.out, kind, **data)


def say(*words: object) -> None:
    """Print and flush, so that nothing is lost if the step is stopped."""
    print(*words, flush=True)


def attempt(kind: str, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Call ``do`` and record its result, or its error, under ``kind`` and ``name``.

    Returns the result, or ``None`` if ``do`` failed. A failure is added to :data:`FAILED`, and the
    step goes on.
    """
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
    """Exit with status 3 if a measurement failed, so that the summary shows it."""
    if FAILED:
        say(f"failed: {', '.join(FAILED)}")
        sys.exit(3)


def timing_device() -> TimingDevice:
    """Return the device to time on, set up as `benchmark` does.

    In a dry run on a CPU its samples last a millisecond.
    """
    device = TimingDevice.of(DEVICE)
    if TINY and device.cuda is None:
        clock = CpuClock(device.threads, 1e-3)
        return replace(device, clock=clock, quick=clock)
    return device


def images(limits: tuple[int | None, int | None, int | None] = SETTING.limits) -> DataSet:
    """Load the data set of the round to its device.

    ``limits``: the most images of train, val and test; ``None`` for all.
    """
    return load_data(SETTING.dataset, SETTING.images, DEVICE, limits=limits, quiet=True)


def dense_model() -> VGG:
    """Load the dense model, in eval mode, on the CPU."""
    return load(SETTING.dense).eval()


def make_thin_model() -> None:
    """Make and save the thin network of a dry run, unless it exists or another one is used."""
    if SETTING.dense.name.startswith("thin-") and not SETTING.dense.is_file():
        torch.manual_seed(0)
        model = build(THIN)
        # Without class names, so that it fits any ten classes.
        model.meta = {"mean": [0.5] * 3, "std": [0.25] * 3}
        save(model, SETTING.dense)
