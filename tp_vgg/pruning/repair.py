"""What may correct a network after pruning, without training."""

from __future__ import annotations

from tp_vgg.errors import BadInput
from tp_vgg.network.vgg.spec import VGGSpec


def check_recalibrate(spec: VGGSpec) -> None:
    """Raise :class:`BadInput` where ``spec`` has no batch norm that could have new statistics."""
    if not spec.batch_norm:
        raise BadInput(f"--recalibrate: {spec.arch} has no batch norm; leave it out")
