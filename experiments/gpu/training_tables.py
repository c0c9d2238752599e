"""This module renders the tables of the part that trains (no torch)."""

from __future__ import annotations

from typing import Any

from gpu.results import NOT_MEASURED, Results, accuracy, amount, table
from gpu.training import SEEDS


def steps(results: Results) -> str:
    """Render the milliseconds per step and seconds per epoch, by variant and batch size."""
    by_variant = {
        (row["variant"], row["batch"]): row for row in results.of("step time") if "ms_a_step" in row
    }
    rows = [
        [
            variant,
            str(batch),
            amount(row["ms_a_step"], 3),
            amount(row["seconds_an_epoch"], 3),
            f"{row['images']:,}",
        ]
        for (variant, batch), row in by_variant.items()
    ]
    return table(("variant", "batch", "ms a step", "seconds an epoch", "images an epoch"), rows)


def dense_models(results: Results) -> str:
    """Render the test accuracy and the seconds per epoch of the dense models.

    There is one row per seed with the default options, then one for each model with others.
    """
    runs = {row["name"]: row for row in results.of("run") if row.get("model") == "baseline"}
    histories = {row["name"]: row for row in results.of("history") if row.get("seconds")}
    others = sorted(name for name in runs if name.startswith("dense, seed ") and "--" in name)
    rows = []
    for name in (*(f"dense, seed {seed}" for seed in SEEDS), *others):
        history = histories.get(name, {})
        seconds = sorted(history.get("seconds", []))
        epoch = seconds[len(seconds) // 2] if seconds else None
        rows.append(
            [
                name.removeprefix("dense, seed "),
                accuracy(runs.get(name, {}).get("test")),
                str(history.get("epochs", NOT_MEASURED)),
                amount(epoch, 2),
            ]
        )
    return table(("seed", "test accuracy, % [95 %]", "epochs", "median seconds an epoch"), rows)


def fine_tuned(results: Results) -> str:
    """Render the pruned networks that were trained on, by budget or sparsity, epochs and arm.

    A later run stands for an earlier one of the same name, epochs, arm and seed.
    """
    runs: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in results.of("run"):
        if "arm" in row:
            runs[row["name"], row["epochs"], f"{row['arm']}, seed {row['seed']}"] = row
        elif row.get("model") == "unstructured":
            runs[row["name"], row["epochs"], "zeros, seed 0"] = row
    rows = [
        [
            name,
            str(count),
            arm,
            amount(_millions(row["macs"]), 2),
            amount(_millions(row.get("nonzero") or row["params"]), 2),
            accuracy(row.get("one_shot")),
            accuracy(row["test"]),
        ]
        for (name, count, arm), row in sorted(runs.items())
    ]
    header = (
        "kept",
        "epochs",
        "arm",
        "MACs, M",
        "parameters that are not zero, M",
        "one-shot, % [95 %]",
        "test accuracy, % [95 %]",
    )
    return table(header, rows)


def _millions(count: float | None) -> float | None:
    return None if count is None else count / 1e6
