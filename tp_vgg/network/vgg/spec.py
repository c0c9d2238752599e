"""A VGG spec computes a network's parameters and MACs from its widths.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import islice
from typing import Any, Literal

from tp_vgg.errors import BadInput, shown
from tp_vgg.files.checks import choice, mapping, plain_number
from tp_vgg.network.layers import LayerRow

Head = Literal["torchvision", "linear"]
STAGES: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convs in each stage, by depth; a max-pool ends each stage.

Source: Simonyan & Zisserman 2015, table 1, columns A, B, D, E."""
STAGE_WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the convs in each stage of the full-width network."""
ARCHS = tuple(f"vgg{depth}{suffix}" for depth in STAGES for suffix in ("", "_bn"))
HEADS: tuple[Head, ...] = ("torchvision", "linear")
MAX_WIDTH = 1 << 16
"""Largest width and largest number of classes that a spec may have."""
MAX_HIDDEN = 8
"""Largest number of hidden linear layers that a spec may have."""
_LINEARS = 3  # "VGG-11" counts the torchvision head's three linears, even with the linear head


@dataclass(frozen=True)
class VGGSpec:
    """A VGG spec describes a VGG as data; the depth follows from the number of widths.

    Raises :class:`BadInput` if a field has a value that no VGG can have.
    """

    widths: tuple[int, ...]
    """Output channels of each conv, in order."""
    batch_norm: bool = True
    """True if batch norm follows each conv."""
    pool: int = 1
    """Side of the map that the head flattens: 7 as in torchvision, or 1 (folded)."""
    hidden: tuple[int, ...] = ()
    """Widths of the hidden linears; ``()`` is the linear head."""
    num_classes: int = 10
    image_size: int = 32
    """Side of the square input in pixels, from 32 to 1,024."""

    def __post_init__(self) -> None:
        for name in ("widths", "hidden"):
            value = getattr(self, name)
            if isinstance(value, str | bytes | Mapping | Set):
                raise BadInput(f"spec: {name}: must be a list of integers, got {shown(value)}")
            try:
                # A generator may not end.
                numbers = tuple(plain_number(number) for number in islice(value, MAX_WIDTH))
            except Exception:  # noqa: BLE001  it may be the caller's code
                raise BadInput(
                    f"spec: {name}: must be a list of integers, got {shown(value)}"
                ) from None
            object.__setattr__(self, name, numbers)
        for name in ("batch_norm", "pool", "num_classes", "image_size"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        if not isinstance(self.batch_norm, bool):
            raise BadInput(f"spec: batch_norm: must be true or false, got {shown(self.batch_norm)}")
        if len(self.widths) not in _DEPTH_OF:
            raise BadInput(
                f"spec: widths: {len(self.widths)} convs; a VGG has one of {sorted(_DEPTH_OF)}"
            )
        if len(self.hidden) > MAX_HIDDEN:
            raise BadInput(f"spec: hidden: {len(self.hidden)} hidden layers; at most {MAX_HIDDEN}")
        for name, value in (("widths", self.widths), ("hidden", self.hidden)):
            for width in value:
                _check_int(f"{name}", width, 1, MAX_WIDTH)
        _check_int("num_classes", self.num_classes, 1, MAX_WIDTH)
        _check_int("image_size", self.image_size, 32, 1024)
        if type(self.pool) is not int or self.pool not in (1, 7):
            raise BadInput(f"spec: pool: must be 1 or 7, got {shown(self.pool)}")

    @classmethod
    def preset(
        cls,
        arch: str = "vgg11_bn",
        head: str = "torchvision",
        *,
        num_classes: int = 10,
        pool: int = 1,
    ) -> VGGSpec:
        """Return the spec of a full-width network.

        ``pool=7`` gives torchvision's unfolded head; the linear head's pool is always 1. Raises
        :class:`BadInput` for an unknown ``arch`` or ``head``.
        """
        choice("arch", arch, ARCHS)
        choice("head", head, HEADS)
        depth = int(arch.removeprefix("vgg").removesuffix("_bn"))
        widths = tuple(
            w for w, n in zip(STAGE_WIDTHS, STAGES[depth], strict=True) for _ in range(n)
        )
        if head == "linear":
            return cls(widths, arch.endswith("_bn"), 1, (), num_classes)
        return cls(widths, arch.endswith("_bn"), pool, (4096, 4096), num_classes)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VGGSpec:
        """Return the spec that :meth:`to_dict` wrote.

        Raises :class:`BadInput` if a key is missing or unknown, or a value is not valid.
        """
        names = {f.name for f in fields(cls)}
        must = f"spec: must be an object with exactly the keys {', '.join(sorted(names))}"
        entries = mapping(must, data)
        if set(entries) != names:
            raise BadInput(must)
        return cls(**entries)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain types, as a checkpoint stores it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def depth(self) -> int:
        """Return the number in the VGG's name: 11, 13, 16 or 19."""
        return _DEPTH_OF[len(self.widths)]

    @property
    def arch(self) -> str:
        """Return torchvision's name of the architecture, such as ``vgg11_bn``."""
        return f"vgg{self.depth}{'_bn' if self.batch_norm else ''}"

    @property
    def stem(self) -> str:
        """Return the name without batch norm: ``vgg11`` for both ``vgg11`` and ``vgg11_bn``."""
        return f"vgg{self.depth}"

    @property
    def head(self) -> Head:
        """Return ``torchvision`` if there are hidden linears, else ``linear``."""
        return "torchvision" if self.hidden else "linear"

    @property
    def stages(self) -> tuple[int, ...]:
        """Return the number of convs in each stage; a 2×2 max-pool ends each stage."""
        return STAGES[self.depth]

    @cached_property
    def conv_names(self) -> tuple[str, ...]:
        """Return torchvision's module names of the convs, in order."""
        names, index = [], 0
        for convs in self.stages:
            for _ in range(convs):
                names.append(f"features.{index}")
                index += 3 if self.batch_norm else 2
            index += 1
        return tuple(names)

    @property
    def norm_names(self) -> tuple[str, ...]:
        """Return the module names of the batch norms, each behind its conv; () without any."""
        if not self.batch_norm:
            return ()
        return tuple(f"features.{int(name.rpartition('.')[2]) + 1}" for name in self.conv_names)

    @property
    def linear_names(self) -> tuple[str, ...]:
        """Return the module names of the linears, in order; the last one gives the logits."""
        if not self.hidden:
            return ("classifier",)
        return tuple(f"classifier.{3 * i}" for i in range(len(self.hidden) + 1))

    @property
    def prunable(self) -> dict[str, int]:
        """Return the width of each layer that a plan may name: all convs, all hidden linears."""
        return dict(
            zip(self.conv_names + self.linear_names[:-1], self.widths + self.hidden, strict=True)
        )

    @cached_property
    def rows(self) -> tuple[LayerRow, ...]:
        """Return a row for each conv and linear layer, in order."""
        rows = []
        names = iter(self.conv_names)
        widths = iter(self.widths)
        side, in_width, source = self.image_size, 3, None
        for convs in self.stages:
            for _ in range(convs):
                width = next(widths)
                weights = in_width * width * 9
                params = weights + width + (2 * width if self.batch_norm else 0)
                macs = weights * side * side
                rows.append(
                    LayerRow(
                        next(names), "conv", in_width, width, side, params, macs, weights, source
                    )
                )
                in_width, source = width, rows[-1].name
            side //= 2
        in_width, reads = in_width * self.pool**2, self.pool**2
        for name, width in zip(self.linear_names, (*self.hidden, self.num_classes), strict=True):
            weights = in_width * width
            rows.append(
                LayerRow(
                    name,
                    "linear",
                    in_width,
                    width,
                    1,
                    weights + width,
                    weights,
                    weights,
                    source,
                    reads,
                )
            )
            in_width, source, reads = width, name, 1
        return tuple(rows)

    def params(self) -> int:
        """Return the number of trainable parameters (not batch norm's running statistics)."""
        return sum(row.params for row in self.rows)

    def macs(self) -> int:
        """Return the multiply-accumulates of all conv and linear layers for one image.

        They are half of the operations that torch's ``FlopCounterMode`` counts.
        """
        return sum(row.macs for row in self.rows)

    def with_widths(self, widths: Mapping[str, int]) -> VGGSpec:
        """Return a copy in which the named prunable layers have the given widths.

        Raises :class:`BadInput` if a name is not that of a prunable layer, or a width is out of
        range.
        """
        entries = mapping("widths: must be an object such as {'features.0': 32}", widths)
        for name in entries:
            if name not in self.prunable:
                raise BadInput(
                    f"widths: {shown(name)}: no prunable layer of {self.arch} with the {self.head} "
                    f"head; it has {', '.join(self.prunable)}"
                )
        merged = {**self.prunable, **entries}
        values = tuple(merged[name] for name in self.prunable)
        return replace(self, widths=values[: len(self.widths)], hidden=values[len(self.widths) :])


_DEPTH_OF = {depth - _LINEARS: depth for depth in STAGES}


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadInput(f"spec: {name}: must be an integer in [{low}, {high}], got {shown(value)}")
