"""`export`: one checkpoint in another format, checked before it is kept."""

from __future__ import annotations

from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.network import checkpoint
from tp_vgg.network.export import export
from tp_vgg.network.formats import EXPORT_FORMATS
from tp_vgg.rundir.layout import check_parent
from tp_vgg.rundir.settings import Settings


def export_checkpoint(
    settings: Settings, source: Path, form: str, output: Path | None, force: bool
) -> tuple[Path, float]:
    """Write ``source`` in ``form`` to ``output`` (beside it, with the format's suffix, where ``None``); returns where that is, and the largest
    difference of the logits that the check found. Raises :class:`BadInput` for a bad file, and for an output that is the source, or exists unless ``force``."""
    model = checkpoint.load(source)
    settings.check_spec(model.spec, source)
    path = output or source.with_suffix(EXPORT_FORMATS[form].suffix)
    if path.exists() and (path.is_dir() or path.samefile(source)):
        raise BadInput(
            f"--output: {path} is {'a directory' if path.is_dir() else 'the checkpoint itself'}; give another name"
        )
    if not EXPORT_FORMATS[form].program and path.suffix != EXPORT_FORMATS[form].suffix:
        raise BadInput(
            f"--output: {path}: must end in {EXPORT_FORMATS[form].suffix}, by which it is read"
        )
    check_parent("--output", path)
    if path.exists() and not force:
        raise BadInput(f"--output: {path} exists; give --force to write over it")
    return path, export(model, path, form)
