"""This script tests whether a gain comes from the plan: it compares the plan with controls.

All meet the same budget of MACs in different ways (arms), are repaired without labels and get the
same fine-tuning, or none with `--finetune-epochs 0`:

- ours: the plan of `python -m tp_vgg plan`, with channels ranked by L1.
- uniform: one ratio for every swept layer, with channels ranked by L1.
- random: the widths of ours, with channels ranked at random.
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

import copy
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from control_arms import ARMS, MAKERS

from tp_vgg import cli
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, finetune_options, round_to_option
from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.evaluate import hits
from tp_vgg.evaluation.hits import pack_hits, unpack_hits
from tp_vgg.files.atomic import write_json
from tp_vgg.files.fingerprint import file_fingerprint, fingerprint
from tp_vgg.files.read import read_json
from tp_vgg.machine.environment import environment
from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.model import VGG
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning.candidates import BEST, UNIFORM, candidates
from tp_vgg.pruning.repair import repair
from tp_vgg.report.text_table import text_table
from tp_vgg.rundir.contents import sweep_table
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import baseline_recipe, finetune_recipe, structured_epochs
from tp_vgg.stages.given import load_model
from tp_vgg.stages.measure import data_summary
from tp_vgg.stages.options import Finetune, StructuredOptions
from tp_vgg.stages.session import Session, open_session
from tp_vgg.stats import paired_runs


def hits_of(model: VGG, session: Session) -> np.ndarray:
    """Return, for each test image, whether the model classifies it correctly: bool ``[N]``."""
    return hits(model.to(session.device), session.data.test, Normalisation.of(model.meta))


def accuracy_of(hits: np.ndarray) -> Accuracy:
    """Return the accuracy of what :func:`hits_of` returns."""
    return Accuracy.of(int(hits.sum()), len(hits))


def unpacked(run: dict[str, Any]) -> np.ndarray:
    """Return the hits of a run, bool ``[N]``: True for a test image classified correctly."""
    return unpack_hits(run["hits"], run["test"]["n"])


def one_run(
    session: Session,
    dense: VGG,
    weights: str,
    target: VGGSpec,
    arm: str,
    seed: int,
    finetune: Finetune,
    repairs: bool,
    folder: Path,
) -> dict[str, Any]:
    """Return the result of one arm with one seed, from its JSON file in ``folder`` or done now.

    ``weights``: the SHA-256 of the dense model's file. ``target``: the widths of the plan.
    ``repairs``: the network is repaired before it is fine-tuned.
    """
    settings = replace(session.settings, seed=seed)
    repairs = repairs and arm not in ("dense", "scratch")
    epochs = finetune.epochs
    if epochs is None:
        epochs = structured_epochs(settings, StructuredOptions())
    if arm == "stock-plain":
        finetune = replace(finetune, distill=False)
    trained = dense.meta.get("training") or {}
    recipe = finetune_recipe(settings, dense.spec, epochs, finetune, trained)
    if arm == "scratch":
        start = baseline_recipe(
            settings, dense.spec, *(trained.get(name) for name in ("epochs", "lr", "batch_size"))
        )
        names = ("distill_weight", "distill_temperature")
        distillation = {name: getattr(recipe, name) for name in names}
        recipe = replace(start, epochs=start.epochs + epochs, **distillation)
    key = fingerprint(
        arm,
        weights,
        target.to_dict(),
        asdict(recipe),
        data_summary(session.data),
        str(session.precision),
        *(["reconstruct"] if repairs else []),
    )
    path = folder / f"{arm}-s{seed}-{key[:8]}.json"
    finished = read_json(path)
    if finished is not None:
        return finished
    model = MAKERS[arm](dense, target, seed).to(session.device)
    found = removed = hits_of(model, session)
    repaired = None
    if repairs:
        train, flip = session.data.train, session.data.flip
        repair(model, dense, train, flip=flip, seed=seed, quiet=session.settings.quiet)
        found = hits_of(model, session)
        repaired = asdict(accuracy_of(found))
    partial = path.with_suffix(".partial.pth")
    history = []
    if recipe.epochs:
        teacher = copy.deepcopy(dense).eval() if recipe.distill_weight else None
        history = session.fit(model, recipe, partial, f"{arm}, seed {seed}", teacher)
        found = hits_of(model, session)
    save(model, path.with_suffix(".pth"))
    run = {
        "arm": arm,
        "seed": seed,
        "weights": weights,
        "recipe": asdict(recipe),
        "precision": str(session.precision).removeprefix("torch."),
        "widths": model.spec.widths,
        "macs": model.spec.macs(),
        "params": model.spec.params(),
        "one_shot": asdict(accuracy_of(removed)),
        "repaired": repaired,
        "test": asdict(accuracy_of(found)),
        "history": [asdict(epoch) for epoch in history],
        "data": data_summary(session.data),
        "environment": environment(session.device),
        "hits": pack_hits(found),
    }
    write_json(path, run)
    partial.unlink(missing_ok=True)
    return run


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
    help="What to compare; there are uniform, stock-plain and scratch too.",
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
    if settings.checkpoint is None:
        raise BadInput("--checkpoint: give the dense model that was swept")
    record = read_json(sweep) or {}
    swept = sweep_table(sweep, record, "structured")
    weights = file_fingerprint(settings.checkpoint)
    if record["weights"] != weights:
        raise BadInput(
            f"--sweep: {sweep}: is of another model than --checkpoint {settings.checkpoint}"
        )
    plans = candidates(swept, {"macs": budget}, 1, round_to=round_to)
    dense = load_model(settings, settings.checkpoint)
    targets = {
        name: dense.spec.with_widths({row.layer: row.after for row in plan.layers})
        for name, plan in plans.items()
    }
    repairs = repair_kind != "none"
    runs: dict[str, list[dict[str, Any]]] = {}
    with open_session(settings, dense) as session:
        folder = session.run.work / "controls"
        folder.mkdir(exist_ok=True, parents=True)
        dense = load(settings.checkpoint).to(session.device)
        dense.kept = {}  # it would index the channels of a model that this one was pruned from
        for seed in range(seeds):
            for arm in names:
                target = targets[BEST]
                if arm == "uniform":
                    target = targets.get(UNIFORM, target)  # not there if the plan is uniform
                run = one_run(session, dense, weights, target, arm, seed, finetune, repairs, folder)
                runs.setdefault(arm, []).append(run)
                click.echo(
                    f"{arm}, seed {seed}: {run['one_shot']['accuracy']:.2f} % as removed,"
                    f" {run['test']['accuracy']:.2f} % in the end"
                )
    click.echo(table(runs))


if __name__ == "__main__":
    sys.exit(cli.execute(command=main, name=Path(__file__).name))
