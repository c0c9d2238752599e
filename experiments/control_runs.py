"""A run of an experiment prunes, repairs and fine-tunes a network, and leaves a JSON file.

The file has one bit per test image, so that differences between runs are paired. A run whose file
is there is not repeated.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from control_arms import MAKERS

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
from tp_vgg.pruning.repair import repair
from tp_vgg.rundir.contents import sweep_table
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.table import Sensitivity
from tp_vgg.stages.defaults import baseline_recipe, finetune_recipe, structured_epochs
from tp_vgg.stages.given import load_model
from tp_vgg.stages.measure import data_summary
from tp_vgg.stages.options import Finetune, StructuredOptions
from tp_vgg.stages.session import Session, open_session


def hits_of(model: VGG, session: Session) -> np.ndarray:
    """Return, for each test image, whether the model classifies it correctly: bool ``[N]``."""
    return hits(model.to(session.device), session.data.test, Normalisation.of(model.meta))


def accuracy_of(hits: np.ndarray) -> Accuracy:
    """Return the accuracy of what :func:`hits_of` returns."""
    return Accuracy.of(int(hits.sum()), len(hits))


def unpacked(run: dict[str, Any]) -> np.ndarray:
    """Return the hits of a run, bool ``[N]``: True for a test image classified correctly."""
    return unpack_hits(run["hits"], run["test"]["n"])


@dataclass(frozen=True)
class Bench:
    """A bench holds what all runs of one experiment share."""

    session: Session
    dense: VGG
    weights: str
    """SHA-256 of the dense model's file."""
    folder: Path
    """The runs lie here: ``OUT/controls``."""


def read_sweep(settings: Settings, sweep: Path) -> Sensitivity:
    """Return the sweep in the file ``sweep``; raise :class:`BadInput` unless it is of the model."""
    if settings.checkpoint is None:
        raise BadInput("--checkpoint: give the dense model that was swept")
    record = read_json(sweep) or {}
    table = sweep_table(sweep, record, "structured")
    if record["weights"] != file_fingerprint(settings.checkpoint):
        raise BadInput(
            f"--sweep: {sweep}: is of another model than --checkpoint {settings.checkpoint}"
        )
    return table


@contextmanager
def opened(settings: Settings) -> Iterator[Bench]:
    """Open the run directory and the dense model of ``settings`` for runs."""
    assert settings.checkpoint is not None, "read_sweep comes before"
    with open_session(settings, load_model(settings, settings.checkpoint)) as session:
        folder = session.run.work / "controls"
        folder.mkdir(exist_ok=True, parents=True)
        dense = load(settings.checkpoint).to(session.device)
        dense.kept = {}  # it would index the channels of a model that this one was pruned from
        yield Bench(session, dense, file_fingerprint(settings.checkpoint), folder)


def run_key(
    arm: str,
    weights: str,
    target: VGGSpec,
    recipe: Mapping[str, Any],
    data: Mapping[str, Any],
    precision: str,
    repairs: bool,
) -> str:
    """Return the fingerprint of what decides the result of a run; its file is named by it."""
    parts: list[Any] = [arm, weights, target.to_dict(), recipe, data, precision]
    parts += ["reconstruct"] if repairs else []
    parts += ["row norms"] if repairs and recipe["epochs"] else []
    return fingerprint(*parts)


def one_run(
    bench: Bench, target: VGGSpec, arm: str, seed: int, finetune: Finetune, repairs: bool
) -> dict[str, Any]:
    """Return the result of one arm with one seed, from its JSON file or done now.

    ``target``: the widths of the plan. ``repairs``: the network is repaired before it is
    fine-tuned.
    """
    session, dense = bench.session, bench.dense
    settings = replace(session.settings, seed=seed)
    repairs = repairs and arm not in ("dense", "scratch")
    epochs = finetune.epochs
    if epochs is None:
        epochs = structured_epochs(settings, StructuredOptions())
    if arm == "stock-plain":
        finetune = replace(finetune, distill=False)
    trained = dense.meta.get("training") or {}
    recipe = finetune_recipe(settings, dense.spec, epochs, finetune, trained, refitted=repairs)
    if arm == "scratch":
        start = baseline_recipe(
            settings, dense.spec, *(trained.get(name) for name in ("epochs", "lr", "batch_size"))
        )
        names = ("distill_weight", "distill_temperature")
        distillation = {name: getattr(recipe, name) for name in names}
        recipe = replace(start, epochs=start.epochs + epochs, **distillation)
    data, precision = data_summary(session.data), str(session.precision)
    key = run_key(arm, bench.weights, target, asdict(recipe), data, precision, repairs)
    path = bench.folder / f"{arm}-s{seed}-{key[:8]}.json"
    finished = read_json(path)
    if finished is not None:
        return finished
    model = MAKERS[arm](dense, target, seed, session.data.train).to(session.device)
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
        "weights": bench.weights,
        "recipe": asdict(recipe),
        "precision": precision.removeprefix("torch."),
        "widths": model.spec.widths,
        "macs": model.spec.macs(),
        "params": model.spec.params(),
        "one_shot": asdict(accuracy_of(removed)),
        "repaired": repaired,
        "test": asdict(accuracy_of(found)),
        "history": [asdict(epoch) for epoch in history],
        "data": data,
        "environment": environment(session.device),
        "hits": pack_hits(found),
    }
    write_json(path, run)
    partial.unlink(missing_ok=True)
    return run
