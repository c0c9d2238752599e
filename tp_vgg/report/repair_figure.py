"""This module draws the errors of a repair, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from tp_vgg.evaluation.repaired import LayerRepair, RepairResult
from tp_vgg.report.chart_style import AFTER, BEFORE, GONE

_MEAN = 1.0
"""Error of a layer whose outputs are always the mean of the dense model's."""
_DECADES = 1e4
"""Most that the errors of one axis can differ by; a smaller one stands at the left edge."""
_SIZE = "small"
_RING = {"markerfacecolor": "white", "markeredgewidth": 1.4}
_CONSTANT: dict[str, Any] = {"color": "0.45", "linestyle": ":", "linewidth": 1}
_LOOKS: dict[str, dict[str, Any]] = {
    "as removed": {"marker": "o", "markersize": 6, "color": BEFORE, **_RING},
    "repaired": {"marker": "o", "markersize": 6, "color": AFTER},
    "kept as removed": {"marker": "D", "markersize": 5.5, "color": GONE},
}


def repair_by_layer(results: Mapping[str, RepairResult]) -> Figure:
    """Draw each layer's relative error on the held-out images, before and after its repair.

    ``results``: by model. There is one panel per model and one row per layer, from the network's
    input on, with both numbers to its right. The axis is logarithmic, and the dotted line is the
    error of outputs that never change.
    """
    layers = list(dict.fromkeys(name for result in results.values() for name in result.layers))
    rows = {name: row for row, name in enumerate(layers)}
    figure = Figure(
        figsize=(1.1 + 3.9 * len(results), 1.8 + 0.25 * len(layers)), layout="constrained"
    )
    figure.suptitle("Repair, layer by layer")
    axes = figure.subplots(1, len(results), squeeze=False, sharex=True, sharey=True)[0]
    lowest, highest = _range(results)
    for axis, (name, result) in zip(axes, results.items(), strict=True):
        for layer, errors in result.layers.items():
            _draw(axis, rows[layer], errors, lowest)
        axis.axvline(_MEAN, zorder=0, **_CONSTANT)
        axis.set(
            xlabel="relative error on held-out images",
            xscale="log",
            xlim=(lowest / 1.2, highest * 1.2),
            ylim=(len(layers) - 0.4, -0.6),
        )
        axis.set_title(f"{name}, n = {result.held_out}", fontsize="medium", parse_math=False)
        axis.set_yticks(range(len(layers)), layers)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        steps = (1, 2, 5) if highest / lowest < 1000 else (1,)
        axis.xaxis.set_major_locator(LogLocator(subs=steps))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(LogLocator(subs=()))
    outcomes = {one.outcome for result in results.values() for one in result.layers.values()}
    handles = [
        Line2D([], [], linestyle="none", label=label, **look)
        for label, look in _LOOKS.items()
        if "kept" in outcomes or not label.startswith("kept")
    ]
    handles.append(Line2D([], [], label="no better than a constant", **_CONSTANT))
    columns = 2 if len(results) == 1 else 4
    figure.legend(handles=handles, fontsize=_SIZE, loc="outside lower center", ncols=columns)
    return figure


def _draw(axis: Axes, row: int, errors: LayerRepair, lowest: float) -> None:
    """Draw one layer: two points and the line between them, or one point if it kept its weights."""
    removed, repaired, kept = _LOOKS.values()
    before, after = max(errors.before, lowest), max(errors.after, lowest)
    note, colour = "unchanged", "0.45"
    if errors.outcome == "refitted":
        axis.plot([after, before], [row, row], color=BEFORE, linewidth=2, zorder=1)
        axis.plot(before, row, linestyle="none", **removed)
        axis.plot(after, row, linestyle="none", **repaired)
        note, colour = f"{_digits(errors.before)} → {_digits(errors.after)}", "black"
    elif errors.outcome == "kept":
        axis.plot(before, row, linestyle="none", **kept)
        note, colour = f"kept at {_digits(errors.before)}", "black"
    axis.text(
        1.02, row, note, transform=axis.get_yaxis_transform(), va="center", fontsize=_SIZE,
        color=colour,
    )  # fmt: skip


def _digits(error: float) -> str:
    return f"{error:#.2g}".rstrip(".")


def _range(results: Mapping[str, RepairResult]) -> tuple[float, float]:
    """Return the ends of the axis: of all errors above 0 and :data:`_MEAN`."""
    errors = [_MEAN] + [
        error
        for result in results.values()
        for layer in result.layers.values()
        for error in (layer.before, layer.after)
        if error > 0
    ]
    highest = max(errors)
    return max(min(errors), highest / _DECADES), highest
