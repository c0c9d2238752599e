"""This module draws the accuracy of several budgets against what their models cost."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from tp_vgg.rundir.pareto import Pareto

_MARKERS = "osD^vP*X<>hp"


def pareto(table: Pareto) -> Figure:
    """Draw test accuracy against the kept share of MACs, of parameters and, if timed, of time.

    Each share is a model's value divided by the dense model's. Bars are 95 % intervals.
    """
    points = table.points
    panels = {
        "MACs": [point.macs_share for point in points],
        "parameters": [point.params_share for point in points],
    }
    if table.case:
        panels[f"time ({table.case})"] = [1 / (point.speedup or 1.0) for point in points]
    figure = Figure(figsize=(5 * len(panels), 4.3), layout="constrained")
    figure.suptitle("Accuracy of several budgets")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    # Markers tell the budgets apart: labels at the points would lie on each other.
    colours = colormaps["cividis"](np.linspace(0, 0.85, len(points)))
    for axis, (name, shares) in zip(axes, panels.items(), strict=True):
        order = sorted(range(len(points)), key=shares.__getitem__)
        line = [shares[i] for i in order], [points[i].accuracy for i in order]
        axis.plot(*line, color="grey", linewidth=1, zorder=1)
        axis.axhline(table.accuracy, color="black", linestyle="--", linewidth=1, label="dense")
        for i, (point, share) in enumerate(zip(points, shares, strict=True)):
            reach = [[point.accuracy - point.low], [point.high - point.accuracy]]
            look = {"color": colours[i], "marker": _MARKERS[i % len(_MARKERS)]}
            axis.errorbar(
                share, point.accuracy, reach, label=point.budget, linestyle="none", capsize=3,
                markersize=7, **look,
            )  # fmt: skip
        axis.set(
            xlabel=f"{name}, share of the dense model's",
            ylabel="test accuracy (%)",
            xlim=(0, max(1.02, 1.05 * max(shares))),
        )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize="small")
    return figure
