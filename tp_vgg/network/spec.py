"""What the tool asks of any architecture's description (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from tp_vgg.network.layers import LayerRow


class Spec(Protocol):
    """An architecture as data: its layers, what they cost, and the same network at other widths.

    :func:`tp_vgg.network.families.spec_from_dict` reads one back, of whatever family it is.
    """

    @property
    def arch(self) -> str:
        """The family's name of it, such as ``vgg11_bn``."""
        ...

    @property
    def head(self) -> str:
        """What stands behind the convs, in the family's words."""
        ...

    @property
    def stem(self) -> str:
        """The arch without its variants, as files are named by it, such as ``vgg11``."""
        ...

    @property
    def batch_norm(self) -> bool:
        """Whether batch norm stands behind the convs."""
        ...

    @property
    def num_classes(self) -> int: ...

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        ...

    @property
    def prunable(self) -> Mapping[str, int]:
        """Width of every layer that a plan may name, in the network's order."""
        ...

    @property
    def rows(self) -> tuple[LayerRow, ...]:
        """Every conv and linear layer, in order."""
        ...

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """A copy in which the named prunable layers have the given widths. Raises ``KeyError`` for any other name."""
        ...

    def params(self) -> int:
        """Trainable parameters."""
        ...

    def macs(self) -> int:
        """Multiply-accumulates of conv and linear layers for one image."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        ...


def conv_names(spec: Spec) -> tuple[str, ...]:
    """The convs, in order."""
    return tuple(row.name for row in spec.rows if row.kind == "conv")


def narrowed(spec: Spec, target: Spec) -> list[str]:
    """The prunable layers that are narrower in ``target``."""
    return [name for name, width in spec.prunable.items() if target.prunable[name] < width]
