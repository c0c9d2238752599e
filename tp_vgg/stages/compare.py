"""The `compare` stage puts all models in one table and writes metrics.json, from their records."""

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
    """Compare the models of a run directory, and write ``metrics.json``.

    ``checkpoints`` are measured now, on the same data, and stand in the table too. ``contents``:
    the contents of the run directory, if the command has read them already. A model that does not
    belong in the table is left out, with a note.

    Raises :class:`BadInput` if nothing has run yet, if a checkpoint can't be read or has other
    classes, and if ``checkpoints`` are given but the settings do not name the images on which the
    run directory's models were measured.
    """
    if settings.checkpoint is not None:
        from tp_vgg.stages.session import load_dense

        settings = settings.for_spec(load_dense(settings, settings.checkpoint).spec)
    contents, records = (
        _measured(settings, checkpoints)
        if checkpoints
        else (contents or RunContents.of(settings), None)
    )
    comparison = compared(contents, records)
    write_json(contents.run.work / "metrics.json", metrics(comparison))
    return comparison


def _measured(
    settings: Settings, checkpoints: tuple[Path, ...]
) -> tuple[RunContents, dict[str, ModelRecord]]:
    from tp_vgg.network.checkpoint import load
    from tp_vgg.stages.session import check_classes, data_summary, open_session

    models = {path: load(path) for path in checkpoints}
    with open_session(settings) as session:
        records = dict(session.contents.models)
        if records and records[MODELS[0]].data != data_summary(session.data):
            raise BadInput(
                f"{session.run.root}: its models were measured on other images;"
                " give the same --dataset and --limit options"
            )
        for path, model in models.items():
            check_classes(model, session.data, path)
            records[str(path)] = session.measured(path)
        return session.contents, records
