"""This module holds what all figures share: colours, line styles, and names beside points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito's colours: colour-blind readers can tell them apart, and their lightness differs in
# greyscale.
BEFORE, AFTER, GONE = "#56B4E9", "#004D73", "#D55E00"
LINES = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F",
    "#691E0F", "#690FC3", "#1EC3D2", "#D22D3C", "#A5B45A", "#1E3C87", "#6978FF", "#69004B",
    "#0000FF", "#000069",
)  # fmt: skip
"""Colours of lines: Okabe & Ito's without yellow, which is too light on white, then ten more.

There are as many as a VGG-19 has layers to prune. Each of the ten is far from the colours before
it in CIELAB, also as a reader without red or green cones sees them (Machado et al. 2009)."""
_MARKERS = "osD^vPX*"
_NAME_SIZE, _NAME_HEIGHT, _NAME_LENGTH = 7.5, 10.5, 44
"""Font size of the names beside points and the distance of two, in points; most characters."""


def line_style(index: int) -> dict[str, Any]:
    """Return a line style that differs from its neighbours' in colour, marker and dashes.

    No colour comes twice in the first 18, and no marker with the same dashes in the first 32.
    """
    return {
        "color": LINES[index % len(LINES)], "marker": _MARKERS[index % 8], "markersize": 4,
        "linestyle": ("-", "--", "-.", ":")[(index + index // 8) % 4], "linewidth": 1.3,
    }  # fmt: skip


def luminance(colour: Sequence[float] | np.ndarray) -> float:
    """Return the relative luminance of an sRGB colour, in [0, 1].

    ``colour``: red, green and blue in [0, 1]; more values are ignored. Source: WCAG 2.2.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def panels(columns: int, title: str, height: float = 4.0) -> tuple[Figure, np.ndarray]:
    """Return a figure with one row of axes; ``height`` in inches."""
    figure = Figure(figsize=(5 * columns, height), layout="constrained")
    figure.suptitle(title)
    return figure, np.atleast_1d(figure.subplots(1, columns))


def name_points(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write the name of each point ``(x, y, name)`` beside it, so that no two names overlap.

    Points in one place share a line of names.
    Names of points in the left half stand to the right of them, and the others to the left. A thin
    line leads from a name to its point. Call it last: it needs the axis in its final place.
    """
    if not points:
        return
    by_place: dict[tuple[float, float], list[str]] = {}
    for x, y, name in points:
        by_place.setdefault((x, y), []).append(name)
    points = [(*place, ", ".join(dict.fromkeys(names))) for place, names in by_place.items()]
    from scipy.optimize import isotonic_regression

    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    to_points = 72 / figure.dpi
    places = axis.transData.transform([(x, y) for x, y, _ in points]) * to_points
    frame = axis.get_window_extent()
    bottom, top = (
        frame.y0 * to_points + _NAME_HEIGHT / 2,
        frame.y1 * to_points - _NAME_HEIGHT / 2,
    )
    middle = (frame.x0 + frame.x1) / 2 * to_points
    order = np.argsort(places[:, 1], kind="stable")
    steps = _NAME_HEIGHT * np.arange(len(points))
    # The heights with the least squared moves at which the names keep their distance.
    lowest = isotonic_regression(places[order, 1] - steps).x
    heights = np.clip(lowest, bottom, max(top - steps[-1], bottom)) + steps
    for place, height in zip(order, heights, strict=True):
        x, y, name = points[place]
        right = places[place, 0] < middle
        label = axis.annotate(
            name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…",
            (x, y),
            xytext=(14 if right else -14, height - places[place, 1]),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=_NAME_SIZE,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.55", "shrinkA": 0, "shrinkB": 3},
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.5},
            parse_math=False,
        )
        label.set_in_layout(False)
