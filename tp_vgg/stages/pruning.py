"""Both pruning stages use these steps.

They resolve the request, open the run directory, draw a layer, and recognise finished work by its
key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from matplotlib.figure import Figure

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.precision import pick_precision
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.repairs import REPAIR_IMAGES
from tp_vgg.rundir.layout import MODELS
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.baseline import Dense, dense_model
from tp_vgg.stages.defaults import finetune_rate, structured_epochs
from tp_vgg.stages.given import given_network
from tp_vgg.stages.measure import data_summary
from tp_vgg.stages.options import Finetune, PruningRequest, StructuredOptions, UnstructuredOptions
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.results import Former, finished_models, former_models
from tp_vgg.stages.session import Session, open_session, ranked

log = logging.getLogger(__name__)

Resolved = TypeVar("Resolved")


@dataclass(frozen=True)
class Drawing(Generic[Resolved]):
    """A Drawing holds what it takes to draw a layer before and after pruning."""

    session: Session
    dense: Network
    """The dense model, on the session's device; the stage prunes it in place."""
    resolved: Resolved
    """The request, resolved against the dense model's spec."""

    def draw(self, name: str, figure: Figure) -> Path:
        """Save a figure as ``plots/NAME.png`` and return its path."""
        return keep_figure(self.session.settings, self.session.run, name, figure)


@dataclass(frozen=True)
class Pruning(Drawing[Resolved]):
    """A Pruning holds what a pruning stage works with."""

    baseline: ModelRecord
    """Record of the dense model."""

    def finished(self, names: tuple[str, ...], key: str) -> dict[str, ModelRecord]:
        """Return the records of the models and of the baseline if all were made before.

        ``key``: that of the settings. Empty unless all models are there. A note in the log says so.
        """
        session = self.session
        records = session.ranks.run_on_main(
            lambda: finished_models(session.contents, names, key, data_summary(session.data))
        )
        if not records:
            return {}
        if session.settings.begin is None:
            log.info(
                f"{', '.join(names)}: made with these settings before; nothing to do"
                " (--force makes them again)"
            )
        return {MODELS[0]: self.baseline, **records}

    def former(self, names: tuple[str, ...], key: str, *, force: bool) -> Former | None:
        """Return the models of other settings that are to give way, or ``None``.

        ``names``: all models that this stage may leave. ``force``: they are deleted, not kept.
        """
        session, stem = self.session, self.dense.spec.stem
        data = data_summary(session.data)
        return session.ranks.run_on_main(
            lambda: former_models(session.contents, names, stem, key, data, force=force)
        )


@contextmanager
def pruning(
    settings: Settings, request: PruningRequest[Any, Resolved], writes: tuple[str, ...]
) -> Iterator[Pruning[Resolved]]:
    """Open a session for a pruning, for the duration of the block.

    ``writes``: the models that the stage writes. The dense model is that of
    :func:`tp_vgg.stages.baseline.baseline`, which trains one if there is none. Raises
    :class:`~tp_vgg.errors.BadInput` if the request does not fit the model; for that of
    ``--checkpoint``, before anything is written.
    """
    with _opened(settings, request, writes) as (session, dense):
        baseline = dense.measured(session)
        yield Pruning(session, dense.model, request.resolve(dense.model.spec), baseline)


@contextmanager
def drawing(
    settings: Settings, request: PruningRequest[Any, Resolved]
) -> Iterator[Drawing[Resolved]]:
    """Open a session to draw a layer, as :func:`pruning` does; the dense model is not measured."""
    with _opened(settings, request, ()) as (session, dense):
        yield Drawing(session, dense.model, request.resolve(dense.model.spec))


@contextmanager
def _opened(
    settings: Settings, request: PruningRequest[Any, Resolved], writes: tuple[str, ...]
) -> Iterator[tuple[Session, Dense]]:
    settings, given_model = given_network(settings)
    if given_model is not None:
        request.resolve(given_model.spec)
    _note_unused(request.options)
    with (
        ranked(settings) as (settings, ranks),
        open_session(settings, given_model, ranks, writes) as session,
    ):
        yield session, dense_model(session, given_model)


def _note_unused(options: StructuredOptions | UnstructuredOptions) -> None:
    """Log the options of fine-tuning that were given though there is none."""
    epochs = options.finetune.epochs
    default = Finetune(epochs)
    unused = [
        f"--{name.replace('_', '-')}"
        for name in Finetune.__dataclass_fields__
        if getattr(options.finetune, name) != getattr(default, name)
    ]
    if epochs == 0 and unused:
        log.info(f"{', '.join(unused)}: without effect, since --finetune-epochs is 0")


def work_key(
    settings: Settings,
    baseline: str,
    spec: Spec,
    plan: Plan,
    options: StructuredOptions | UnstructuredOptions,
) -> str:
    """Return the key of the records of models that are pruned in this way from one of ``spec``.

    It is a fingerprint of the dense checkpoint (``baseline``: its SHA-256), its normalisation if
    that was given, the plan, the options that have an effect, the seed and, if the model is
    trained, the precision unless that is the device's own. For structured pruning, the epochs are
    in it too.
    """
    parts = asdict(options)
    more: list[object] = settings.normalisation_parts()
    epochs = (
        structured_epochs(settings, options)
        if isinstance(options, StructuredOptions)
        else options.finetune.epochs
    )
    if epochs and settings.precision != "auto":
        device = pick_device(settings.device)
        precision = pick_precision(settings.precision, device)
        more += [str(precision)] if precision != pick_precision("auto", device) else []
    if not epochs:
        parts["finetune"] = asdict(Finetune(options.finetune.epochs))
    del parts["repair"]
    better_without = ""
    if isinstance(options, UnstructuredOptions):
        better_without = options.better_without_repair(spec, plan)
    method = options.repair.method(better_without)
    if method == "reconstruct":
        more += [["reconstruct", options.repair.images or REPAIR_IMAGES], "row norms"]
    elif method == "recalibrate" and options.repair.images is not None:
        more.append(["recalibrate", options.repair.images])
    if isinstance(options, UnstructuredOptions):
        del parts["steps"]
        steps = options.chosen_steps(spec, plan)
        more += [["steps", steps]] if steps > 1 else []
        more += ["moved zeros"] if method == "reconstruct" and options.move_zeros else []
        more += ["recalibrate"] if method == "recalibrate" else []
        return fingerprint(baseline, dict(plan.values), parts, settings.seed, *more)
    parts["recalibrate"] = method == "recalibrate"
    if method == "reconstruct" and options.finetune.lr is None:
        more += _other_rate(settings, spec, options, epochs or 0)
    return fingerprint(baseline, dict(plan.values), parts, settings.seed, epochs, *more)


def _other_rate(
    settings: Settings, spec: Spec, options: StructuredOptions, epochs: int
) -> list[str]:
    """Return what is in the key if a refit changes the default rate of the fine-tuning."""
    rates = {
        finetune_rate(settings, spec, epochs // options.steps, refitted=refitted)
        for refitted in (True, False)
    }
    return ["rate by epochs"] if len(rates) > 1 and options.finetune.schedule != "rewind" else []
