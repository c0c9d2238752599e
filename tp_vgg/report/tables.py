"""This module renders the models of a comparison as text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace

from tp_vgg.errors import printable
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.latency.table import LatencyRow
from tp_vgg.machine.console import wrapped
from tp_vgg.report.text_table import long_names, markdown_table, shortened, text_table
from tp_vgg.rundir.comparison import Comparison, RepairedModel, metrics, repaired_models

TABLE_FORMATS = ("text", "markdown", "json", "csv")
"""Formats in which :func:`render_comparison` can write the table."""


def render_comparison(
    comparison: Comparison, form: str = "text", *, width: int | None = None
) -> str:
    """Render a comparison in one of :data:`TABLE_FORMATS`.

    Every ratio (``0.500×``) is a model's value divided by that of the first model, the baseline.
    Drops are in percentage points against the baseline on the same test images. ``width``: the most
    characters of a line of text, whose table then has the intervals below it; ``None``, and any
    other format, has all columns in one table. In text and Markdown, a table of the repaired models
    follows, the notes on files that tp_vgg did not write, and one line per plan, with its
    prediction and the measured result. JSON is the content of ``metrics.json``.
    """
    if form == "json":
        return json.dumps(metrics(comparison), indent=1, allow_nan=False)
    if form == "csv":
        return _csv(comparison)
    width = None if form == "markdown" else width
    if width is None:
        draw = markdown_table if form == "markdown" else text_table
        parts = [draw(*_all_columns(comparison))]
        if repaired := repaired_models(comparison.records):
            parts += [draw(*_repairs(repaired, intervals=True)), printable(_methods(repaired))]
    else:
        parts = _in_parts(comparison, width)
    notes = [
        printable(f"{name}: {note}")
        for name, record in comparison.records.items()
        for note in (record.notes if record.file_bytes is not None else ())
    ]
    notes += map(printable, comparison.finetuning())
    notes += [one.line() for one in comparison.plan_outcomes]
    return "\n\n".join([*parts, *(wrapped(note, width) for note in notes)])


def _all_columns(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the whole table."""
    base = next(iter(comparison.records.values()))
    quoted = comparison.quoted()
    header = [
        "model",
        f"test accuracy [95 %], n = {base.test.n}",
        "drop [95 %]",
        "params",
        "non-zero",
        "MACs",
        "file",
    ]
    if quoted:
        header.append(f"speed-up [95 %], {next(iter(quoted.values())).case.label}")
    rows = [
        [
            name,
            f"{r.test.accuracy:.2f} % [{r.test.low:.2f}, {r.test.high:.2f}]",
            "" if r is base else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*r.drop_against(base)),
            _with_ratio(r.params, base.params, 1e6, " M"),
            _with_ratio(r.nonzero, base.nonzero, 1e6, " M"),
            _with_ratio(r.macs, base.macs, 1e6, " M"),
            _with_ratio(r.bytes, base.bytes, 1e6, " MB"),
            *([_speedup(quoted.get(name))] if quoted else []),
        ]
        for name, r in comparison.records.items()
    ]
    return header, rows


