"""`train`: the dense baseline."""

from __future__ import annotations

from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.network import checkpoint
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.baseline import baseline, train_baseline
from tp_vgg.stages.defaults import baseline_recipe
from tp_vgg.stages.session import load_given, ranked, session, stage


@stage
def train(
    settings: Settings,
    *,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    weights: str,
) -> dict[str, ModelRecord]:
    """Train the baseline of the run directory, from nothing, from ImageNet's weights or from a file."""
    if settings.checkpoint is not None:
        raise BadInput(
            "--checkpoint: train makes a dense model; to start from a file give --weights PATH"
        )
    if weights not in ("none", "imagenet"):
        spec = checkpoint.load(Path(weights)).spec
        settings.check_spec(spec, weights)
        settings = settings.for_spec(spec)
    recipe = baseline_recipe(settings, settings.flag_spec(), epochs, lr, batch_size)
    with ranked(settings) as (settings, ranks), session(settings, ranks=ranks) as work:
        return {"baseline": train_baseline(work, recipe, weights)}


@stage
def dense(settings: Settings, epochs: int | None = None) -> ModelRecord:
    """The record of the model to prune: that of ``--checkpoint``, the run directory's, or one trained now, for ``epochs``."""
    given = load_given(settings)
    with session(settings, given) as work:
        return baseline(work, given, epochs)[1]
