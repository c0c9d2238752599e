"""What a sweep asks (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tp_vgg.errors import BadInput
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.criteria import CRITERIA, Kind, check_importance
from tp_vgg.pruning.ratios import removals
from tp_vgg.pruning.repair import Repair, check_repair
from tp_vgg.sensitivity.table import LEVELS

Precision = Literal["auto", "fp32", "bf16", "screened"]
ALL_LAYERS = ("all",)
"""In the place of layers' names: all that a plan can name."""


@dataclass(frozen=True)
class SweepQuestion:
    """What is asked of any network: each of ``layers`` alone is pruned to each of ``levels``."""

    kind: Kind = "structured"
    levels: tuple[float, ...] = LEVELS
    """Fractions in [0, 1), in any order."""
    layers: tuple[str, ...] | None = None
    """Every conv where ``None``, and hidden linears too where :data:`ALL_LAYERS`."""
    importance: str = "l1"
    repair: Repair = "none"
    """Of the network behind the pruned layer, at every point."""
    seed: int = 0
    """Of the importance ``random``."""
    precision: Precision = "auto"
    """``auto`` screens in bf16 and verifies in fp32 where that is faster (:func:`~tp_vgg.machine.precision.screening_pays`), and is fp32
    elsewhere."""

    @property
    def needs_gradients(self) -> bool:
        return self.importance in CRITERIA and CRITERIA[self.importance].needs_gradients

    def named(self, spec: Spec) -> SweepQuestion:
        """With the names of all layers in the place of :data:`ALL_LAYERS`."""
        return replace(self, layers=tuple(spec.prunable)) if self.layers == ALL_LAYERS else self

    def removed(self, spec: Spec) -> Mapping[str, tuple[int, ...]]:
        """Channels or weights that are taken away, by layer in the network's order, and rising level.

        Raises :class:`BadInput` for layers, levels, an importance or a repair that do not fit ``spec``.
        """
        if self.kind not in get_args(Kind) or self.precision not in get_args(Precision):
            raise BadInput(
                f"kind {self.kind!r}, precision {self.precision!r}: give one of {get_args(Kind)} and one of {get_args(Precision)}"
            )
        check_repair(self.repair, spec)
        removed = removals(self.kind, spec, sorted(self.levels), self.named(spec).layers)
        check_importance(self.importance, spec, removed, self.kind)
        return removed
