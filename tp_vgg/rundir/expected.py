"""The options are held against what a run directory holds, before any work.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from tp_vgg.data.catalogue import IMAGE_SIZE
from tp_vgg.errors import BadInput
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.criteria import Kind
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS, RunDir
from tp_vgg.rundir.settings import Settings


def expected_spec(settings: Settings) -> Spec:
    """Return the dense spec that a plan is made for, as far as it is known without torch.

    It is the spec of the baseline in the run directory, else the one of the flags with the classes
    of the data. No image is opened, so that the default run directory of a folder is found only if
    its images were decoded before. A ``--checkpoint`` is not read here; the stage reads it. Raises
    :class:`BadInput` if a flag contradicts the baseline.
    """
    digest = settings.known_fingerprint()
    if settings.out is not None or not settings.images.local or digest:
        run = RunDir.of(settings, digest)
        record = RunContents(run).record(MODELS[0])
        if record is not None:
            spec = spec_from_dict(record.spec)
            settings.check_spec(spec, run.root)
            return spec
    return replace(settings.flag_spec(), num_classes=settings.class_count())


def with_image_size(settings: Settings) -> Settings:
    """Return the settings with an image size: that of the option, else of the dense model, else 32.

    The dense model is the first one that has a record in the run directory, else the one that was
    swept. The default run directory of a folder is found only if its images were decoded before.
    """
    if settings.image_size is not None:
        return settings
    digest, size = settings.known_fingerprint(), IMAGE_SIZE
    if settings.out is not None or not settings.images.local or digest:
        contents = RunContents(RunDir.of(settings, digest))
        specs = [record.spec for record in contents.dense_records]
        if not specs:
            sweeps = (contents.sweep(kind) for kind in get_args(Kind))
            specs = [sweep[1].spec for sweep in sweeps if sweep is not None]
        size = spec_from_dict(specs[0]).image_size if specs else IMAGE_SIZE
    return replace(settings, image_size=size)


def check_images(
    settings: Settings, data: Mapping[str, Any], source: object, split: str = "test"
) -> None:
    """Raise :class:`BadInput` if an option names other images than a record's.

    ``data``: the record's entry about its images. ``source``: the record's file or directory, for
    the message. ``split``: the images that count. Only options that the user gave are compared.
    """
    dataset, number = data.get("dataset"), data.get(split)
    if "dataset" in settings.explicit and dataset != settings.dataset:
        raise BadInput(
            f"{source}: holds results on {dataset}, but --dataset {settings.dataset} was given;"
            " give that data set or another --out"
        )
    digest = settings.known_fingerprint() if "data_dir" in settings.explicit else None
    if digest is not None and digest != data.get("fingerprint"):
        raise BadInput(
            f"{source}: holds results on other images than those in --data-dir"
            f" {settings.data_dir}; give that directory or another --out"
        )
    limit = {"val": settings.limit_val, "test": settings.limit_test}[split]
    if limit is not None and isinstance(number, int) and number > limit:
        raise BadInput(
            f"{source}: holds results on {number} {split} images, but --limit-{split} {limit} was"
            " given; leave it out, or run the stages with it first"
        )
