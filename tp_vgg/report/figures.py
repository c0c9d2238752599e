"""This module draws weights, training curves and times of convs (no pyplot, no global state)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tp_vgg.files.atomic import write_atomic
from tp_vgg.latency.profile import Staircase
from tp_vgg.report.chart_style import AFTER, BEFORE, GONE, line_style, panels
from tp_vgg.report.svg import missing_glyphs_ignored
from tp_vgg.training.history import Epoch

_BINS = 101


def masked_weights(before: np.ndarray, after: np.ndarray, layer: str) -> Figure:
    """Draw histograms of one layer's weights before and after masking, side by side.

    The exact zeros have a bar of their own. ``before`` and ``after``: the weights, both in the same
    shape, which may be any.
    """
    figure, axes = panels(2, f"{layer}: weights before and after unstructured pruning")
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
        axis.xaxis.set_major_locator(MaxNLocator(5))
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
    figure, (weights, scores) = panels(2, f"{layer}: {len(gone)} of {len(score)} filters removed")
    edges = _edges(before)
    _histogram(weights, before, edges, color=BEFORE, label=f"before: {before.size:,}")
    _histogram(weights, before[kept], edges, color=AFTER, label=f"after: {before[kept].size:,}")
    weights.set(title="weights", xlabel="weight", ylabel="weights (log scale)", yscale="log")
    weights.legend(loc="upper right")
    weights.xaxis.set_major_locator(MaxNLocator(5))
    order = np.argsort(score, kind="stable")
    removed, ranked = np.isin(order, gone), score[order]
    # Thousands of steps are smaller as an image than as paths.
    look = {"fill": True, "rasterized": len(score) > 512}
    scores.stairs(np.where(removed, 0, ranked), color=AFTER, label="kept", **look)
    scores.stairs(
        np.where(removed, ranked, 0),
        facecolor=GONE,
        edgecolor="black",
        lw=0,
        hatch="//",
        label="removed",
        **look,
    )
    scores.set(
        title=f"importance of each filter ({criterion})",
        xlabel="filters, by importance",
        ylabel=criterion,
    )
    scores.legend(loc="upper left")
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
        accuracy.plot(
            numbers, [epoch.val_accuracy for epoch in epochs], label="val", **line_style(0)
        )
        accuracy.plot(
            numbers,
            [epoch.train_accuracy for epoch in epochs],
            label="train, augmented",
            **line_style(1),
        )
        accuracy.set(title=name, ylabel="accuracy (%)", ylim=(0, 100))
        accuracy.legend(fontsize="small", loc="lower right")
        loss.plot(numbers, [epoch.train_loss for epoch in epochs], **line_style(4))
        loss.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
        loss.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
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
                **line_style(i),
            )
        axis.set(title=layer, xlabel="output channels", ylabel="µs", xlim=(0, None), ylim=(0, None))
    for axis in axes[len(layers) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize="small")
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all; missing directories are made."""
    with missing_glyphs_ignored():
        write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _histogram(axis: Any, values: np.ndarray, edges: np.ndarray, **style: Any) -> None:
    # One outline for all bins: `hist` draws a patch for every bin, which takes seconds.
    axis.stairs(np.histogram(values, edges)[0], edges, fill=True, **style)


def _edges(values: np.ndarray) -> np.ndarray:
    """Return bin edges symmetric about zero, so that exact zeros lie in the middle bin."""
    reach = max(float(np.abs(values).max()), 1e-12)
    return np.linspace(-reach, reach, _BINS + 1)
