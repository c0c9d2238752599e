"""Records and arrays in, matplotlib figures out (no pyplot, no global state)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tp_vgg.storage import write_atomic

# Okabe & Ito's colours: told apart by the colour-blind, and in greyscale by their lightness.
BEFORE, AFTER, GONE = "#56B4E9", "#004D73", "#D55E00"
_BINS = 101


def masked_weights(before: np.ndarray, after: np.ndarray, layer: str) -> Figure:
    """Histograms of one layer's weights before and after masking, on one axis; the bar of zeros stands out.

    ``before``, ``after``: the weights in any one shape.
    """
    figure, axes = _figure(2, f"{layer}: weights before and after unstructured pruning")
    edges = _edges(before)
    zeros = 1 - np.count_nonzero(after) / after.size
    for axis, values, colour, title in zip(
        axes, (before, after), (BEFORE, AFTER), ("before", f"after: {zeros:.1%} are exactly zero"), strict=True
    ):
        axis.hist(values.ravel(), edges, color=colour)
        axis.set(title=title, xlabel="weight", ylabel="weights (log scale)", yscale="log")
    axes[1].set_ylim(axes[0].get_ylim()[0], None)
    return figure


def removed_filters(before: np.ndarray, kept: list[int], score: np.ndarray, layer: str, criterion: str) -> Figure:
    """Histograms of one layer's weights before and after filter removal, and the score of every filter.

    ``before``: weights [out, ...]; ``kept``: indices of the filters that stay; ``score``: [out].
    """
    gone = np.setdiff1d(np.arange(len(score)), kept)
    figure, (weights, scores) = _figure(2, f"{layer}: {len(gone)} of {len(score)} filters removed")
    edges = _edges(before)
    weights.hist(before.ravel(), edges, color=BEFORE, label=f"before: {before.size:,}")
    weights.hist(before[kept].ravel(), edges, color=AFTER, label=f"after: {before[kept].size:,}")
    weights.set(title="weights", xlabel="weight", ylabel="weights (log scale)", yscale="log")
    weights.legend()
    order = np.argsort(score, kind="stable")
    removed = np.isin(order, gone)
    place = np.arange(len(order))
    scores.bar(place[~removed], score[order][~removed], 1.0, color=AFTER, label="kept")
    scores.bar(place[removed], score[order][removed], 1.0, color=GONE, hatch="//", label="removed")
    scores.set(title=f"importance of each filter ({criterion})", xlabel="filters, by importance", ylabel=criterion)
    scores.legend()
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure, whole or not at all."""
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _figure(columns: int, title: str) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(5 * columns, 4), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, columns)


def _edges(values: np.ndarray) -> np.ndarray:
    """Bin edges symmetric about zero, so that exact zeros fill the middle bin alone."""
    reach = max(float(np.abs(values).max()), 1e-12)
    return np.linspace(-reach, reach, _BINS + 1)
