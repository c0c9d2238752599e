"""This module draws records and arrays as matplotlib figures (no pyplot, no global state)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tp_vgg.files.atomic import write_atomic
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import Latency
from tp_vgg.report.svg import missing_glyphs_ignored
from tp_vgg.sensitivity.table import Sensitivity
from tp_vgg.training.history import Epoch

# Okabe & Ito's colours: colour-blind readers can tell them apart, and their lightness differs in
# greyscale.
BEFORE, AFTER, GONE = "#56B4E9", "#004D73", "#D55E00"
_LINES = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F")
_TAKEN = {"structured": "removed", "unstructured": "zeroed"}
_BINS = 101


def masked_weights(before: np.ndarray, after: np.ndarray, layer: str) -> Figure:
    """Draw histograms of one layer's weights before and after masking, side by side.

    The exact zeros have a bar of their own. ``before`` and ``after``: the weights, both in the same
    shape, which may be any.
    """
    figure, axes = _figure(2, f"{layer}: weights before and after unstructured pruning")
    edges = _edges(before)
    zeros = 1 - np.count_nonzero(after) / after.size
    for axis, values, colour, title in zip(
        axes,
        (before, after),
        (BEFORE, AFTER),
        ("before", f"after: {zeros:.1%} are exactly zero"),
        strict=True,
    ):
        _histogram(axis, values, edges, color=colour)
        axis.set(title=title, xlabel="weight", ylabel="weights (log scale)", yscale="log")
    axes[1].set_ylim(axes[0].get_ylim()[0], None)
    return figure


def removed_filters(
    before: np.ndarray, kept: list[int], score: np.ndarray, layer: str, criterion: str
) -> Figure:
    """Draw one layer's weights before and after filters were removed, and each filter's score.

    ``before``: the dense weights ``[out, ...]``. ``kept``: the indices of the filters that stay.
    ``score``: the importance of each filter by ``criterion``, ``[out]``.
    """
    gone = np.setdiff1d(np.arange(len(score)), kept)
    figure, (weights, scores) = _figure(2, f"{layer}: {len(gone)} of {len(score)} filters removed")
    edges = _edges(before)
    _histogram(weights, before, edges, color=BEFORE, label=f"before: {before.size:,}")
    _histogram(weights, before[kept], edges, color=AFTER, label=f"after: {before[kept].size:,}")
    weights.set(title="weights", xlabel="weight", ylabel="weights (log scale)", yscale="log")
    weights.legend(loc="upper right")
    weights.xaxis.set_major_locator(MaxNLocator(5))
    order = np.argsort(score, kind="stable")
    removed, ranked = np.isin(order, gone), score[order]
    scores.stairs(np.where(removed, 0, ranked), fill=True, color=AFTER, label="kept")
    scores.stairs(
        np.where(removed, ranked, 0),
        fill=True,
        facecolor=GONE,
        edgecolor="black",
        lw=0,
        hatch="//",
        label="removed",
    )
    scores.set(
        title=f"importance of each filter ({criterion})",
        xlabel="filters, by importance",
        ylabel=criterion,
    )
    scores.legend(loc="upper left")
    return figure


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
    figure, axes = _figure(
        2, f"{table.kind} pruning of one layer: accuracy against the removed share of the network"
    )
    for place, (axis, unit) in enumerate(zip(axes, ("MACs", "params"), strict=True)):
        for i, layer in enumerate(table.layers):
            points = table.of_layer(layer)
            removed = [100 * table.cost_removed(point)[place] for point in points]
            axis.plot(removed, [point.accuracy for point in points], label=layer, **_style(i))
        _baseline(axis, table)
        axis.set(
            xlabel=f"{unit} of the network {_TAKEN[table.kind]} (%)",
            ylabel="accuracy (%)",
            ylim=(0, 100),
        )
    axes[1].legend(fontsize="small")
    return figure


def _lines(table: Sensitivity) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    for i, layer in enumerate(table.layers):
        points = table.of_layer(layer)
        ratios = [point.ratio for point in points]
        style = _style(i)
        axis.plot(ratios, [point.accuracy for point in points], label=layer, **style)
        axis.fill_between(
            ratios,
            [p.low for p in points],
            [p.high for p in points],
            color=style["color"],
            alpha=0.15,
            lw=0,
        )
    _baseline(axis, table)
    axis.set(
        title=f"Unstructured sensitivity, one layer at a time; n = {table.baseline.n}, bands: 95 %",
        xlabel="sparsity of the layer", ylabel="accuracy (%)", ylim=(0, 100),
    )  # fmt: skip
    axis.legend(fontsize="small", loc="lower left")
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
    # readers and in greyscale.
    image = axis.imshow(
        drops,
        cmap="cividis_r",
        vmin=min(0.0, drops.min()),
        vmax=max(drops.max(), 1.0),
        aspect="auto",
    )
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
        title=f"Drop of accuracy, one layer at a time\ndense {base.accuracy:.2f} %, n = {base.n}",
        xlabel="ratio (fraction of channels removed)",
    )  # fmt: skip
    figure.colorbar(image, label="drop (percentage points)")
    return figure


def history(trainings: Mapping[str, Sequence[Epoch]]) -> Figure:
    """Draw accuracy on training and val images and, below it, the loss, by epoch.

    There is one column per training. ``trainings``: the epochs of each training by its name.
    """
    figure = Figure(figsize=(5 * len(trainings), 5), layout="constrained")
    figure.suptitle("Training")
    axes = figure.subplots(2, len(trainings), squeeze=False, sharex="col", height_ratios=(2, 1))
    for (accuracy, loss), (name, epochs) in zip(axes.T, trainings.items(), strict=True):
        numbers = [epoch.epoch for epoch in epochs]
        accuracy.plot(numbers, [epoch.val_accuracy for epoch in epochs], label="val", **_style(0))
        accuracy.plot(
            numbers,
            [epoch.train_accuracy for epoch in epochs],
            label="train, augmented",
            **_style(1),
        )
        accuracy.set(title=name, ylabel="accuracy (%)", ylim=(0, 100))
        accuracy.legend(fontsize="small", loc="lower right")
        loss.plot(numbers, [epoch.train_loss for epoch in epochs], **_style(4))
        loss.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
        loss.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def latency(table: Latency) -> Figure:
    """Draw the speed-ups with their 95 % intervals against the reduction of MACs.

    Both are the dense model's value divided by the pruned one's. There is one panel per batch size
    and dtype, and one colour per mode. On the dashed line the time falls as much as the MACs.
    """
    rows = [row for row in table.rows if row.speedup is not None]
    panels = list(dict.fromkeys((row.batch_size, row.dtype) for row in rows)) or [
        (0, "nothing was available")
    ]
    figure, axes = _figure(len(panels), "Speed-up against the reduction of MACs")
    modes = list(dict.fromkeys(row.mode for row in rows))
    for axis, (batch, dtype) in zip(np.atleast_1d(axes), panels, strict=True):
        shown = [row for row in rows if (row.batch_size, row.dtype) == (batch, dtype)]
        highest = max(
            [row.mac_ratio or 1.0 for row in shown] + [row.speedup or 1.0 for row in shown] + [1.5]
        )
        axis.plot(
            [1, highest], [1, highest], color="black", linestyle="--", linewidth=1, label="ideal"
        )
        for i, mode in enumerate(modes):
            ideal, middle, low, high = (
                np.array(
                    [
                        (row.mac_ratio, row.speedup, row.speedup_low, row.speedup_high)
                        for row in shown
                        if row.mode == mode
                    ],
                    float,
                )
                .reshape(-1, 4)
                .T
            )
            look = {**_style(i), "linestyle": "none"}
            axis.errorbar(
                ideal, middle, (middle - low, high - middle), label=mode, capsize=3, **look
            )
        axis.axhline(1, color="black", linewidth=0.5)
        axis.set(
            title=f"batch {batch}, {dtype}",
            xlabel="reduction of MACs (dense ÷ pruned)",
            ylabel="speed-up (dense ÷ pruned time)",
        )
        axis.legend(fontsize="small")
    return figure


def staircase(tables: Sequence[Staircase]) -> Figure:
    """Draw the time of each conv in microseconds against its output channels.

    All input channels are present. There is one panel per conv and one line per profile in
    ``tables``, which are profiles of the same network.
    """
    layers = tables[0].layers
    columns = min(len(layers), 4)
    figure = Figure(figsize=(3.5 * columns, 3 * -(-len(layers) // columns)), layout="constrained")
    figure.suptitle("Time of each conv over its width")
    axes = figure.subplots(-(-len(layers) // columns), columns, squeeze=False).ravel()
    for axis, layer in zip(axes, layers, strict=False):
        for i, table in enumerate(tables):
            points = table.at_full_input(layer)
            label = f"{table.dtype}, batch {table.batch_size}"
            axis.plot(
                [p.out_width for p in points],
                [p.median_us for p in points],
                label=label,
                **_style(i),
            )
        axis.set(title=layer, xlabel="output channels", ylabel="µs", xlim=(0, None), ylim=(0, None))
    for axis in axes[len(layers) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize="small")
    return figure


def luminance(colour: Sequence[float] | np.ndarray) -> float:
    """Return the relative luminance of an sRGB colour, in [0, 1].

    ``colour``: red, green and blue in [0, 1]; more values are ignored. Source: WCAG 2.2.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _style(index: int) -> dict[str, Any]:
    """Return a line style that differs from its neighbours' in colour, marker and dashes."""
    return {
        "color": _LINES[index % len(_LINES)], "marker": "osD^vPX*"[index % 8], "markersize": 4,
        "linestyle": ("-", "--", "-.", ":")[(index + index // 8) % 4], "linewidth": 1.3,
    }  # fmt: skip


def _baseline(axis: Any, table: Sensitivity) -> None:
    axis.axhline(table.baseline.accuracy, color="black", linestyle="--", linewidth=1, label="dense")


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all; missing directories are made."""
    with missing_glyphs_ignored():
        write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _figure(columns: int, title: str) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(5 * columns, 4), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, columns)


def _histogram(axis: Any, values: np.ndarray, edges: np.ndarray, **style: Any) -> None:
    # One outline for all bins: `hist` draws a patch for every bin, which takes seconds.
    axis.stairs(np.histogram(values, edges)[0], edges, fill=True, **style)


def _edges(values: np.ndarray) -> np.ndarray:
    """Return bin edges symmetric about zero, so that exact zeros lie in the middle bin."""
    reach = max(float(np.abs(values).max()), 1e-12)
    return np.linspace(-reach, reach, _BINS + 1)
