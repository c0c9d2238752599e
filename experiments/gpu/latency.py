"""This step times one group of the latency table: `python -m gpu.latency GROUP`.

GROUP is bf16, fp32 or compile. Each case is on the disk as soon as it is measured. The group warm
times nothing; it fills the compiler's caches for the group compile.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from latency import narrowed

from gpu.common import SETTING, TINY, attempt, dense_model, finish, record, say, timing_device
from tp_vgg.latency.benchmark import measure
from tp_vgg.latency.modes import input_pool, prepare
from tp_vgg.latency.schedule import BenchmarkSettings, arithmetic
from tp_vgg.latency.table import FEWEST_TRIALS, BenchmarkCase, Latency, LatencyRow, cases_of
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.ratios import Plan, read_ratios
from tp_vgg.pruning.unstructured import prune_unstructured
from tp_vgg.report.latency_tables import render_benchmark

SIMPLE = ("eager", "folded", "graph", "folded-graph")
"""The modes that need no compilation."""
SIZES = (1, 2) if TINY else (64, 1024, 1)
"""Batch sizes, the most important first."""
PLAN = Path(SETTING.root) / "examples" / "half_macs.json"
"""A plan that keeps half of the MACs, in widths that are multiples of 16."""
FEW = ("uniform 50 %", PLAN.name)
"""The models that the group compile times beside the dense one."""
PROBED = "fp32" if TINY else "bf16"
"""The group in which slightly smaller widths are timed too.

In the other groups that would take the time of their cases."""
COMPILED = cases_of(("compile",), ("bf16", "fp32"), (64, 1024, 1))
"""The cases of the group compile.

A dry run times one case in eager mode instead: the compiler takes half a minute on a CPU."""


def models_of(names: tuple[str, ...] | None = None) -> dict[str, VGG]:
    """Make the networks to time, by name, the dense one first.

    They are those of experiments/latency.py, and one whose widths are multiples of 16. ``names``:
    the pruned ones to make; all if ``None``.
    """
    dense = dense_model()
    convs = dense.spec.conv_names
    plans = {f"uniform {p} %": Plan.uniform(p / 100, convs, "--ratio") for p in (30, 50, 70)}
    plans[PLAN.name] = read_ratios(PLAN, "structured")
    models = {"dense": dense}
    models |= {
        name: narrowed(dense, plan)
        for name, plan in plans.items()
        if names is None or name in names
    }
    if names is None:
        models["uniform 70 %, multiples of 16"] = narrowed(dense, plans["uniform 70 %"], 16)
        models["95% zeros"] = copy.deepcopy(dense)
        prune_unstructured(models["95% zeros"], 0.95, scope="global")
    return models


def group_of(name: str) -> tuple[tuple[BenchmarkCase, ...], dict[str, VGG]]:
    """Return the cases of a group, the most important first, and its models."""
    if name == "compile":
        return (BenchmarkCase("eager", "fp32", 2),) if TINY else COMPILED, models_of(
            () if TINY else FEW
        )
    return cases_of(SIMPLE, (name,), SIZES), models_of()


def time_group(name: str) -> None:
    """Measure a group and record its rows case by case.

    At the end the whole table is recorded, because the reasons are only known then.
    """
    cases, models = group_of(name)
    begun = [time.perf_counter()]

    def case_done(rows: tuple[LatencyRow, ...]) -> None:
        now = time.perf_counter()
        seconds, begun[0] = now - begun[0], now
        record(
            "latency",
            group=name,
            cell=rows[0].case.label,
            wall=round(seconds, 2),
            rows=[asdict(row) for row in rows],
        )
        for row in rows:
            figures = (
                f"{row.median_ms:9.4f} ms  {row.speedup:6.3f}"
                if row.median_ms is not None
                else row.reasons[0]
            )
            say(f"{row.case.label:28} {row.model:16} {figures}  {row.verdict}")

    settings = BenchmarkSettings(cases, FEWEST_TRIALS, probes=name == PROBED)
    table = measure(models, settings, timing_device(), case_done=case_done, quiet=True)
    record_table(name, table)
    say(render_benchmark(table))


def record_table(name: str, table: Latency) -> None:
    """Record a finished table: the rows with their reasons, and the clocks around each case."""
    rows = [asdict(row) for row in table.rows]
    record(
        "latency table",
        group=name,
        conditions=table.conditions,
        environment=table.environment,
        rows=rows,
    )
    text = json.dumps(table.to_dict(), indent=1) + "\n"
    (Path(SETTING.work) / f"latency-{name}.json").write_text(text)


def warm() -> None:
    """Compile all models and cases of the group compile, so that its caches are on the disk."""
    timing = timing_device()
    cases, models = group_of("compile")
    for case in cases:
        for name, model in models.items():

            def compiled(case: BenchmarkCase = case, model: VGG = model) -> dict[str, int]:
                with arithmetic(case), torch.inference_mode():
                    pool = input_pool(model.spec.image_size, case, timing.device, 0)
                    ready = prepare(model, case, pool, timing.cuda, timing.threads)
                    return {"held": ready.resident_bytes}

            attempt("compiled", f"{case.label}, {name}", compiled)
        torch.compiler.reset()


if __name__ == "__main__":
    if sys.argv[1] == "warm":
        warm()
    else:
        time_group(sys.argv[1])
    finish()
