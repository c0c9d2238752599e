"""The files that a user gives are loaded here and checked against the options and the data."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from tp_vgg.data.catalogue import IMAGE_SIZE
from tp_vgg.data.datasets import DataSet
from tp_vgg.errors import BadInput
from tp_vgg.machine.console import is_main_process
from tp_vgg.network import checkpoint
from tp_vgg.network.network import Network
from tp_vgg.rundir.layout import RunDir
from tp_vgg.rundir.settings import Settings

log = logging.getLogger(__name__)


def given_network(settings: Settings) -> tuple[Settings, Network | None]:
    """Load the model of ``--checkpoint``, if it was given, and adapt the settings to its spec.

    The settings then name the same run directory for each command, and hold ``--mean`` and
    ``--std`` only if they say more than the file. Raises :class:`BadInput` as :func:`load_model`
    does.
    """
    if settings.checkpoint is None:
        return settings, None
    model = load_model(settings, settings.checkpoint, quiet=not is_main_process())
    if not checkpoint.is_foreign(model):
        settings = replace(settings, mean=None, std=None)
    return settings.for_spec(model.spec), model


def load_model(settings: Settings, path: Path, *, quiet: bool = False) -> Network:
    """Load a network from ``path``; unless ``quiet``, log what was assumed of a foreign file.

    Raises :class:`BadInput` if the file can't be read or a flag contradicts it: ``--arch``,
    ``--head``, ``--image-size``, ``--mean`` or ``--std``.
    """
    model = load_any(settings, path, quiet=quiet)
    settings.check_spec(model.spec, path)
    return model


def load_any(settings: Settings, path: Path, *, quiet: bool = False) -> Network:
    """Load a network as :func:`load_model` does; its architecture may be another than the flags'.

    Raises :class:`BadInput` if the file can't be read or ``--mean``, ``--std`` or
    ``--image-size`` contradicts it.
    """
    # 32 is what is assumed anyway, and the settings may have got it from the file itself.
    size = None if settings.image_size == IMAGE_SIZE else settings.image_size
    model = checkpoint.load(path, mean=settings.mean, std=settings.std, image_size=size)
    if not quiet and not settings.noted and checkpoint.is_foreign(model):
        for note in model.meta.get("notes", ()):
            log.info(f"{path}: {note}")
    return model


def check_fits(model: Network, data: DataSet, source: object) -> None:
    """Raise :class:`BadInput` if ``model`` was made for other images than those of ``data``.

    The image size and the number of classes must be equal, and the names of the classes too if the
    model knows them. ``source`` is the model's file, for the message.
    """
    size = data.test.images.shape[-1]
    if model.spec.image_size != size:
        raise BadInput(
            f"{source}: takes images of {model.spec.image_size} pixels, these have {size};"
            f" give --image-size {model.spec.image_size}, or another --out or checkpoint"
        )
    if model.spec.num_classes != len(data.classes):
        raise BadInput(
            f"{source}: has {model.spec.num_classes} classes, {data.name} has {len(data.classes)};"
            " give the data it was trained on"
        )
    classes = model.meta.get("classes")
    if classes is not None and tuple(classes) != data.classes:
        raise BadInput(
            f"{source}: was trained for other class names than {data.name}'s;"
            " give the data it was trained on"
        )


def check_not_overwritten(path: Path, run: RunDir, stem: str, writes: tuple[str, ...]) -> None:
    """Raise :class:`BadInput` if ``--checkpoint`` is the file of a model to be written.

    ``path``: that of ``--checkpoint``. ``stem``: the stem of its spec. ``writes``: the models.
    """
    if path.resolve() in {run.checkpoint(name, stem).resolve() for name in writes}:
        raise BadInput(f"--checkpoint: {path} would be written over; give a --tag or another --out")
