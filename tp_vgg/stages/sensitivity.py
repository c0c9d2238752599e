"""The `sensitivity` stage measures the accuracy lost by pruning each layer alone, at each level.

It sweeps, saves the table and draws it.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tp_vgg.data.catalogue import IMAGE_SIZE
from tp_vgg.data.datasets import load_data
from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_atomic, write_json, write_text
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.files.journal import Journal
from tp_vgg.files.lock import locked
from tp_vgg.files.read import read_json
from tp_vgg.files.schema import table_of
from tp_vgg.files.torch_archive import read_archive
from tp_vgg.machine.distributed import Ranks
from tp_vgg.machine.environment import environment
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.calibration import calibration_sample
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import removals
from tp_vgg.pruning.repairs import REFITS, REPAIR_IMAGES
from tp_vgg.report import sweep_figures
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.expected import with_image_size
from tp_vgg.rundir.layout import RunDir, partial_of
from tp_vgg.rundir.replaced import put_away
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.reconstructed import RepairImages
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.sweep import run
from tp_vgg.sensitivity.table import SENSITIVITY, Sensitivity
from tp_vgg.stages.baseline import dense_model
from tp_vgg.stages.given import given_network
from tp_vgg.stages.measure import data_summary
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.session import open_session, ranked, stage

log = logging.getLogger(__name__)


Split = Literal["val", "test"]


@dataclass(frozen=True)
class _Request:
    """A request is the sweep that one command asks for."""

    settings: Settings
    question: SweepQuestion
    split: Split

    def named(self, spec: Spec) -> _Request:
        """Return the same request with the names of the layers, if it asks for all of them."""
        return replace(self, question=self.question.named(spec))

    def key(self, weights: str, data: str) -> str:
        """Return the key of the sweep: a fingerprint of weights, images and options.

        ``weights`` and ``data`` are fingerprints themselves. The precision is not part of the key,
        since the device decides what ``auto`` means; it is compared by itself.
        """
        question, settings = self.question, self.settings
        parts: dict[str, Any] = {
            "kind": question.kind,
            "levels": sorted(question.levels),
            "layers": sorted(question.layers or ()),
            "split": self.split,
            "importance": question.importance,
            **_repair_parts(question),
        }
        limits = [settings.limit_val if self.split == "val" else settings.limit_test]
        if question.repair != "none" or question.needs_gradients:
            limits.append(settings.limit_train)
        seeded = question.importance == "random" or question.repair == "reconstruct"
        seed = question.seed if seeded else 0
        more = settings.normalisation_parts()
        return fingerprint(SENSITIVITY, weights, data, parts, limits, seed, *more)

    def journal_key(self, key: str, precision: str) -> str:
        """Return the key of the sweep's journal.

        It also depends on the resolved precision and on the kind of device, since devices sum in
        different orders and so may differ in a few predictions.
        """
        return fingerprint(key, precision, self.settings.device.partition(":")[0])


def _repair_parts(question: SweepQuestion) -> dict[str, Any]:
    """Return the parts of a sweep's key that name the repair."""
    if question.repair == "reconstruct":
        return {"reconstruct": [REFITS, REPAIR_IMAGES], "linear": question.repair_linear}
    return {"recalibrate": True} if question.repair == "recalibrate" else {}


def sensitivity(settings: Settings, question: SweepQuestion, split: Split = "val") -> Sensitivity:
    """Sweep the layers of the dense model and return the table.

    Writes the table as ``.pth``, as CSV and as a record, and its figures. If no dense model is
    there, one is trained first. A finished sweep of the same weights, images and options is not
    repeated. Under torchrun every process evaluates its share of the images, and the main process
    writes. Raises :class:`BadInput` if the question does not fit the dense model.
    """
    contents = RunContents.of(settings) if settings.out is not None else None
    given_model = None
    spec = _spec_swept_before(settings, question, contents) if contents else None
    if spec is not None:
        settings = settings.for_spec(spec)
    else:
        settings, given_model = given_network(settings)
    if given_model is not None:
        question.removed(given_model.spec)  # refuses a question that does not fit
    with ranked(with_image_size(settings)) as (settings, ranks):
        request = _Request(settings, question, split)
        with ranks.main_first():
            digest = _data_fingerprint(settings)
            run_dir = RunDir.of(settings, digest)
            if contents is None or contents.run != run_dir:
                contents = RunContents(run_dir)
            table = _finished(request, contents, digest, ranks)
        if (table := ranks.broadcast(table)) is not None:
            return table
        if given_model is None:
            settings, given_model = given_network(settings)
        return _sweep(replace(request, settings=settings), given_model, contents, ranks)


@stage
def _sweep(
    request: _Request, given_model: Network | None, contents: RunContents, ranks: Ranks
) -> Sensitivity:
    settings = request.settings
    with open_session(settings, given_model, ranks, contents=contents) as session:
        dense = dense_model(session, given_model)
        model, weights = dense.model, session.contents.sha256(dense.path)
        request = request.named(model.spec)
        question = request.question
        question.removed(model.spec)  # refuses a question that does not fit
        settings.begin_work()
        session.accumulate_gradients(model, question.importance)
        train, flip = session.data.train, session.data.flip
        sample = refitted_to = None
        if question.repair == "recalibrate":
            sample = calibration_sample(train)
        elif question.repair == "reconstruct":
            refitted_to = RepairImages.of("--limit-train", train, model, question.seed, flip=flip)
        resolved = ResolvedSweep.of(question, model, sample, refitted_to)
        key = request.key(weights, session.data.fingerprint)
        files = _Files(settings, session.run, question.kind)
        journal = (
            Journal(files.journal, request.journal_key(key, resolved.precision))
            if ranks.is_main
            else None
        )
        images = session.data.val if request.split == "val" else session.data.test
        table = run(model.eval(), images, resolved, key, journal, ranks, quiet=settings.quiet)
        if journal is not None:
            files.replace(
                {
                    **table.to_dict(),
                    "weights": weights,
                    "checkpoint": os.path.relpath(dense.path.resolve(), session.run.root.resolve()),
                    "data": {"split": request.split, **data_summary(session.data)},
                    "environment": environment(session.device),
                    "notes": [*model.meta.get("notes", ()), *dense.notes],
                }
            )
            journal.remove()
        return table


