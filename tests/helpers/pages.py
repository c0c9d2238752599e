"""Made-up findings for a report, with any numbers and texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.hits import pack_hits
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.profile import Staircase, Timed
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import removals
from tp_vgg.report import figures, sweep_figures
from tp_vgg.report.page import Drawn, Findings
from tp_vgg.sensitivity.table import LEVELS, Point, Sensitivity
from tp_vgg.training.history import Epoch

N = 200


def record(spec: VGGSpec, correct: int, **changed: Any) -> ModelRecord:
    hits = np.arange(N) < correct
    found = Accuracy.of(correct, N)
    known: dict[str, Any] = {
        "checkpoint": "dense.pth", "sha256": "ab" * 32, "baseline": None, "key": "", "val": found,
        "test": found, "params": spec.params(), "nonzero": spec.params(), "macs": spec.macs(),
        "bytes": 4 * spec.params(), "spec": spec.to_dict(), "sparsity": {},
        "data": {"dataset": "digits", "fingerprint": "cd" * 32, "train": 1, "val": N, "test": N},
        "environment": {"device": "cpu", "cpu": "a CPU", "threads": 2, "cuda": None},
        "peak_bytes": 1, "hits": pack_hits(hits), "command": "python -m tp_vgg train",
    }  # fmt: skip
    return ModelRecord(**{**known, **changed})


def sweep(
    spec: VGGSpec, kind: Kind = "structured", layers: tuple[str, ...] | None = None, seed: int = 0
) -> Sensitivity:
    """A sweep whose counts fall with the level, at a different rate per layer."""
    rng = np.random.default_rng(seed)
    base = Accuracy.of(190, N)
    points = []
    for layer, removed in removals(kind, spec, LEVELS, layers).items():
        rate = rng.uniform(0.1, 1)
        for level, count in zip(LEVELS, removed, strict=True):
            right = round(190 - 170 * rate * level**2)
            lost, gained = 190 - right, 0
            found = Accuracy.of(right, N)
            points.append(
                Point(
                    layer,
                    level,
                    count,
                    **vars(found),
                    drop=100 * (lost - gained) / N,
                    drop_low=0,
                    drop_high=100,
                    redone=0,
                )
            )
    return Sensitivity("ef" * 32, kind, "l1", "fp32", spec.to_dict(), base, tuple(points))


def profile(spec: VGGSpec, seed: int = 0) -> Staircase:
    rng = np.random.default_rng(seed)
    points = []
    for row in spec.rows:
        if row.kind == "conv":
            ins = (
                (3,) if row.in_width == 3 else (row.in_width // 4, row.in_width // 2, row.in_width)
            )
            outs = (row.out_width // 4, row.out_width // 2, row.out_width)
            points += [
                Timed(row.name, i, o, float(i * o * rng.uniform(0.8, 1.2)), 0.0)
                for i in ins
                for o in outs
            ]
    place = {"device": "cpu"}
    return Staircase("00" * 32, spec.to_dict(), "fp32", 64, place, tuple(points))


def latency(names: tuple[str, ...], reason: str = "a reason") -> Latency:
    """One measured case and one that the device lacks; the last model is faster."""
    numbers = {
        "median_ms": 2.0, "iqr_ms": 0.1, "speedup": 1.5, "speedup_low": 1.4, "speedup_high": 1.6,
        "over_eager": 1.5, "mac_ratio": 2.0, "efficiency": 0.75, "efficiency_low": 0.7,
        "efficiency_high": 0.8, "seconds": (0.002,) * 9,
    }  # fmt: skip
    rows = [
        LatencyRow(
            name,
            "eager",
            "fp32",
            64,
            "faster" if place else "reference",
            (reason,) if place else (),
            **numbers,
        )
        for place, name in enumerate(names)
    ]
    rows += [LatencyRow(name, "graph", "fp32", 64, "not available", (reason,)) for name in names]
    about = {name: {"timed_as": names[1]} if place > 1 else {} for place, name in enumerate(names)}
    return Latency(names[0], about, {"device": "cpu", "cpu": reason, "threads": 2}, {}, tuple(rows))


def findings(spec: VGGSpec, *, profiled: bool = True, **changed: Any) -> Findings:
    """The findings of a run directory, for ``spec`` and a plan with half of its MACs."""
    table = sweep(spec, layers=tuple(spec.prunable))
    plan = make_plan(table, {"macs": 0.5}, round_to=1 if max(spec.widths) < 64 else 8)
    small = spec.with_widths({row.layer: row.after for row in plan.layers})
    records = {
        "baseline": record(spec, 190),
        "structured_finetuned": record(small, 188, baseline="ab" * 32, checkpoint="small.pth"),
    }
    epochs = (Epoch(1, 0.1, 2.0, 20.0, 30.0, 1.0), Epoch(2, 0.0, 1.0, 80.0, 90.0, 1.0))
    drawn = (
        Drawn.of(
            "sweep", "Structured sensitivity", "How to read it.", sweep_figures.sensitivity(table)
        ),
        Drawn.of(
            "training", "Training curves", "How to read it.", figures.history({"baseline": epochs})
        ),
    )
    timed = latency(tuple(records))
    found = Findings(
        records, {"structured": table}, {"structured": plan}, timed,
        {row.model: row for row in timed.rows if row.speedup}, profile(spec) if profiled else None,
        ("a plan's line",), drawn,
        "python -m tp_vgg structured --ratios ratios.json --dataset digits --tag mine",
        ("python -m tp_vgg run --dataset digits",),
    )  # fmt: skip
    return replace(found, **changed)
