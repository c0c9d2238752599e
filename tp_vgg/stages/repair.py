"""Both pruning stages repair a pruned model here, before any fine-tuning."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, replace

from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.evaluate import accuracy
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.evaluation.repaired import RepairRecord, RepairResult
from tp_vgg.network.network import Network
from tp_vgg.pruning.calibration import recalibrate
from tp_vgg.pruning.repair import repair
from tp_vgg.pruning.repair_sample import LEAST_IMAGES
from tp_vgg.pruning.repairs import CALIBRATION_IMAGES, REPAIR_IMAGES, Repair
from tp_vgg.stages.options import RepairOptions
from tp_vgg.stages.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Accuracies:
    """These are the accuracies of one model."""

    val: Accuracy
    test: Accuracy

    @classmethod
    def of(cls, session: Session, model: Network, what: str) -> Accuracies:
        """Measure ``model``, which the progress bars call ``what``; the main process does."""
        normalisation, label = Normalisation.of(model.meta), session.settings.bar
        return session.ranks.run_on_main(
            lambda: cls(
                accuracy(model, session.data.val, normalisation, label=label(f"{what}, val")),
                accuracy(model, session.data.test, normalisation, label=label(f"{what}, test")),
            )
        )


@dataclass(frozen=True)
class Repaired:
    """A Repaired says how a model was repaired; its accuracy afterwards is not measured yet."""

    method: Repair
    note: str
    """What was done, for the model's record."""
    removed: Accuracies
    """Accuracies before the repair."""
    result: RepairResult | None

    def record(self, repaired: Accuracies | ModelRecord) -> RepairRecord:
        """Return the part of a model's record; ``repaired`` has the accuracies after the repair."""
        assert self.method != "none"
        return RepairRecord(
            self.method,
            self.removed.test,
            repaired.test,
            self.result,
            self.removed.val,
            repaired.val,
        )


def chosen_repair(options: RepairOptions, better_without: str = "") -> RepairOptions:
    """Return ``options`` with what ``auto`` stands for, and log it.

    ``better_without``: that of :meth:`RepairOptions.method`. Images that were given for no repair
    are in the log too.
    """
    method = options.method(better_without)
    if options.option == "auto" and better_without:
        log.info(f"--repair auto: none, {better_without}")
    elif options.option == "auto":
        log.info("--repair auto: reconstruct, which refits the weights from unlabelled images")
    if method == "none" and options.images is not None:
        log.info("--repair-images: without effect, since nothing is repaired")
    return replace(options, option=method)


def unpruned_copy(model: Network, options: RepairOptions) -> Network | None:
    """Return a copy of ``model`` to repair it by after pruning; ``None`` if none is needed."""
    return copy.deepcopy(model) if options.method() == "reconstruct" else None


def repaired_model(
    session: Session,
    model: Network,
    dense: Network | None,
    options: RepairOptions,
    *,
    move_zeros: bool = False,
) -> Repaired | None:
    """Measure and repair ``model``, in place; return ``None`` if nothing is to be repaired.

    ``dense``: the :func:`unpruned_copy` from just before the pruning. ``move_zeros``: that of
    :func:`tp_vgg.repair`. Raises :class:`BadInput` if there are too few training images, and
    :class:`WorkFailed` if the networks' numbers overflow.
    """
    method, seed = options.method(), session.settings.seed
    if method == "none":
        return None
    train = session.data.train
    if method == "reconstruct" and len(train) < LEAST_IMAGES:
        raise BadInput(
            f"--repair reconstruct: needs {LEAST_IMAGES} training images, and there is "
            f"{len(train)}; give --repair none"
        )
    removed = Accuracies.of(session, model, "as removed")
    if method == "recalibrate":
        images = min(options.images or CALIBRATION_IMAGES, len(train))
        label = session.settings.bar("batch norm")
        recalibrate(model, train, Normalisation.of(model.meta), seed, images, label)
        note = "then batch norm's statistics were recomputed"
        return Repaired(method, note, removed, None)
    assert dense is not None
    result = repair(
        model,
        dense,
        train,
        limit=min(options.images or REPAIR_IMAGES, len(train)),
        flip=session.data.flip,
        seed=seed,
        move_zeros=move_zeros,
        quiet=session.settings.quiet,
    )
    for name, layer in result.layers.items():
        if not math.isfinite(layer.before):
            raise WorkFailed(
                f"{name}: its outputs on the images of the repair are not finite; "
                "give --repair none"
            )
    images = result.images + result.held_out
    refitted = sum(layer.outcome == "refitted" for layer in result.layers.values())
    zeros = "the zeros were chosen anew in each layer and " if move_zeros else ""
    note = (
        f"then {zeros}the weights were refitted in {refitted} of {len(result.layers)} layers, from "
        f"{images:,} unlabelled images"
    )
    return Repaired(method, note, removed, result)
