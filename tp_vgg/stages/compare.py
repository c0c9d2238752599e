"""The `compare` stage puts all models in one table and writes metrics.json, from their records."""

from __future__ import annotations

import logging
from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_json
from tp_vgg.rundir.comparison import Comparison, compared, metrics, recorded, swept_only
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS
from tp_vgg.rundir.settings import Settings

log = logging.getLogger(__name__)


def compare(
    settings: Settings, checkpoints: tuple[Path, ...] = (), contents: RunContents | None = None
) -> Comparison:
    """Compare the models of a run directory, and write ``metrics.json``.

    ``checkpoints`` are measured now, on the same data, and stand in the table too. ``contents``:
    the contents of the run directory, if the command has read them already. A model that does not
    belong in the table is left out, with a note.

    Raises :class:`BadInput` if nothing has run yet, if a checkpoint can't be read or has other
    classes, and if ``checkpoints`` are given but the settings do not name the images on which the
    run directory's models were measured.
    """
    if settings.checkpoint is not None:
        from tp_vgg.stages.given import given_network

        settings, _ = given_network(settings)
    if checkpoints:
        contents, records = _measured(settings, checkpoints)
    else:
        contents = contents or RunContents.of(settings)
        records = records_of(settings, contents)
    comparison = compared(contents, records)
    write_json(contents.run.work / "metrics.json", metrics(comparison))
    return comparison


def records_of(settings: Settings, contents: RunContents) -> dict[str, ModelRecord]:
    """Return the models of a run directory that the options name, the dense one first.

    If ``--checkpoint`` was swept and no more, it is measured now: a sweep does not do that.
    """
    records = recorded(settings, contents)
    swept = None if records or settings.checkpoint is None else swept_only(contents)
    if settings.checkpoint is None or swept != settings.checkpoint.resolve():
        return records
    from tp_vgg.stages.train import dense

    log.info(f"{settings.checkpoint}: has only been swept: measuring it")
    dense(settings)
    return recorded(settings, contents)


def _measured(
    settings: Settings, checkpoints: tuple[Path, ...]
) -> tuple[RunContents, dict[str, ModelRecord]]:
    from tp_vgg.stages.given import load_any
    from tp_vgg.stages.measure import measured
    from tp_vgg.stages.session import open_session

    models = {path: load_any(settings, path) for path in checkpoints}
    with open_session(settings, others=models) as session:
        images = (session.data.name, session.data.fingerprint, len(session.data.test))
        dense = (settings.checkpoint, settings.normalisation_record())
        records = session.contents.models_of(images[-1], *dense)
        records = records or session.contents.models_of(None, *dense)
        if records and records[MODELS[0]].test_images != images:
            raise BadInput(
                f"{session.run.root}: its models were measured on other test images;"
                " give the same --dataset, --limit-test and --image-size"
            )
        for path in models:
            records[str(path)] = measured(session, path)
        return session.contents, records
