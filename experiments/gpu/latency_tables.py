"""This module renders the tables of the latency part (no torch)."""

from __future__ import annotations

from typing import Any

from gpu.results import NOT_MEASURED, Results, amount, interval, listing, table
from tp_vgg.latency.table import BATCH_SIZES, MODES

DTYPES = ("fp32", "bf16")
HALF = "half_macs.json"
"""Name of the model with half of the MACs, in multiples of 16."""
CaseKey = tuple[int, str, str]
"""Batch size, mode and dtype of a case."""


def rows_by_case(results: Results) -> dict[CaseKey, dict[str, dict[str, Any]]]:
    """Return the rows of each case, by model; later lines replace earlier ones."""
    by_case: dict[CaseKey, dict[str, dict[str, Any]]] = {}
    for line in sorted(
        results.of("latency") + results.of("latency table"), key=lambda line: line["time"]
    ):
        for row in line["rows"]:
            by_case.setdefault((row["batch_size"], row["mode"], row["dtype"]), {})[row["model"]] = (
                row
            )
    return by_case


def latency(results: Results) -> str:
    """Render one row per batch size, mode, dtype and model.

    The dense model's speed-up is that of a copy of itself: the A/A control. A case that no round
    timed is "not measured".
    """
    by_case = rows_by_case(results)
    sizes = BATCH_SIZES["cuda"]
    wanted = [(batch, mode, dtype) for batch in sizes for mode in MODES for dtype in DTYPES]
    rows: list[list[str]] = []
    for case in sorted({*wanted, *by_case}, key=_order):
        batch, mode, dtype = case
        head = [str(batch), mode, dtype]
        if case not in by_case:
            rows.append([*head, "(all)", *[NOT_MEASURED] * 6])
        elif all(row["median_ms"] is None for row in by_case[case].values()):
            reason = next(iter(by_case[case].values()))["reasons"][0]
            rows.append([*head, "(all)", *["-"] * 5, f"not available: {reason}"])
        else:
            rows += [[*head, *_row(row)] for row in by_case[case].values()]
    header = (
        "batch",
        "mode",
        "dtype",
        "model",
        "ms",
        "speed-up [95 %]",
        "MAC ratio",
        "speed-up ÷ MAC ratio",
        "over eager",
        "verdict",
    )
    return table(header, rows)


def _order(case: CaseKey) -> tuple[int, int, str]:
    batch, mode, dtype = case
    return batch, MODES.index(mode) if mode in MODES else len(MODES), dtype


def _row(row: dict[str, Any]) -> list[str]:
    names = ", ".join(dict.fromkeys(reason.partition(":")[0] for reason in row["reasons"]))
    control = row["verdict"] == "reference"
    return [
        row["model"],
        amount(row["median_ms"], 4),
        interval(row["speedup"], row["speedup_low"], row["speedup_high"], 3)
        + (" (A/A control)" if control else ""),
        amount(row["mac_ratio"], 2),
        "-"
        if control
        else interval(row["efficiency"], row["efficiency_low"], row["efficiency_high"], 2),
        amount(row["over_eager"], 2),
        f"{row['verdict']}: {names}" if names else row["verdict"],
    ]


def half_macs(results: Results) -> str:
    """Render the speed-up of :data:`HALF`, its MAC ratio and their quotient, by mode.

    All at batch size 1024 in bf16.
    """
    by_case = rows_by_case(results)
    rows = []
    for mode in MODES:
        row = by_case.get((1024, mode, "bf16"), {}).get(HALF, {})
        if row.get("efficiency") is None:
            rows.append([mode, *[NOT_MEASURED] * 3])
        else:
            rows.append([mode, *_row(row)[2:5]])
    return table(("mode", "speed-up [95 %]", "MAC ratio", "speed-up ÷ MAC ratio"), rows)


def clocks(results: Results) -> str:
    """List the clocks, power and temperature that the device reported.

    The readings are from before the round and around each case. Blocks that were thrown away
    because of a low clock are counted.
    """
    readings: dict[str, list[str]] = {}
    states = list(results.of("conditions"))
    for line in results.of("latency table"):
        conditions = line["conditions"]
        states += [
            conditions["before"],
            *conditions.get("before_each", {}).values(),
            *conditions["after"].values(),
        ]
    for state in states:
        for name, value in state.items():
            if name not in ("kind", "time", "name"):
                readings.setdefault(name, []).append(str(value))
    rows = [row for models in rows_by_case(results).values() for row in list(models.values())[:1]]
    thrown = [row["slow_blocks"] for row in rows if "slow_blocks" in row]
    slow = (
        {"blocks thrown away because the clock was low": sum(thrown) if thrown else NOT_MEASURED}
        if rows
        else {}
    )
    return listing({**{name: _spread(values) for name, values in readings.items()}, **slow})


def _spread(values: list[str]) -> str:
    """Return all values if they are at most three; else the lowest, the highest and how many."""
    different = sorted(set(values), key=_number)
    if len(different) <= 3:
        return ", ".join(different)
    return f"{different[0]} to {different[-1]} ({len(values)} readings)"


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text.split()[0]), text
    except (ValueError, IndexError):
        return 0.0, text
