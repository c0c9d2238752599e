"""A repair corrects a pruned network without training it."""

from __future__ import annotations

from typing import Literal, get_args

from tp_vgg.errors import BadInput
from tp_vgg.network.spec import Spec

Repair = Literal["none", "recalibrate"]
"""``recalibrate``: batch norm's running statistics are recomputed over training images."""


def check_repair(repair: Repair, spec: Spec) -> None:
    """Raise :class:`BadInput` if ``repair`` is unknown or needs batch norm that ``spec`` lacks."""
    if repair not in get_args(Repair):
        raise BadInput(f"repair: {repair!r} is not one of {', '.join(get_args(Repair))}")
    if repair == "recalibrate" and not spec.batch_norm:
        raise BadInput(f"--recalibrate: {spec.arch} has no batch norm; leave it out")