def _in_parts(comparison: Comparison, width: int) -> list[str]:
    """Return a table of the values, a table of their intervals, and what the columns are."""
    base = next(iter(comparison.records.values()))
    quoted = comparison.quoted()
    names = shortened(comparison.records)
    zeros = any(record.has_zeros for record in comparison.records.values())
    header = ["model", "accuracy", "drop", "params", *(["non-zero"] if zeros else []), "MACs"]
    rows, intervals = [], []
    for name, r in comparison.records.items():
        drop, low, high = r.drop_against(base)
        row = quoted.get(name)
        rows.append(
            [
                names[name],
                f"{r.test.accuracy:.2f} %",
                "" if r is base else f"{drop:+.2f}",
                f"{r.params / base.params:.3f}×",
                *([f"{r.nonzero / base.nonzero:.3f}×"] if zeros else []),
                f"{r.macs / base.macs:.3f}×",
                *([_short_speedup(row)] if quoted else []),
            ]
        )
        timed = "" if row is None else f"[{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
        intervals.append(
            [
                names[name],
                f"[{r.test.low:.2f}, {r.test.high:.2f}]",
                "" if r is base else f"[{low:+.2f}, {high:+.2f}]",
                *([timed] if quoted else []),
            ]
        )
    speedup = ["speed-up"] if quoted else []
    repaired = [
        replace(model, name=names.get(model.name, model.name))
        for model in repaired_models(comparison.records)
    ]
    repairs = [text_table(*_repairs(repaired), width)] if repaired else []
    legend = (
        f"Accuracy is on {base.test.n:,} test images, a drop in percentage points;"
        f" × is the model's value divided by that of {names[next(iter(names))]}."
    )
    if any(record.guesses for record in comparison.records.values()) or any(
        accuracy.chance_warnings(base.chance)
        for model in repaired
        for accuracy in (model.repair.removed, model.repair.repaired)
    ):
        legend += f" Chance is {base.chance:.3g} %."
    if quoted:
        case = next(iter(quoted.values())).case.label
        legend += f" Speed-up: {case}; A/A is a copy of the dense model, timed against it."
    sizes = f"{base.params / 1e6:.2f} M parameters and {base.macs / 1e6:.2f} M MACs"
    legend += f" {names[next(iter(names))]} has {sizes}."
    if repaired:
        legend += f" {_methods(repaired)}"
    return [
        text_table([*header, *speedup], rows, width),
        text_table(["95 % intervals", "accuracy", "drop", *speedup], intervals, width),
        *repairs,
        "\n".join(wrapped(text, width) for text in (legend, *long_names(names))),
    ]


def _repairs(
    repaired: Sequence[RepairedModel], *, intervals: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of the repaired models."""

    def cell(accuracy: Accuracy | None) -> str:
        if accuracy is None:
            return ""
        interval = f" [{accuracy.low:.2f}, {accuracy.high:.2f}]" if intervals else ""
        return f"{accuracy.accuracy:.2f} %{interval}"

    tuned = any(model.finetuned is not None for model in repaired)
    first = "accuracy [95 %]" if intervals else "accuracy"
    header = [first, "as removed", "repaired", *(["fine-tuned"] if tuned else [])]
    rows = [
        [
            model.name,
            cell(model.repair.removed),
            cell(model.repair.repaired),
            *([cell(model.finetuned)] if tuned else []),
        ]
        for model in repaired
    ]
    return header, rows


def _methods(repaired: Sequence[RepairedModel]) -> str:
    """Return a sentence with the method of each repair."""
    by_method: dict[str, list[str]] = {}
    for model in repaired:
        by_method.setdefault(model.repair.method, []).append(model.name)
    methods = [f"{method} ({', '.join(names)})" for method, names in by_method.items()]
    return f"Repaired by {' and '.join(methods)}, without labels and without training."


def _short_speedup(row: LatencyRow | None) -> str:
    if row is None:
        return "not measured"
    return (
        f"A/A {row.speedup:.2f}×"
        if row.verdict == "reference"
        else f"{row.speedup:.2f}× {row.verdict}"
    )


def _speedup(row: LatencyRow | None) -> str:
    if row is None:
        return "not measured"
    interval = f"{row.speedup:.2f} [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
    return f"A/A {interval}" if row.verdict == "reference" else f"{interval} {row.verdict}"


def _with_ratio(value: int, base: int, unit: float, name: str) -> str:
    return f"{value / unit:.2f}{name} ({value / base:.3f}×)"


def _csv(comparison: Comparison) -> str:
    base = next(iter(comparison.records.values()))
    columns = [
        "model",
        "checkpoint",
        "correct",
        "n",
        "accuracy",
        "low",
        "high",
        "drop",
        "drop_low",
        "drop_high",
    ]
    counts = ["params", "nonzero", "macs", "bytes"]
    latency = [
        "mode",
        "dtype",
        "batch_size",
        "median_ms",
        "speedup",
        "speedup_low",
        "speedup_high",
        "verdict",
    ]
    quoted = comparison.quoted()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns + [c for name in counts for c in (name, f"{name}_ratio")] + latency)
    for name, r in comparison.records.items():
        t = r.test
        row = [
            printable(name),
            printable(r.checkpoint),
            t.correct,
            t.n,
            t.accuracy,
            t.low,
            t.high,
            *r.drop_against(base),
        ]
        for count in counts:
            row += [getattr(r, count), getattr(r, count) / getattr(base, count)]
        writer.writerow(row + [getattr(quoted[name], c) if name in quoted else "" for c in latency])
    return out.getvalue().rstrip("\n")
