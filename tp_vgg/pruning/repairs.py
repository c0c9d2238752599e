"""These are the repairs, by name: what corrects a pruned network without training it.

This module does not import torch.
"""

from __future__ import annotations

from typing import Literal, get_args

from tp_vgg.errors import BadInput
from tp_vgg.network.spec import Spec

Repair = Literal["none", "recalibrate", "reconstruct"]
"""``recalibrate``: batch norm's running statistics are recomputed over training images.
``reconstruct``: the weights are refitted (:func:`tp_vgg.repair`)."""
RepairOption = Literal["auto", "none", "recalibrate", "reconstruct"]
"""``auto``: ``reconstruct``, but ``none`` where a fine-tuning does better without."""

REPAIR_WORDS: dict[Repair, str] = {
    "none": "",
    "recalibrate": "batch norm recalibrated",
    "reconstruct": "weights refitted",
}
"""The repairs in a few words, for tables and figures."""

REFITS = 2
"""Part of the key of a sweep after ``reconstruct``; it rises when refitted weights may change."""
REPAIR_IMAGES = 1000
"""Images on which ``reconstruct`` looks, by default."""
CALIBRATION_IMAGES = 2000
"""Images over which ``recalibrate`` takes the statistics, by default."""


def check_repair(repair: RepairOption, spec: Spec) -> None:
    """Raise :class:`BadInput` if ``repair`` is unknown or needs batch norm that ``spec`` lacks."""
    if repair not in get_args(RepairOption):
        raise BadInput(f"repair: {repair!r} is not one of {', '.join(get_args(RepairOption))}")
    if repair == "recalibrate" and not spec.batch_norm:
        raise BadInput(
            f"recalibrate: {spec.arch} has no batch norm; leave it out, or prune with "
            "--repair reconstruct"
        )
