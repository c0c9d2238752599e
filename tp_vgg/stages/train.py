"""The `train` stage trains the dense model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tp_vgg.data.catalogue import IMAGE_SIZE
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.baseline import baseline, train_baseline
from tp_vgg.stages.defaults import baseline_recipe
from tp_vgg.stages.given import given_network, load_model
from tp_vgg.stages.session import open_session, ranked, stage


@stage
def train(
    settings: Settings,
    *,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    weights: str,
) -> dict[str, ModelRecord]:
    """Train the baseline of the run directory and return its record, by model name.

    ``epochs``, ``lr``, ``batch_size``: ``None`` means the default. ``weights``: ``none`` (random
    initial weights), ``imagenet``, or the path of a file. Raises :class:`BadInput` if the file
    can't be read or does not fit.
    """
    if weights not in ("none", "imagenet"):
        spec = load_model(settings, Path(weights), quiet=True).spec
        settings = settings.for_spec(spec)
        full_width = spec.prunable == settings.flag_spec().prunable
        if spec.num_classes != settings.class_count() and not full_width:
            raise BadInput(
                f"--weights: {weights}: has {spec.num_classes} classes and widths other than"
                f" {spec.arch}'s; a new last layer needs a full-width file"
            )
    if settings.image_size is None:
        settings = replace(settings, image_size=IMAGE_SIZE)
    recipe = baseline_recipe(settings, settings.flag_spec(), epochs, lr, batch_size)
    with ranked(settings) as (settings, ranks), open_session(settings, ranks=ranks) as session:
        return {"baseline": train_baseline(session, recipe, weights)}


@stage
def dense(settings: Settings, epochs: int | None = None) -> ModelRecord:
    """Return the record of the dense model, which is trained first if there is none.

    See :func:`tp_vgg.stages.baseline.baseline`.
    """
    settings, given_model = given_network(settings)
    with open_session(settings, given_model) as session:
        return baseline(session, given_model, epochs)[1]
