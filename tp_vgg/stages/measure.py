"""A checkpoint is measured here: accuracy, size and cost become its record."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tp_vgg.data.datasets import DataSet
from tp_vgg.data.split import Normalisation
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.evaluate import accuracy, hits
from tp_vgg.evaluation.hits import pack_hits
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.machine.environment import environment
from tp_vgg.network import checkpoint
from tp_vgg.network.count import count_nonzero, layer_sparsity
from tp_vgg.stages.given import load_any

if TYPE_CHECKING:
    from tp_vgg.stages.session import Session

log = logging.getLogger(__name__)

LEAK = 2.0
"""Percentage points between the intervals of val and test accuracy from which a note warns."""


def measured(
    session: Session,
    path: Path,
    notes: tuple[str, ...] = (),
    *,
    shown_as: Path | None = None,
    as_saved: bool = False,
) -> ModelRecord:
    """Measure accuracy, size and cost of the checkpoint at ``path``, loaded from the disk.

    ``shown_as``: the path in notes, if it is not ``path``. If the accuracies suggest a fault
    (:meth:`~tp_vgg.evaluation.accuracy.Accuracy.chance_warnings`, :func:`leak_warnings`), a
    note says so in the log and in the record. A file that tp_vgg did not write counts with the
    size that tp_vgg would give it, so that sizes compare; a note says both. ``as_saved``: so does a
    file of another format than ``.pth``.
    """
    model = load_any(session.settings, path, quiet=True)
    foreign = checkpoint.is_foreign(model)
    model.to(session.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalisation = Normalisation.of(model.meta)
    label = session.settings.bar
    test_hits = hits(model, session.data.test, normalisation, label=label("measure, test"))
    test = Accuracy.of(int(test_hits.sum()), len(test_hits))
    val = accuracy(model, session.data.val, normalisation, label=label("measure, val"))
    chance = 100 * int(session.data.test.labels.bincount().max()) / len(test_hits)
    warnings = test.chance_warnings(chance)
    if foreign and warnings:
        warnings = tuple(
            f"{warning}: perhaps another normalisation (--mean, --std), image size or order of"
            " classes than in its training"
            for warning in warnings
        )
    if "data" not in model.meta and "baseline" not in model.meta:
        warnings = (*warnings, *leak_warnings(val, test))
    for warning in warnings:
        log.info(f"{shown_as or path}: {warning}")
    size, file_size = path.stat().st_size, None
    if foreign or (as_saved and path.suffix in checkpoint.SAFETENSORS):
        size, file_size = checkpoint.saved_bytes(model), size
        notes = (*notes, size_note(size, file_size))
    return ModelRecord(
        checkpoint=os.path.relpath(path.resolve(), session.run.root.resolve()),
        sha256=session.contents.sha256(path),
        baseline=model.meta.get("baseline"),
        key=model.meta.get("key", ""),
        val=val,
        test=test,
        params=model.spec.params(),
        nonzero=count_nonzero(model),
        macs=model.spec.macs(),
        bytes=size,
        spec=model.spec.to_dict(),
        sparsity=dict(layer_sparsity(model)),
        data=data_summary(session.data),
        environment=environment(session.device),
        peak_bytes=session.peak.bytes(),
        hits=pack_hits(test_hits),
        command=session.settings.command,
        notes=(*model.meta.get("notes", ()), *notes, *warnings),
        normalisation=session.settings.normalisation_record(),
        file_bytes=file_size,
    )


def leak_warnings(val: Accuracy, test: Accuracy) -> tuple[str, ...]:
    """Return a warning if a model is far better on val than on test images; else nothing.

    Their 95 % intervals are then apart by two percentage points or more.
    """
    if val.low - test.high < LEAK:
        return ()
    return (
        f"val accuracy {val.accuracy:.2f} % is far above test accuracy {test.accuracy:.2f} %: the"
        " model was probably trained on the val images, or the test images are of another kind;"
        " drops on val look too small then: quote test, or sweep with --split test",
    )


def size_note(size: int, file_size: int) -> str:
    """Return a note that tells the size of a foreign file from that of its network in tp_vgg's.

    ``size``: bytes as tp_vgg writes it. ``file_size``: bytes of the file.
    """
    return (
        f"the file has {file_size:,} bytes; sizes are compared with the {size:,} bytes that this"
        f" network takes as tp_vgg saves it ({size / file_size:.3f}× the file, by its form alone)"
    )


def data_summary(data: DataSet) -> dict[str, object]:
    """Return a record's entry about its images: data set, fingerprint, images per split."""
    sizes = {"train": len(data.train), "val": len(data.val), "test": len(data.test)}
    return {"dataset": data.name, "fingerprint": data.fingerprint, **sizes}