def _spec_swept_before(
    settings: Settings, question: SweepQuestion, contents: RunContents
) -> Spec | None:
    """Return the spec in the run directory's record, if that is of the file ``--checkpoint``.

    It is then the spec of the file, which need not be loaded yet. Raises :class:`BadInput` if the
    question or a flag does not fit it.
    """
    if settings.checkpoint is None or settings.mean is not None:
        return None
    record = read_json(_Files(settings, contents.run, question.kind).record) or {}
    if record.get("weights") != contents.sha256(settings.checkpoint):
        return None
    try:
        spec = spec_from_dict(record["spec"])
    except (KeyError, BadInput):
        return None
    question.removed(spec)
    settings.check_spec(spec, settings.checkpoint)
    return spec


class _Files:
    """These are the files that a sweep leaves in its run directory.

    The record is written last: if it is there, the other files are of the same sweep.
    """

    def __init__(self, settings: Settings, run: RunDir, kind: Kind) -> None:
        self.settings, self.run = settings, run
        name = f"{kind}_sensitivity"
        self.results = run.work / f"{name}_results.pth"
        self.csv = run.work / f"{name}.csv"
        self.record = run.work / "records" / f"{name}.json"
        self.journal = partial_of(self.csv).with_suffix(".jsonl")
        self.figures = {
            name: sweep_figures.sensitivity,
            f"{name}_cost": sweep_figures.sensitivity_cost,
        }

    def replace(self, record: dict[str, Any]) -> None:
        """Write all files; those of another sweep are put away first."""
        former = (read_json(self.record) if self.record.is_file() else None) or {}
        key, precision = former.get("key"), former.get("precision")
        if isinstance(key, str) and (key, precision) != (record["key"], record["precision"]):
            plots = [self.run.plot(figure) for figure in self.figures]
            put_away(self.run.work, key, [*plots, self.csv, self.results, self.record])
        # First remove the older record, because its files are overwritten from here on.
        self.record.unlink(missing_ok=True)
        self.write(record)
        write_json(self.record, {**record, "command": self.settings.command})

    def write(self, record: dict[str, Any], *, missing_only: bool = False) -> None:
        """Write the files that follow from the record: ``.pth``, CSV and figures.

        With ``missing_only``, files that hold the right content already are left alone; of a
        figure, only its presence is checked.
        """
        table = Sensitivity.from_dict(record)
        record = {name: value for name, value in record.items() if name != "command"}
        # A copy without shared objects: pickle writes a shared object otherwise than an equal one.
        record = json.loads(json.dumps(record))
        if not (missing_only and _holds(self.results, record)):
            write_atomic(self.results, lambda file: torch.save(record, file))
        if not (
            missing_only and self.csv.is_file() and self.csv.read_bytes() == table.csv().encode()
        ):
            write_text(self.csv, table.csv())
        for figure, draw in self.figures.items():
            if not (missing_only and self.run.plot(figure).is_file()):
                keep_figure(self.settings, self.run, figure, draw(table))


def _holds(path: Path, record: dict[str, Any]) -> bool:
    try:
        return bool(read_archive(path) == record)
    except Exception:  # noqa: BLE001  what a torn or foreign file raises is not documented
        return False


def _finished(
    request: _Request, contents: RunContents, digest: str, ranks: Ranks
) -> Sensitivity | None:
    """Return the table of a finished sweep of the same weights, images and options, if any.

    ``digest``: the fingerprint of the images. The main process writes outputs that are missing.
    """
    settings = request.settings
    weights = settings.checkpoint or contents.run.own_baseline(settings)
    files = _Files(settings, contents.run, request.question.kind)
    record = read_json(files.record)
    table = table_of(Sensitivity, record)
    if (
        record is None
        or table is None
        or weights is None
        or not _answers(table, request, contents.sha256(weights), digest)
    ):
        return None
    settings.check_spec(spec_from_dict(table.spec), weights)
    if settings.begin is None:
        log.info(
            f"{files.record}: these weights, images and options were swept before; nothing to do"
        )
    if ranks.is_main:
        with locked(contents.run.root):
            files.write(record, missing_only=True)
            if Journal.key_of(files.journal) == request.journal_key(table.key, table.precision):
                # The sweep was killed after its record was written.
                files.journal.unlink()
    return table


def _answers(table: Sensitivity, request: _Request, weights: str, data: str) -> bool:
    """Return True if ``table`` is of the request, and of the weights and images by fingerprint."""
    try:
        spec = spec_from_dict(table.spec)
        request = request.named(spec)
        question, levels = request.question, sorted(request.question.levels)
        removed = removals(question.kind, spec, levels, question.layers)
    except BadInput:
        return False
    precision = request.question.precision
    return (
        table.key == request.key(weights, data)
        and table.removed == removed
        and all([point.ratio for point in table.of_layer(layer)] == levels for layer in removed)
        and (table.precision == precision or (precision == "auto" and table.precision != "bf16"))
    )


def _data_fingerprint(settings: Settings) -> str:
    if settings.images.local:
        return settings.folder_fingerprint()
    return load_data(
        settings.dataset,
        settings.data_dir,
        torch.device("cpu"),
        image_size=settings.image_size or IMAGE_SIZE,
    ).fingerprint
