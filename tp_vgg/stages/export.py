"""The `export` stage converts a checkpoint to another format and checks the result."""

from __future__ import annotations

from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.network.export import export
from tp_vgg.network.formats import EXPORT_FORMATS
from tp_vgg.rundir.layout import check_parent
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.given import load_model


def export_checkpoint(
    settings: Settings, source: Path, form: str, output: Path | None, force: bool
) -> tuple[Path, float]:
    """Write the checkpoint ``source`` in another format; return the new path and a difference.

    ``form``: a key of :data:`~tp_vgg.network.formats.EXPORT_FORMATS`. ``output``: ``None`` means
    beside ``source``, with the suffix of the format. The difference is the largest one of two
    logits that the check found, as a fraction of the largest logit; 0 for formats that hold weights
    (:func:`tp_vgg.network.export.export`).

    Raises :class:`BadInput` if ``source`` can't be read or a flag contradicts it, if ``output`` is
    ``source``, a directory, has another suffix than a weights format needs, or exists and ``force``
    is false; and as :func:`~tp_vgg.network.export.export` does.
    """
    model = load_model(settings, source)
    path = output or source.with_suffix(EXPORT_FORMATS[form].suffix)
    if path.exists() and (path.is_dir() or path.samefile(source)):
        raise BadInput(
            f"--output: {path} is {'a directory' if path.is_dir() else 'the checkpoint itself'};"
            " give another name"
        )
    if not EXPORT_FORMATS[form].program and path.suffix != EXPORT_FORMATS[form].suffix:
        raise BadInput(
            f"--output: {path}: must end in {EXPORT_FORMATS[form].suffix},"
            " because the suffix says how the file is read"
        )
    check_parent("--output", path)
    if path.exists() and not force:
        raise BadInput(f"--output: {path} exists; give --force to write over it")
    return path, export(model, path, form)
