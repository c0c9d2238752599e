"""This script shows what repair and epochs of training give at several budgets of MACs.

For each budget, the plan of `python -m tp_vgg plan` is pruned and repaired, and then fine-tuned for
each number of epochs, each time from the repaired network. It prints one row per budget and draws
test accuracy against MACs into `OUT/plots/accuracy_by_epochs.png`.

The script can be stopped and run again: a finished run is a JSON file in `OUT/controls`, as of
`controls.py`, and is not repeated. With `--kept DIR` it only reads runs that lie in a folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from control_runs import accuracy_of, hits_of, one_run, opened, read_sweep
from matplotlib.figure import Figure

from tp_vgg import cli
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, finetune_options, round_to_option
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.files.read import read_json
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.report.chart_style import line_style
from tp_vgg.report.figures import save_png
from tp_vgg.report.text_table import text_table
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune

Run = dict[str, Any]


def budgets_of(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return one row per network of ``runs``, the largest first.

    A row has ``macs`` and ``params``, and test accuracies by their state: ``as removed``,
    ``repaired`` and, by the number of epochs, ``1 epoch`` and so on.
    """
    rows: dict[int, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: (-run["macs"], run["recipe"]["epochs"])):
        row = rows.setdefault(run["macs"], {"macs": run["macs"], "params": run["params"]})
        row["as removed"] = Accuracy(**run["one_shot"])
        row["repaired"] = Accuracy(**run["repaired"])
        if epochs := run["recipe"]["epochs"]:
            row[f"{epochs} epoch" + "s" * (epochs > 1)] = Accuracy(**run["test"])
    return list(rows.values())


def kept_runs(folder: Path, weights: str, seed: int) -> list[Run]:
    """Return the runs of plans in ``folder`` of the dense model ``weights``, which were repaired.

    Those of other seeds are left out. Raises :class:`BadInput` if there are none, or two of one
    network and number of epochs.
    """
    runs = [run for path in sorted(folder.glob("*.json")) if (run := read_json(path)) is not None]
    runs = [run for run in runs if run.get("arm") == "ours" and run["repaired"]]
    runs = [run for run in runs if (run["weights"], run["seed"]) == (weights, seed)]
    if not runs:
        raise BadInput(
            f"--kept: {folder}: has no repaired runs of plans for this dense model and seed"
        )
    if len({(run["macs"], run["recipe"]["epochs"]) for run in runs}) < len(runs):
        raise BadInput(f"--kept: {folder}: has two runs of the same MACs and epochs")
    return runs


def states_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the states in ``rows``, in their order."""
    return list(dict.fromkeys(key for row in rows for key in row if isinstance(row[key], Accuracy)))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Render what :func:`budgets_of` returns as text."""
    states = states_of(rows)
    cells = [
        [
            f"{row['macs'] / 1e6:.2f} M",
            f"{row['params'] / 1e6:.2f} M",
            *(
                f"{row[s].accuracy:.2f} % [{row[s].low:.2f}, {row[s].high:.2f}]" if s in row else ""
                for s in states
            ),
        ]
        for row in rows
    ]
    return text_table(["MACs", "params", *states], cells)


def figure(rows: Sequence[dict[str, Any]], dense: Accuracy, macs: int) -> Figure:
    """Draw test accuracy against the share of MACs, one line per state.

    ``dense``, ``macs``: accuracy and MACs of the dense model. The panel on the right is the part of
    the left one near the dense model.
    """
    drawn = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for axis in (left, right):
        label = f"dense: {dense.accuracy:.2f} %"
        axis.axhline(dense.accuracy, color="black", linestyle="--", linewidth=1, label=label)
        for number, state in enumerate(states_of(rows), 1):
            have = [row for row in rows if state in row]
            points = [row["macs"] / macs for row in have], [row[state].accuracy for row in have]
            axis.plot(*points, label=state, **line_style(number))
        axis.set(xlabel="MACs, share of the dense model's", ylabel="test accuracy (%)")
        axis.grid(color="0.9", linewidth=0.6)
    left.set_ylim(0, 100)
    right.set_title("the part near the dense model", fontsize="medium")
    near = [row[s].accuracy for row in rows for s in states_of(rows)[1:] if s in row]
    right.set_ylim(min(near) - 0.5, max(*near, dense.accuracy) + 0.5)
    handles, labels = left.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return drawn


def numbers(name: str, text: str, kind: type[int] | type[float]) -> list[Any]:
    """Return the numbers of a list such as ``0.5,0.25``; ``name`` is the option's, for messages."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"{name}: {text!r} is not a list of numbers") from None


@click.command(cls=Command)
@common_options
@option(
    "--sweep",
    type=click.Path(path_type=Path, exists=True),
    help="records/structured_sensitivity.json of a run directory.",
)
@option("--budgets", default="0.7,0.5,0.35,0.25,0.15", help="Fractions of the MACs to keep.")
@option("--epochs", default="1,5", help="Epochs of fine-tuning, each from the repaired network.")
@option(
    "--kept",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Only print and draw the runs in this folder.",
)
@round_to_option(8)
@finetune_options
def main(
    settings: Settings,
    sweep: Path | None,
    budgets: str,
    epochs: str,
    kept: Path | None,
    round_to: int,
    finetune: Finetune,
) -> None:
    """Print one row per budget and draw accuracy against MACs."""
    if settings.checkpoint is None or (sweep is None and kept is None):
        raise BadInput("--checkpoint, --sweep: give the dense model and its sweep, or --kept")
    tuned = [replace(finetune, epochs=count) for count in numbers("--epochs", epochs, int)]
    if min(one.epochs for one in tuned) < 0:
        raise BadInput(f"--epochs: {epochs}: none may be below 0")
    shares = numbers("--budgets", budgets, float)
    plans = []
    if sweep is not None and kept is None:
        swept = read_sweep(settings, sweep)
        plans = [make_plan(swept, {"macs": share}, round_to=round_to) for share in shares]
    with opened(settings) as bench:
        spec, place = bench.dense.spec, bench.session.run.work / "plots/accuracy_by_epochs.png"
        runs = [] if kept is None else kept_runs(kept, bench.weights, settings.seed)
        for plan in plans:
            target = spec.with_widths({row.layer: row.after for row in plan.layers})
            for one in tuned:
                run = one_run(bench, target, "ours", settings.seed, one, repairs=True)
                click.echo(
                    f"{plan.prediction.macs_share:.3f} of the MACs, {one.epochs} epochs: done"
                )
                runs.append(run)
        rows, dense = budgets_of(runs), accuracy_of(hits_of(bench.dense, bench.session))
        save_png(figure(rows, dense, spec.macs()), place)
    click.echo(table(rows))
    click.echo(str(place))


if __name__ == "__main__":
    sys.exit(cli.execute(command=main, name=Path(__file__).name))
