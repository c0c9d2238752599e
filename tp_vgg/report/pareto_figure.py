"""This module draws the accuracy of several budgets against what their models cost."""

from __future__ import annotations

from matplotlib.figure import Figure

from tp_vgg.report.chart_style import line_style
from tp_vgg.rundir.pareto import Pareto


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
    for axis, (name, shares) in zip(axes, panels.items(), strict=True):
        order = sorted(range(len(points)), key=shares.__getitem__)
        line = [shares[i] for i in order], [points[i].accuracy for i in order]
        axis.plot(*line, color="grey", linewidth=1, zorder=1)
        axis.axhline(table.accuracy, color="black", linestyle="--", linewidth=1, label="dense")
        if table.guesses:
            chance = f"chance: {table.chance:.3g} %"
            axis.axhline(table.chance, color="black", linestyle=":", linewidth=1, label=chance)
        for i, (point, share) in enumerate(zip(points, shares, strict=True)):
            reach = [[point.accuracy - point.low], [point.high - point.accuracy]]
            look = {**line_style(i), "linestyle": "none", "markersize": 7}
            axis.errorbar(share, point.accuracy, reach, label=point.budget, capsize=3, **look)
        axis.set(
            xlabel=f"{name}, share of the dense model's",
            ylabel="test accuracy (%)",
            xlim=(0, max(1.02, 1.05 * max(shares))),
        )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize="small")
    return figure
