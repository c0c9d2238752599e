"""A stage's finished models get their names together, after the former ones were put away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.evaluation.repaired import RepairRecord
from tp_vgg.machine.distributed import Ranks
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS
from tp_vgg.rundir.replaced import put_away


@dataclass(frozen=True)
class Prepared:
    """A Prepared is a finished model whose file and record have not got their names yet."""

    file: Path
    """Path of the checkpoint now."""
    path: Path
    """Path that it will have."""
    name: str
    record: ModelRecord

    def repaired(self, repair: RepairRecord | None) -> Prepared:
        """Return the same model, whose record says how it was repaired."""
        return replace(self, record=replace(self.record, repair=repair))


@dataclass(frozen=True)
class Former:
    """A Former is a set of finished results that other ones are about to replace."""

    directory: Path
    """Directory that holds them, and their ``replaced/``."""
    key: str
    """Key of their settings."""
    files: tuple[Path, ...]
    """The files, the records last."""
    copies: tuple[Path, ...] = ()
    """Files that they share with other results, such as the benchmark."""
    keep: bool = True
    """False with ``--force``: the files are deleted."""

    def give_way(self) -> None:
        """Move the files to ``replaced/``, or delete them with ``--force``."""
        if self.keep:
            put_away(self.directory, self.key, self.files, self.copies)
            return
        for path in self.files:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def deleted_unless_published(prepared: Sequence[Prepared], ranks: Ranks) -> Iterator[None]:
    """Delete the files of prepared models that have no name yet when the block ends.

    That is so after an error or Ctrl-C; a rerun makes them again. The main process alone deletes.
    """
    try:
        yield
    finally:
        for model in prepared if ranks.is_main else ():
            model.file.unlink(missing_ok=True)


def finished_models(
    contents: RunContents, names: Sequence[str], key: str, data: dict[str, Any]
) -> dict[str, ModelRecord]:
    """Return the records of models that were made with these settings; empty unless all are there.

    ``key``: that of the settings. ``data``: the images
    (:func:`~tp_vgg.stages.measure.data_summary`). A damaged record counts as none.
    """
    records = {name: _record(contents, name) for name in names}
    made = {
        name: record
        for name, record in records.items()
        if record is not None
        and (record.key, record.data) == (key, data)
        and not contents.file_fault(record)
    }
    return made if len(made) == len(names) else {}


def former_models(
    contents: RunContents,
    names: Sequence[str],
    stem: str,
    key: str,
    data: dict[str, Any],
    *,
    force: bool = False,
) -> Former | None:
    """Return the models that were made with other settings; ``None`` if there are none.

    ``names``: the models that belong together. ``stem``: that of the new network. ``key`` and
    ``data``: as for :func:`finished_models`. ``force``: they are deleted instead of kept.
    """
    run = contents.run
    records = {name: _record(contents, name) for name in names}
    paths = {name: run.checkpoint(name, stem) for name in names}
    files, keys = [], []
    for name, record in records.items():
        checkpoint = run.root / record.checkpoint if record else paths[name]
        if not checkpoint.is_file() and not run.record_path(name).is_file():
            continue
        if record is None or (record.key, record.data) != (key, data):
            keys.append(record.key if record and record.key else _key_of(contents, checkpoint))
        files += [checkpoint, paths[name]]
        files += [path for path in (run.history(name),) if path is not None]
    if not keys:
        return None
    digests = {record.sha256 for record in records.values() if record is not None}
    latency = contents.latency
    timed = latency is not None and any(
        facts.get("sha256") in digests for facts in latency.models.values()
    )
    inside = run.root if names[0] == MODELS[0] else run.work
    return Former(
        directory=inside,
        key=keys[0],
        files=(
            *(path for path in files if path.parent == inside),
            *(run.record_path(name) for name in names),
        ),
        copies=(run.latency,) if timed else (),
        keep=not force,
    )


def _record(contents: RunContents, name: str) -> ModelRecord | None:
    try:
        return contents.record(name)
    except BadInput:
        return None


def _key_of(contents: RunContents, path: Path) -> str:
    """Return a key for a checkpoint without a record: the hash of the file."""
    return contents.sha256(path) if path.is_file() else "unknown"
