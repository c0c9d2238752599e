"""A record of a model that was never measured, and of a repair that never was."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from helpers.networks import SMALL
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.hits import pack_hits
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.evaluation.repaired import LayerRepair, RepairRecord, RepairResult


def record(hits: list[int], **changed: object) -> ModelRecord:
    some = Accuracy.of(sum(hits), len(hits))
    known = {
        "checkpoint": "m.pth", "sha256": "00", "baseline": None, "key": "", "val": some,
        "test": some, "params": SMALL.params(), "nonzero": 1, "macs": SMALL.macs(), "bytes": 1,
        "spec": SMALL.to_dict(), "sparsity": {row.name: 0.0 for row in SMALL.rows},
        "environment": {}, "peak_bytes": 1,
        "data": {
            "dataset": "d", "fingerprint": "00", "train": 1, "val": len(hits), "test": len(hits),
        },
        "hits": pack_hits(np.array(hits)), "command": "",
    }  # fmt: skip
    return ModelRecord(**{**known, **changed})  # type: ignore[arg-type]


def repair(removed: int, repaired: int, n: int, layers: Iterable[str] = ()) -> RepairRecord:
    """A repair from ``removed`` to ``repaired`` right answers; without layers a recalibration.

    The first layer is unchanged, the second kept; the error of each other one falls to 0.2.
    """
    outcomes = {name: LayerRepair(0.5 + 0.1 * i, 0.2, "refitted") for i, name in enumerate(layers)}
    for name, errors in zip(
        outcomes,
        (LayerRepair(0.0, 0.0, "unchanged"), LayerRepair(0.4, 0.4, "kept")),
        strict=False,
    ):
        outcomes[name] = errors
    return RepairRecord(
        "reconstruct" if outcomes else "recalibrate",
        Accuracy.of(removed, n),
        Accuracy.of(repaired, n),
        RepairResult(outcomes, 90, 10) if outcomes else None,
    )
