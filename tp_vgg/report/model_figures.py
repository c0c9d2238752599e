"""This module draws figures that compare models: accuracy against cost, speed-up against MACs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.table import Latency
from tp_vgg.report.chart_style import line_style, name_points, panels


def accuracy_against_cost(records: Mapping[str, ModelRecord]) -> Figure:
    """Draw the test accuracy of each model against its MACs and its non-zero parameters.

    Costs are shares of the dense model's, which is the first of ``records``. Each point has its
    95 % interval and its model's name. The dashed line is the dense model's accuracy; a dotted one
    is chance, if the accuracy of a model can't be told from it.
    """
    dense = next(iter(records.values()))
    figure, axes = panels(2, "Test accuracy of each model against its cost")
    ends = [end for record in records.values() for end in (record.test.low, record.test.high)]
    chance = dense.chance if any(record.guesses for record in records.values()) else None
    lowest, highest = min([*ends, *([] if chance is None else [chance])]), max(ends)
    margin = max(0.06 * (highest - lowest), 0.5)
    costs = {
        "MACs": [record.macs / dense.macs for record in records.values()],
        "non-zero parameters": [record.nonzero / dense.params for record in records.values()],
    }
    for axis, (label, shares) in zip(axes, costs.items(), strict=True):
        axis.axhline(dense.test.accuracy, color="black", linestyle="--", linewidth=1, label="dense")
        if chance is not None:
            axis.axhline(
                chance, color="black", linestyle=":", linewidth=1, label=f"chance: {chance:.3g} %"
            )
        for i, (share, record) in enumerate(zip(shares, records.values(), strict=True)):
            test = record.test
            axis.errorbar(
                share,
                test.accuracy,
                [[test.accuracy - test.low], [test.high - test.accuracy]],
                capsize=3,
                **{**line_style(i), "linestyle": "none", "markersize": 6},
            )
        axis.set(
            xlabel=f"{label} (dense = 1)",
            ylabel="test accuracy (%)",
            xlim=(0, 1.05 * max(1.0, *shares)),
            ylim=(max(lowest - margin, -2), min(highest + margin, 102)),
        )
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, fontsize="small", loc="outside lower center", ncols=2)
    # After both panels are filled, since a name needs its axis in the final place.
    for axis, shares in zip(axes, costs.values(), strict=True):
        heights = [record.test.accuracy for record in records.values()]
        name_points(axis, list(zip(shares, heights, records, strict=True)))
    return figure


def latency(table: Latency) -> Figure:
    """Draw the speed-ups with their 95 % intervals against the reduction of MACs.

    Both are the dense model's value divided by the pruned one's. There is one panel per batch size
    and dtype, and one colour per mode; each point has its model's name. On the dashed line the time
    falls as much as the MACs.
    """
    rows = [row for row in table.rows if row.speedup is not None]
    cases = list(dict.fromkeys((row.batch_size, row.dtype) for row in rows)) or [
        (0, "nothing was available")
    ]
    by_case = [[row for row in rows if (row.batch_size, row.dtype) == case] for case in cases]
    # High enough for the names of all points of a panel.
    height = max(4.0, 1.2 + 0.16 * max(map(len, by_case)))
    figure, axes = panels(len(cases), "Speed-up against the reduction of MACs", height)
    modes = list(dict.fromkeys(row.mode for row in rows))
    for axis, (batch, dtype), shown in zip(axes, cases, by_case, strict=True):
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
            look = {**line_style(i), "linestyle": "none"}
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
    for axis, shown in zip(axes, by_case, strict=True):
        name_points(
            axis,
            [
                (row.mac_ratio or 1.0, row.speedup or 1.0, _point_name(row.model, row.verdict))
                for row in shown
            ],
        )
    return figure


def _point_name(model: str, verdict: str) -> str:
    return f"{model}: A/A control" if verdict == "reference" else model
