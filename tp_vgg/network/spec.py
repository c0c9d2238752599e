"""The spec protocol is what the tool needs to know of any architecture.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from tp_vgg.network.layers import LayerRow


class Spec(Protocol):
    """A spec describes an architecture as data: its layers and their cost.

    :meth:`with_widths` gives the same network at other widths.
    :func:`tp_vgg.network.families.spec_from_dict` reads back the spec of any family.
    """

    @property
    def arch(self) -> str:
        """Return the architecture's name within its family, such as ``vgg11_bn``."""
        ...

    @property
    def head(self) -> str:
        """Return the family's name of the classifier behind the convs, such as ``linear``."""
        ...

    @property
    def stem(self) -> str:
        """Return ``arch`` without its variant, such as ``vgg11``; files are named after it."""
        ...

    @property
    def batch_norm(self) -> bool:
        """Return True if batch norm follows the convs."""
        ...

    @property
    def num_classes(self) -> int:
        """Return the number of classes, which is that of the logits."""
        ...

    @property
    def image_size(self) -> int:
        """Return the side of the square input in pixels."""
        ...

    @property
    def prunable(self) -> Mapping[str, int]:
        """Return the width of each layer that a plan may name, in the network's order."""
        ...

    @property
    def rows(self) -> tuple[LayerRow, ...]:
        """Return a row for each conv and linear layer, in the network's order."""
        ...

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Return a copy in which the named prunable layers have the given widths.

        Raises :class:`BadInput` if a name is not that of a prunable layer.
        """
        ...

    def params(self) -> int:
        """Return the number of trainable parameters."""
        ...

    def macs(self) -> int:
        """Return the multiply-accumulates of all conv and linear layers for one image."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain types, as a checkpoint stores it."""
        ...


def conv_names(spec: Spec) -> tuple[str, ...]:
    """Return the module names of the convs, in the network's order."""
    return tuple(row.name for row in spec.rows if row.kind == "conv")


def narrowed(spec: Spec, target: Spec) -> list[str]:
    """Return the names of the prunable layers that are narrower in ``target`` than in ``spec``."""
    return [name for name, width in spec.prunable.items() if target.prunable[name] < width]
