"""This step times training steps: those of tp_vgg's `fit`, and a bare step on one batch.

The bare step is forward, backward and the optimiser, without augmentation, teacher, learning-rate
schedule or bookkeeping. It is the limit that `fit` could come near. On CUDA it is timed once more
as one CUDA graph, to see the time without the launches of kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from sweep_sides import now
from torch.nn import functional as F

from gpu.common import (
    DEVICE,
    SETTING,
    TINY,
    attempt,
    dense_model,
    finish,
    images,
    left,
    timing_device,
)
from tp_vgg.data.datasets import DataSet
from tp_vgg.machine.precision import exact_fp32, pick_precision
from tp_vgg.network.vgg.fold import fold_batch_norm
from tp_vgg.network.vgg.model import build
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.trainer import fit

BATCHES = (32,) if TINY else (128, 256, 512, 1024)
STEPS = 2 if TINY else 50
EPOCH = 45_000
"""Images of the epoch for which a bare step's seconds per epoch are computed."""
PRECISION = pick_precision("auto", DEVICE)
BF16 = torch.bfloat16 == PRECISION


def fitted(data: DataSet, batch: int, teacher: bool) -> dict[str, Any]:
    """Train two epochs by `fit` and return the seconds of the second; the first one warms up.

    With ``teacher``, the dense model teaches by distillation. The seconds are those of the history.
    """
    torch.manual_seed(0)
    dense = dense_model()
    recipe = Recipe(epochs=2, lr=0.02, batch_size=batch, distill_weight=0.5 if teacher else 0.0)
    setup = TrainingSetup(
        data,
        recipe,
        data.normalisation,
        PRECISION,
        teacher=fold_batch_norm(dense) if teacher else None,
    )
    history = fit(build(dense.spec), setup, quiet=True)
    seconds, steps = history[-1].seconds, -(-len(data.train) // batch)
    return {
        "images": len(data.train),
        "first_epoch": history[0].seconds,
        "seconds_an_epoch": seconds,
        "ms_a_step": 1e3 * seconds / steps,
    }


def bare_step(batch: int) -> Callable[[], None]:
    """Return a function that does one training step of the dense network on one batch.

    It copies nothing from the host, and does not wait for the device.
    """
    torch.manual_seed(0)
    model: Any = build(dense_model().spec).train().to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True, fused=True)
    inputs = torch.randn(batch, 3, 32, 32, device=DEVICE).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.zeros(batch, dtype=torch.int64, device=DEVICE)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=BF16, cache_enabled=False):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def timed(batch: int, make: Callable[[], Callable[[], object]]) -> dict[str, Any]:
    """Return the mean time of a step over :data:`STEPS` of them, in milliseconds and per epoch.

    ``make`` returns the step; it is called within the same arithmetic settings.
    """
    with exact_fp32():
        step = make()
        for _ in range(max(STEPS // 5, 1)):
            step()
        start = now(DEVICE)
        for _ in range(STEPS):
            step()
        seconds = (now(DEVICE) - start) / STEPS
    return {
        "images": EPOCH,
        "ms_a_step": 1e3 * seconds,
        "seconds_an_epoch": seconds * -(-EPOCH // batch),
    }


def graphed_step(batch: int) -> Callable[[], object]:
    """Return the bare step as one CUDA graph."""
    cuda = timing_device().cuda
    assert cuda is not None
    return cuda.capture(bare_step(batch))


def longest_kernels(batch: int, count: int = 12) -> dict[str, Any]:
    """Return the ``count`` longest kernels of a bare step and the sum of all kernels.

    Times are in microseconds per step.
    """
    step = bare_step(batch)
    with exact_fp32(), warnings.catch_warnings(action="ignore"):
        for _ in range(5):
            step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(STEPS):
                step()
            torch.cuda.synchronize(DEVICE)
    kernels = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return {
        "batch": batch,
        "all_us": sum(event.self_device_time_total for event in kernels) / STEPS,
        "longest_us": {
            event.key[:90]: event.self_device_time_total / STEPS for event in kernels[:count]
        },
    }


def main() -> None:
    """Time `fit`, the bare step, and at last the graphs.

    A capture that fails can leave the device unusable, so the graphs come last.
    """
    data = images((SETTING.limits[0], 40 if TINY else 500, 1))
    for batch in BATCHES:
        for teacher in (False, True):
            _try(
                f"fit{', with a teacher' if teacher else ''}",
                batch,
                partial(fitted, data, batch, teacher),
            )
    for batch in BATCHES:
        _try("bare step", batch, partial(timed, batch, partial(bare_step, batch)))
    for batch in BATCHES if DEVICE.type == "cuda" else ():
        _try(
            "bare step, one CUDA graph", batch, partial(timed, batch, partial(graphed_step, batch))
        )

    # At the very end: everything that is timed after a profiler was attached is slower.
    if DEVICE.type == "cuda" and left() > 4:
        attempt("kernels", "of a bare step, batch 512", partial(longest_kernels, 512))


def _try(variant: str, batch: int, job: Callable[[], dict[str, Any]]) -> None:
    """Record the times of a variant at a batch size, if there is time left."""
    if left() > 4:
        attempt(
            "step time",
            f"{variant}, batch {batch}",
            lambda: {"variant": variant, "batch": batch, **job()},
        )


if __name__ == "__main__":
    main()
    finish()
