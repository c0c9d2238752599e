"""A sweep measures a network's accuracy with one layer pruned, for every layer and level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tp_vgg.data.split import Split
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.files.checks import type_name
from tp_vgg.files.journal import Journal
from tp_vgg.files.read import as_path
from tp_vgg.machine.distributed import ALONE, Ranks
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.doors import check_built, network_of, unmasked_network
from tp_vgg.network.network import Network
from tp_vgg.pruning.calibration import calibration_sample
from tp_vgg.pruning.criteria import Kind
from tp_vgg.sensitivity.engine import Engine
from tp_vgg.sensitivity.hit_table import HitTable
from tp_vgg.sensitivity.question import Precision, SweepQuestion
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.table import LEVELS, Point, Sensitivity


def sweep(
    model: Network,
    split: Split,
    kind: Kind = "structured",
    *,
    levels: Sequence[float] = LEVELS,
    layers: Sequence[str] | None = None,
    importance: str = "l1",
    seed: int = 0,
    precision: Precision = "auto",
    recalibrate: Split | None = None,
    journal: str | Path | None = None,
    quiet: bool = True,
) -> Sensitivity:
    """Measure the accuracy over ``split`` with one layer of ``model`` pruned, per layer and level.

    ``structured`` removes a layer's least important channels, ``unstructured`` zeroes its smallest
    weights. In fp32, the counts are those of evaluating each pruned network itself. ``model`` is
    not changed.

    ``levels``: fractions in [0, 1) of the layer's channels or weights. ``layers``: names; ``None``
    is every conv. ``importance``: how channels are ranked; ``taylor`` and ``hessian`` read the
    gradients in the parameters, ``random`` uses ``seed``. ``precision``: see
    :class:`SweepQuestion`.

    ``recalibrate``: training images. At every point, the batch norms behind the pruned layer take
    new statistics on a sample of them before the network is evaluated. Without it, most of a drop
    comes from statistics that no longer fit, which fine-tuning corrects first.

    ``journal``: a file that keeps finished layers, so that the same call resumes there after a
    stop. ``quiet``: no progress bar.

    Raises :class:`BadInput` for a kind, layers, levels, an importance or a precision that do not
    fit, a model with weight masks or that its spec does not describe, no batch norm to recalibrate,
    or a split without images, of images of another size or with labels that are no class.
    """
    question = SweepQuestion.of(
        kind,
        levels,
        layers,
        importance,
        "none" if recalibrate is None else "recalibrate",
        seed,
        precision,
    )
    network = network_of(model)
    question.removed(network.spec)
    place = None if journal is None else as_path(journal, "journal")
    unmasked_network(network)
    check_split("split", split, network)
    sample = None
    if recalibrate is not None:
        check_split("recalibrate", recalibrate, network)
        sample = calibration_sample(recalibrate)
    check_built(network)
    resolved = ResolvedSweep.of(question, network, sample)
    key = resolved.key(network, split)
    return run(
        network, split, resolved, key, None if place is None else Journal(place, key), quiet=quiet
    )


def check_split(name: str, split: object, model: Network) -> None:
    """Raise :class:`BadInput` unless ``split`` is a :class:`Split` that ``model`` can classify.

    It must have images of the size that the model takes, on its device, and labels of its classes.
    """
    if not isinstance(split, Split):
        raise BadInput(
            f"{name}: must be a tp_vgg.data.Split(images, labels), got {type_name(split)}"
        )
    if not len(split):
        raise BadInput(f"{name}: has no images")
    device = next(model.parameters()).device
    if split.labels.device != device:
        raise BadInput(
            f"{name}: on {split.labels.device}, the model on {device}; move one of them with .to()"
        )
    height, width = split.images.shape[2:]
    side = model.spec.image_size
    if (height, width) != (side, side):
        raise BadInput(
            f"{name}: images of {height}x{width} pixels; the network takes {side}x{side}: resize "
            "them, or give a network whose spec has their image_size"
        )
    low, high = int(split.labels.min()), int(split.labels.max())
    classes = model.spec.num_classes
    if low < 0 or high >= classes:
        raise BadInput(
            f"{name}: labels: from {low} to {high}; the network has {classes} classes, numbered "
            f"from 0 to {classes - 1}"
        )


def run(
    model: Network,
    split: Split,
    resolved: ResolvedSweep,
    key: str,
    journal: Journal | None = None,
    ranks: Ranks = ALONE,
    *,
    quiet: bool = True,
) -> Sensitivity:
    """Run a resolved sweep over all ``ranks`` and return its table, with ``key`` as its key.

    ``journal``: given on the main rank only. Ctrl-C raises ``KeyboardInterrupt`` with the number of
    points that the journal keeps.
    """
    hit_table = HitTable.of(resolved, len(split), journal, ranks)
    if hit_table.unknown(range(len(resolved.rows)), slice(None)).any():
        try:
            with exact_fp32():
                Engine(model, split, resolved, ranks).fill(hit_table, quiet)
        except KeyboardInterrupt:
            total = len(resolved.rows)
            kept = f"{hit_table.finished} of {total} points are kept" if journal else ""
            raise KeyboardInterrupt(kept) from None
    hits = hit_table.hits == 1
    removed = [count for counts in resolved.removed.values() for count in counts]
    points = [
        Point.of(
            str(layer), level, removed[row - 1], hits[row], hits[0], int(hit_table.redone[row])
        )
        for row, (layer, level) in enumerate(resolved.rows)
        if row
    ]
    dense = Accuracy.of(int(hits[0].sum()), len(split))
    options = (resolved.kind, resolved.importance, resolved.precision, model.spec.to_dict())
    return Sensitivity(key, *options, dense, tuple(points), resolved.repair == "recalibrate")
