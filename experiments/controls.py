"""This script tests whether a gain comes from the plan: it compares the plan with controls.

All meet the same budget of MACs in different ways (arms), are repaired without labels and get the
same fine-tuning, or none with `--finetune-epochs 0`:

- ours: the plan of `python -m tp_vgg plan`, with channels ranked by L1.
- uniform: one ratio for every swept layer, with channels ranked by L1.
- random: the widths of ours, with channels ranked at random.
- obs: the widths of ours, with channels ranked by obs.
- stock: one ratio for every conv, by torch-pruning's `BasePruner` with its L1 importance.
- stock-plain: the same without distillation, the usual way to fine-tune.
- scratch: the widths of ours with fresh weights, not repaired. It is trained by the baseline's
  recipe, for the epochs of the dense model and of the fine-tuning together; for the baseline's
  default epochs if the dense model's file does not name its own. This is work for a GPU.
- dense: the dense model with the same fine-tuning.

The script can be stopped and run again: a finished run is a JSON file and is not repeated. The file
has one bit per test image, so that differences are paired.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from control_arms import ARMS
from control_runs import one_run, opened, read_sweep, unpacked

from tp_vgg import cli
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, finetune_options, round_to_option
from tp_vgg.errors import BadInput
from tp_vgg.planning.candidates import BEST, UNIFORM, candidates
from tp_vgg.report.text_table import text_table
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune
from tp_vgg.stats import paired_runs


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Render one row per arm: means over the seeds, and paired differences to other arms.

    ``runs``: the results of each arm, one per seed. "Final" is after the fine-tuning, if there was
    any. A difference is the arm's test accuracy minus that of the dense arm or a stock arm, in
    percentage points. It is paired by image, and averaged over the seeds
    (:func:`tp_vgg.stats.paired_runs`).
    """
    rows = []
    for arm, of_arm in runs.items():
        accuracies = [run["test"]["accuracy"] for run in of_arm]
        row = [
            arm,
            f"{of_arm[0]['macs'] / 1e6:.2f} M",
            f"{of_arm[0]['params'] / 1e6:.2f} M",
            mean_of(of_arm, "one_shot"),
            mean_of(of_arm, "repaired"),
            mean_of(of_arm, "test"),
            " ".join(f"{accuracy:.2f}" for accuracy in accuracies),
        ]
        for other in ("dense", "stock", "stock-plain"):
            if other in runs and other != arm:
                difference = paired_runs(
                    [unpacked(run) for run in of_arm], [unpacked(run) for run in runs[other]]
                )
                mean, low, high = (100 * value for value in difference)
                row.append(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]")
            else:
                row.append("")
        rows.append(row)
    header = [
        "",
        "MACs",
        "params",
        "as removed",
        "repaired",
        "final, mean",
        "by seed",
        "against dense [95 %]",
        "against stock [95 %]",
        "against stock-plain [95 %]",
    ]
    return text_table(header, rows)


def mean_of(runs: list[dict[str, Any]], key: str) -> str:
    """Render the mean accuracy ``key`` of ``runs``; "" if one has none."""
    accuracies = [run.get(key) for run in runs]
    if None in accuracies:
        return ""
    return f"{np.mean([accuracy['accuracy'] for accuracy in accuracies]):.2f} %"


@click.command(cls=Command)
@common_options
@option(
    "--sweep",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="records/structured_sensitivity.json of a run directory.",
)
@option("--budget", type=float, default=0.5, help="Fraction of the MACs to keep at most.")
@round_to_option(8)
@option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    metavar="N",
    help="Trainings per arm, with seeds from 0 on.",
)
@option(
    "--finetune-epochs",
    type=click.IntRange(min=0),
    metavar="N",
    show_default="2 on digits, else 5",
    help="Epochs of fine-tuning.",
)
@option(
    "--repair",
    "repair_kind",
    type=click.Choice(["none", "reconstruct"]),
    default="reconstruct",
    help="What corrects the pruned networks before any fine-tuning.",
)
@option(
    "--arms",
    default="dense,stock,random,ours",
    metavar="NAME,NAME,…",
    help="What to compare; there are uniform, obs, stock-plain and scratch too.",
)
@finetune_options
def main(
    settings: Settings,
    sweep: Path,
    budget: float,
    round_to: int,
    seeds: int,
    arms: str,
    repair_kind: str,
    finetune: Finetune,
) -> None:
    """Print a table of all arms; the runs are in OUT/controls."""
    names = arms.split(",")
    if unknown := set(names) - set(ARMS):
        raise BadInput(f"--arms: {sorted(unknown)[0]!r} is not one of {', '.join(ARMS)}")
    plans = candidates(read_sweep(settings, sweep), {"macs": budget}, 1, round_to=round_to)
    runs: dict[str, list[dict[str, Any]]] = {}
    with opened(settings) as bench:
        targets = {
            name: bench.dense.spec.with_widths({row.layer: row.after for row in plan.layers})
            for name, plan in plans.items()
        }
        for seed in range(seeds):
            for arm in names:
                target = targets[BEST]
                if arm == "uniform":
                    target = targets.get(UNIFORM, target)  # not there if the plan is uniform
                run = one_run(bench, target, arm, seed, finetune, repair_kind != "none")
                runs.setdefault(arm, []).append(run)
                click.echo(
                    f"{arm}, seed {seed}: {run['one_shot']['accuracy']:.2f} % as removed,"
                    f" {run['test']['accuracy']:.2f} % in the end"
                )
    click.echo(table(runs))


if __name__ == "__main__":
    sys.exit(cli.execute(command=main, name=Path(__file__).name))
