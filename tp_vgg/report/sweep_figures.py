"""This module draws sensitivity sweeps: lines, a heatmap, a panel per layer, drops by cost."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tp_vgg.pruning.repairs import REPAIR_WORDS
from tp_vgg.report.chart_style import AFTER, GONE, line_style, luminance, panels
from tp_vgg.sensitivity.table import Point, Sensitivity

SCALE = 10.0
"""Largest drop in percentage points that heatmap and panels tell apart; plans are made below it."""
THRESHOLD = 1.0
"""Drop in percentage points at which the panels draw their line."""
_BELOW = -1.0
"""Lower end of the panels in percentage points: a little room for layers that gain accuracy."""
_COLUMNS = 4
_TAKEN = {"structured": "removed", "unstructured": "zeroed"}


def sensitivity(table: Sensitivity) -> Figure:
    """Draw a sweep.

    Unstructured: accuracy against sparsity, one line per layer. Structured: a heatmap of the drops
    in percentage points, one row per layer and one column per ratio.
    """
    return _lines(table) if table.kind == "unstructured" else _heatmap(table)


def sensitivity_cost(table: Sensitivity) -> Figure:
    """Draw accuracy against the percentage of the network's MACs and params that is removed.

    There is one panel per cost and one line per layer; each point of the sweep prunes one layer.
    """
    figure, axes = panels(
        2,
        f"{table.kind.capitalize()} pruning of one layer:"
        f" accuracy against the removed share of the network{_repaired(table)}",
    )
    for place, (axis, unit) in enumerate(zip(axes, ("MACs", "params"), strict=True)):
        for i, layer in enumerate(table.layers):
            points = table.of_layer(layer)
            removed = [100 * table.cost_removed(point)[place] for point in points]
            axis.plot(removed, [point.accuracy for point in points], label=layer, **line_style(i))
        _baseline(axis, table)
        axis.set(
            xlabel=f"{unit} of the network {_TAKEN[table.kind]} (%)",
            ylabel="accuracy (%)",
            ylim=(0, 100),
        )
    _legend_beside(figure, axes[1])
    return figure


def drops_by_layer(table: Sensitivity) -> Figure:
    """Draw the drop of each layer against its ratio or sparsity, one small panel per layer.

    All panels show drops up to :data:`SCALE` points; a triangle at the edge marks a point outside.
    Bands are 95 % intervals. The title of a panel says up to which level every swept point is at or
    below the dashed line at :data:`THRESHOLD`.
    """
    layers = table.layers
    rows = -(-len(layers) // _COLUMNS)
    columns = min(len(layers), _COLUMNS)
    figure = Figure(figsize=(2.5 * columns + 0.3, 1.75 * rows + 0.9), layout="constrained")
    word = "ratio" if table.kind == "structured" else "sparsity"
    figure.suptitle(
        f"Drop of each layer alone, n = {table.baseline.n}{_repaired(table)};"
        f" dashed: {THRESHOLD:g} point"
    )
    figure.supxlabel(f"{word} of the layer", fontsize="medium")
    figure.supylabel("drop (percentage points)", fontsize="medium")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, layer in zip(axes, layers, strict=False):
        points = table.of_layer(layer)
        levels = [point.ratio for point in points]
        drops = np.array([point.drop for point in points])
        axis.fill_between(
            levels, [p.drop_low for p in points], [p.drop_high for p in points],
            color=AFTER, alpha=0.2, lw=0,
        )  # fmt: skip
        axis.plot(levels, drops, color=AFTER, marker="o", markersize=3, linewidth=1.2)
        axis.axhline(THRESHOLD, color=GONE, linestyle="--", linewidth=1)
        for outside, edge, marker in ((drops > SCALE, SCALE, "^"), (drops < _BELOW, _BELOW, "v")):
            axis.plot(
                np.array(levels)[outside], np.full(outside.sum(), edge), linestyle="none",
                marker=marker, markersize=5, color=GONE, clip_on=False, zorder=3, in_layout=False,
            )  # fmt: skip
        axis.set_title(f"{layer}: {_within(points)}", fontsize="small")
        axis.set(ylim=(_BELOW, SCALE), xlim=(0, 1))
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axis.set_yticks([0, SCALE / 2, SCALE])
    for axis in axes[len(layers) :]:
        axis.set_axis_off()
    for axis in axes[max(len(layers) - columns, 0) : len(layers)]:
        axis.xaxis.set_tick_params(labelbottom=True)
    return figure


def _within(points: tuple[Point, ...]) -> str:
    """Return up to which level the drops stay within :data:`THRESHOLD`, in a few characters."""
    ordered = sorted(points, key=lambda point: point.ratio)
    within = list(itertools.takewhile(lambda point: point.drop <= THRESHOLD, ordered))
    if not within:
        return f"above {THRESHOLD:g} from {ordered[0].ratio:g}"
    return f"≤ {THRESHOLD:g} to {within[-1].ratio:g}"


def _lines(table: Sensitivity) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    for i, layer in enumerate(table.layers):
        points = table.of_layer(layer)
        ratios = [point.ratio for point in points]
        style = line_style(i)
        axis.plot(ratios, [point.accuracy for point in points], label=layer, **style)
        axis.fill_between(
            ratios,
            [p.low for p in points],
            [p.high for p in points],
            color=style["color"],
            alpha=0.1,
            lw=0,
        )
    _baseline(axis, table)
    axis.set(
        title=f"Unstructured sensitivity, one layer at a time{_repaired(table)};"
        f" n = {table.baseline.n}, bands: 95 %",
        xlabel="sparsity of the layer", ylabel="accuracy (%)", ylim=(0, 100),
    )  # fmt: skip
    _legend_beside(figure, axis)
    return figure


def _heatmap(table: Sensitivity) -> Figure:
    layers = table.layers
    ratios = [point.ratio for point in table.of_layer(layers[0])]
    drops = np.array([[point.drop for point in table.of_layer(layer)] for layer in layers])
    figure = Figure(
        figsize=(2.5 + 0.75 * len(ratios), 1.8 + 0.42 * len(layers)), layout="constrained"
    )
    axis = figure.subplots()
    # A colour map whose lightness changes in one direction: it keeps its order for colour-blind
    # readers and in greyscale. Larger drops than the scale's are no choice of any plan.
    image = axis.imshow(drops, cmap="cividis_r", vmin=0.0, vmax=SCALE, aspect="auto")
    for (row, column), drop in np.ndenumerate(drops):
        # At a luminance of 0.179, black and white text have the same contrast.
        colour = "black" if luminance(image.cmap(image.norm(drop))) > 0.179 else "white"
        axis.text(
            column, row, f"{drop:.1f}", ha="center", va="center", fontsize="small", color=colour
        )
    axis.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
    axis.set_yticks(range(len(layers)), layers)
    base = table.baseline
    axis.set(
        title=f"Drop of accuracy, one layer at a time{_repaired(table)}\n"
        f"dense {base.accuracy:.2f} %, n = {base.n}",
        xlabel="ratio (fraction of channels removed)",
    )  # fmt: skip
    bar = figure.colorbar(image, label="drop (percentage points)", extend="max")
    ticks = [0, 2, 4, 6, 8, SCALE]
    bar.set_ticks(ticks, labels=[*map(str, ticks[:-1]), f"≥ {SCALE:g}"])
    return figure


def _repaired(table: Sensitivity) -> str:
    return "" if table.repair == "none" else f", {REPAIR_WORDS[table.repair]}"


def _baseline(axis: Any, table: Sensitivity) -> None:
    axis.axhline(table.baseline.accuracy, color="black", linestyle="--", linewidth=1, label="dense")


def _legend_beside(figure: Figure, axis: Any) -> None:
    """Put the legend to the right of all axes, where it covers no line."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize="small", loc="outside right upper")
