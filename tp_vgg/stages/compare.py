"""`compare`: one table of all models, and metrics.json, from the stages' records alone."""

from __future__ import annotations

from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_json
from tp_vgg.rundir.comparison import Comparison, compared, metrics
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS
from tp_vgg.rundir.settings import Settings


def compare(
    settings: Settings, checkpoints: tuple[Path, ...] = (), contents: RunContents | None = None
) -> Comparison:
    """The records of a run directory, and of ``checkpoints`` measured now on the same data; writes ``metrics.json``.
    ``contents``: of the run directory, where a command knows them.

    Raises :class:`BadInput` where nothing has run yet. A model that does not belong in the table is left out, with a note.
    """
    if settings.checkpoint is not None:
        from tp_vgg.stages.session import load_dense

        settings = settings.for_spec(load_dense(settings, settings.checkpoint).spec)
    contents, records = (
        _measured(settings, checkpoints)
        if checkpoints
        else (contents or RunContents.of(settings), None)
    )
    found = compared(contents, records)
    write_json(contents.run.work / "metrics.json", metrics(found))
    return found


def _measured(
    settings: Settings, checkpoints: tuple[Path, ...]
) -> tuple[RunContents, dict[str, ModelRecord]]:
    from tp_vgg.network.checkpoint import load
    from tp_vgg.stages.session import check_classes, data_summary, session

    models = {path: load(path) for path in checkpoints}
    with session(settings) as work:
        records = dict(work.contents.models)
        if records and records[MODELS[0]].data != data_summary(work.data):
            raise BadInput(
                f"{work.run.root}: its models were measured on other images; give the same --dataset and --limit options"
            )
        for path, model in models.items():
            check_classes(model, work.data, path)
            records[str(path)] = work.measured(path)
        return work.contents, records
