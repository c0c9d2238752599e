"""A sweep measures a network's accuracy with one layer pruned, for every layer and level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.images import Images, Labelled, Unlabelled
from tp_vgg.files.checks import true_or_false
from tp_vgg.files.journal import Journal
from tp_vgg.files.read import as_path
from tp_vgg.machine.distributed import ALONE, Ranks
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.doors import (
    check_built,
    check_no_inference_tensors,
    network_of,
    unmasked_network,
)
from tp_vgg.network.network import Network
from tp_vgg.pruning.calibration import calibration_sample
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.repairs import Repair
from tp_vgg.sensitivity.engine import Engine
from tp_vgg.sensitivity.hit_table import HitTable
from tp_vgg.sensitivity.question import Precision, SweepQuestion
from tp_vgg.sensitivity.reconstructed import RepairImages
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.table import LEVELS, Point, Sensitivity


def sweep(
    model: Network,
    split: Labelled,
    kind: Kind = "structured",
    *,
    levels: Sequence[float] = LEVELS,
    layers: Sequence[str] | None = None,
    importance: str = "l1",
    seed: int = 0,
    precision: Precision = "auto",
    recalibrate: Labelled | None = None,
    reconstruct: Unlabelled | None = None,
    flip: bool = False,
    repair_linear: bool = False,
    journal: str | Path | None = None,
    quiet: bool = True,
) -> Sensitivity:
    """Measure the accuracy over ``split`` with one layer of ``model`` pruned, per layer and level.

    ``structured`` removes a layer's least important channels, ``unstructured`` zeroes its smallest
    weights. In fp32, the counts are those of evaluating each pruned network itself. ``model`` is
    not changed.

    ``levels``: fractions in [0, 1) of the layer's channels or weights. ``layers``: names; ``None``
    is every conv. ``importance``: how channels are ranked; ``taylor`` and ``hessian`` read the
    gradients in the parameters, ``random`` uses ``seed``, ``obs`` looks at the images of
    ``reconstruct``. ``precision``: see :class:`SweepQuestion`.

    ``split``: a :class:`~tp_vgg.data.Split`, a pair (images, labels) of tensors, or a
    ``DataLoader`` (or another iterable, not a generator) of such pairs, all of which are held in
    memory. uint8 images are normalised as ``model.meta`` says; float images go to the network as
    they are, as in a loop of your own. Pairs and batches are moved to the device of ``model``.

    ``recalibrate``: training images, likewise. At every point, the batch norms behind the pruned
    layer take new statistics on a sample of them before the network is evaluated. Without it, most
    of a drop comes from statistics that no longer fit, which fine-tuning corrects first.

    ``reconstruct``: training images, as :func:`tp_vgg.repair` takes them. At every point, weights
    are refitted to a sample of them: of the layer that reads the removed channels, or of the zeroed
    layer itself. That is what ``tp_vgg.repair(…, layers=[…], flip=flip, seed=seed)`` does after the
    same pruning. No other layer is refitted, though a repair of the whole network refits those
    behind it too. Zeroed weights of hidden linear layers are refitted only with ``repair_linear``,
    since that takes long. For all levels of a layer, sums over the sample are taken once.

    ``journal``: a file that keeps finished layers, so that the same call resumes there after a
    stop. ``quiet``: no progress bar.

    Raises :class:`BadInput` for a kind, layers, levels, an importance or a precision that do not
    fit, a model with weight masks or that its spec does not describe, no batch norm to recalibrate,
    or a split without images, of images of another size or with labels that are no class.
    """
    if recalibrate is not None and reconstruct is not None:
        raise BadInput("recalibrate, reconstruct: a sweep has one repair; give one of them")
    repair: Repair = "none" if recalibrate is None else "recalibrate"
    repair = repair if reconstruct is None else "reconstruct"
    question = SweepQuestion.of(
        kind, levels, layers, importance, repair, seed, precision, repair_linear
    )
    true_or_false("flip", flip)
    network = network_of(model)
    question.removed(network.spec)
    place = None if journal is None else as_path(journal, "journal")
    if place is not None and Journal.is_other(place):
        raise BadInput(f"journal: {place}: is not a journal of a sweep; give another name")
    true_or_false("quiet", quiet)
    unmasked_network(network)
    check_no_inference_tensors(network)
    Normalisation.of(network.meta)
    images = Images.of("split", split, network)
    sample = None
    if recalibrate is not None:
        sample = calibration_sample(Images.of("recalibrate", recalibrate, network).whole())
    refitted_to = None
    if reconstruct is not None:
        refitted_to = RepairImages.of("reconstruct", reconstruct, network, question.seed, flip=flip)
    check_built(network)
    whole = images.whole()
    resolved = ResolvedSweep.of(question, network, sample, refitted_to)
    key = resolved.key(network, whole)
    return run(
        network, whole, resolved, key, None if place is None else Journal(place, key), quiet=quiet
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
                Engine(model, split, resolved, ranks, quiet=quiet).fill(hit_table, quiet)
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
    repair = resolved.repair, resolved.repair_linear
    return Sensitivity(key, *options, dense, tuple(points), *repair)
