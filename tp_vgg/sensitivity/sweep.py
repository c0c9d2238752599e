"""Sensitivity sweeps: the accuracy of a network with one layer pruned, for every layer and level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tp_vgg.data.split import Split
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.files.journal import Journal
from tp_vgg.machine.distributed import ALONE, Ranks
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.network import Network
from tp_vgg.pruning.calibration import calibration_sample
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.repair import Repair
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
    """Accuracy over ``split`` with one layer of ``model`` pruned, for every layer (``None``: all convs) and level in [0, 1).

    ``structured`` removes a layer's least important channels, ``unstructured`` zeroes its smallest weights; the counts are those of
    the pruned network itself, one forward pass a point. ``recalibrate``: training images over which, at every point, the batch norms behind
    the pruned layer get new statistics before the network is judged; without, a drop is mostly that they do not fit any more, which
    fine-tuning mends first. ``taylor`` reads the gradients left in the parameters. With ``journal``,
    layers that are done are kept in that file, and the same call goes on from there. ``model`` is not changed.

    Raises :class:`BadInput` for unknown layers or levels, and for an importance that does not fit.
    """
    if isinstance(layers, str):
        raise BadInput(f"layers: {layers!r} is one name; give a list of names")
    names = None if layers is None else tuple(layers)
    repair: Repair = "none" if recalibrate is None else "recalibrate"
    question = SweepQuestion(kind, tuple(levels), names, importance, repair, seed, precision)
    sample = None if recalibrate is None else calibration_sample(recalibrate)
    asked = ResolvedSweep.of(question, model, sample)
    if not len(split):
        raise BadInput("split: has no images to evaluate on")
    key = asked.key(model, split)
    return run(
        model, split, asked, key, Journal(Path(journal), key) if journal else None, quiet=quiet
    )


def run(
    model: Network,
    split: Split,
    asked: ResolvedSweep,
    key: str,
    journal: Journal | None = None,
    ranks: Ranks = ALONE,
    *,
    quiet: bool = True,
) -> Sensitivity:
    """:func:`sweep` once its question is resolved, over all ``ranks``; ``journal`` belongs to the leading one."""
    hit_table = HitTable.of(asked, len(split), journal, ranks)
    if hit_table.unknown(range(len(asked.rows)), slice(None)).any():
        try:
            with exact_fp32():
                Engine(model, split, asked, ranks).fill(hit_table, quiet)
        except KeyboardInterrupt:
            kept = f"{hit_table.finished} of {len(asked.rows)} points are kept" if journal else ""
            raise KeyboardInterrupt(kept) from None
    hits = hit_table.hits == 1
    removed = [count for counts in asked.removed.values() for count in counts]
    points = [
        Point.of(
            str(layer), level, removed[row - 1], hits[row], hits[0], int(hit_table.redone[row])
        )
        for row, (layer, level) in enumerate(asked.rows)
        if row
    ]
    dense = Accuracy.of(int(hits[0].sum()), len(split))
    about = (asked.kind, asked.importance, asked.precision, model.spec.to_dict())
    return Sensitivity(key, *about, dense, tuple(points), asked.repair == "recalibrate")
