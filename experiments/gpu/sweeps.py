"""This step times both sweeps on the test images in each precision, and the notebook's loop.

The loop is that of experiments/sweep_sides.py: for each point a deep copy, a new dependency graph
or mask, and the whole network in contiguous fp32 over batches of 128. It is timed on some of the
points, once from a DataLoader on the host, and once from batches that are on the device already,
which favours it. Counts are compared with those of the sweep in fp32. The time of the command line
is measured by the round itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from sweep_sides import naive_correct, naive_point, now
from torch.utils.data import DataLoader, TensorDataset

from gpu.common import DEVICE, SETTING, TINY, attempt, dense_model, finish, images, left, record
from tp_vgg.data.split import Normalisation, Split
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.criteria import Kind
from tp_vgg.sensitivity.sweep import sweep
from tp_vgg.sensitivity.table import LEVELS, Sensitivity

KINDS: tuple[Kind, ...] = ("structured", "unstructured")
WANTED = ("fp32", "screened")
"""The precisions that are swept before the loop is timed.

fp32 comes first: the counts of the others are compared with it."""
ORDER = (0.3,) if TINY else (0.5, 0.9, 0.2, 0.7)
"""Levels at which the loop is timed, in this order, each for all layers.

So the points that the time allows cover the layers evenly."""
LEVELS_SWEPT = (0.3, 0.9) if TINY else LEVELS
"""Levels of the sweeps."""
T = TypeVar("T")
RESERVED = {"structured": 12, "unstructured": 6}
"""The loop of a kind ends if the step has fewer seconds left.

The first kind leaves time for the second."""
Tables = dict[tuple[str, str], Sensitivity]
"""The table of each sweep, by kind and precision."""


def timed(do: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Call ``do`` and return its wall time in seconds, device included, and its result."""
    start = now(DEVICE)
    result = do(*arguments)
    return now(DEVICE) - start, result


def swept(model: VGG, split: Split, kind: Kind, precision: str, tables: Tables) -> dict[str, Any]:
    """Sweep twice, store the table in ``tables`` and return the times and differences.

    The first pass (``cold``) chooses kernels and allocates memory; the second one is warm.
    ``largest_difference`` is in images, to the correct-counts of the sweep in fp32.
    """
    once = partial(sweep, model, split, kind, levels=LEVELS_SWEPT, precision=precision)
    cold, _ = timed(once)
    warm, tables[kind, precision] = timed(once)
    points = tables[kind, precision].points
    data: dict[str, Any] = {
        "sweep_kind": kind,
        "precision": precision,
        "images": len(split),
        "points": len(points),
        "cold": cold,
        "warm": warm,
        "redone": sum(p.redone for p in points) / sum(p.n for p in points),
    }
    exact = tables.get((kind, "fp32"))
    if exact is not None and precision != "fp32":
        apart = [abs(a.correct - b.correct) for a, b in zip(points, exact.points, strict=True)]
        data |= {"largest_difference": max(apart), "points_that_differ": sum(map(bool, apart))}
    return data


def naive(model: VGG, split: Split, kind: Kind, exact: Sensitivity) -> dict[str, Any]:
    """Time the notebook's loop on as many points as the time allows.

    ``exact``: the sweep in fp32, whose correct-counts are compared. ``whole`` in the result is the
    time in seconds of all points, extrapolated from the mean of those timed.
    """
    pixels, labels = Normalisation.of(model.meta)(split.images).contiguous(), split.labels
    host = DataLoader(TensorDataset(pixels.cpu(), labels.cpu()), 128)
    near = list(zip(pixels.split(128), labels.split(128), strict=True))
    by_place = {(point.layer, point.ratio): point for point in exact.points}
    order = [by_place[layer, level] for level in ORDER for layer in exact.layers]
    seconds: dict[str, float] = {"prune": 0.0, "on the device": 0.0, "host loader": 0.0}
    apart: list[int] = []
    with exact_fp32():
        naive_correct(model, near[:4], DEVICE)
        for point in order:
            if left() < RESERVED[kind] or (len(apart) >= 2 * len(exact.layers) and left() < 25):
                break
            pruning, pruned = timed(
                naive_point, model, kind, point.layer, point.ratio, point.removed
            )
            resident, count = timed(naive_correct, pruned, near, DEVICE)
            loading, _ = timed(naive_correct, pruned, host, DEVICE)
            for name, value in (
                ("prune", pruning),
                ("on the device", resident),
                ("host loader", loading),
            ):
                seconds[name] += value
            apart.append(abs(count - point.correct))
    mean = {name: value / max(len(apart), 1) for name, value in seconds.items()}
    whole = {
        name: len(exact.points) * (mean["prune"] + mean[name])
        for name in ("on the device", "host loader")
    }
    return {
        "sweep_kind": kind,
        "timed": len(apart),
        "points": len(exact.points),
        "mean_seconds": mean,
        "whole": whole if apart else {},
        "largest_difference": max(apart, default=0),
        "points_that_differ": sum(map(bool, apart)),
    }


def main() -> None:
    """Sweep in fp32 and screened, time the loop, and sweep in bf16 if there is time left."""
    model, split = dense_model().to(DEVICE), images((1, 1, SETTING.limits[2])).test
    tables: Tables = {}
    for precision in WANTED:
        sweep_both(model, split, precision, tables)
    for kind in KINDS:
        exact = tables.get((kind, "fp32"))
        if exact is not None:
            attempt("naive", kind, partial(naive, model, split, kind, exact))
    sweep_both(model, split, "bf16", tables)


def sweep_both(model: VGG, split: Split, precision: str, tables: Tables) -> None:
    """Sweep both kinds in one precision, if there is time, and record the correct-counts."""
    for kind in KINDS:
        if left() > 5:
            attempt(
                "sweep",
                f"{kind} {precision}",
                partial(swept, model, split, kind, precision, tables),
            )
        if (kind, precision) in tables:
            counts = [point.correct for point in tables[kind, precision].points]
            record("sweep counts", name=f"{kind} {precision}", counts=counts)


if __name__ == "__main__":
    main()
    finish()
