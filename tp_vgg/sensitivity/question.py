"""A sweep question says what a sweep evaluates; it needs no network and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tp_vgg.errors import BadInput, shown
from tp_vgg.files.checks import MAX_SEED, choice, sequence, text, true_or_false, whole_number
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.criteria import CRITERIA, Kind, check_importance
from tp_vgg.pruning.ratios import fraction, removals
from tp_vgg.pruning.repairs import Repair, check_repair
from tp_vgg.sensitivity.table import LEVELS

Precision = Literal["auto", "fp32", "bf16", "screened"]
ALL_LAYERS = ("all",)
"""Stands for all layers that a plan can name: every conv and every hidden linear layer."""


@dataclass(frozen=True)
class SweepQuestion:
    """A sweep question asks for the accuracy with each layer alone pruned to each level.

    It fits any network; :class:`~tp_vgg.sensitivity.resolved.ResolvedSweep` adds the network.
    """

    kind: Kind = "structured"
    levels: tuple[float, ...] = LEVELS
    """Fractions in [0, 1), in any order: ratios (structured) or sparsities (unstructured)."""
    layers: tuple[str, ...] | None = None
    """Names of layers. ``None``: every conv; :data:`ALL_LAYERS`: the hidden linear layers too."""
    importance: str = "l1"
    """How structured pruning ranks channels: a key of :data:`~tp_vgg.pruning.criteria.CRITERIA`."""
    repair: Repair = "none"
    """How the network behind the pruned layer is corrected, at every point."""
    repair_linear: bool = False
    """Refit the zeroed weights of hidden linear layers too, which takes long."""
    seed: int = 0
    """Seed of the importance ``random``, and of the images of the repair ``reconstruct``."""
    precision: Precision = "auto"
    """Arithmetic of the evaluation.

    ``screened`` evaluates in bf16, and again in fp32 the images that bf16 leaves too close to call.
    ``auto`` is ``screened`` if that was measured to be faster on the device
    (:func:`~tp_vgg.machine.precision.screening_pays`), else ``fp32``.
    """

    @classmethod
    def of(
        cls,
        kind: Kind,
        levels: Iterable[float],
        layers: Iterable[str] | None,
        importance: str,
        repair: Repair,
        seed: int,
        precision: Precision,
        repair_linear: bool = False,
    ) -> SweepQuestion:
        """Return the question of a Python caller, whose types are checked here.

        ``levels`` and ``layers`` may be any iterables, and numbers those of NumPy or torch. Raises
        :class:`BadInput` for a string in place of a list, and for other types.
        """
        choice("kind", kind, get_args(Kind))
        choice("precision", precision, get_args(Precision))
        choice("importance", importance, CRITERIA)
        true_or_false("repair_linear", repair_linear)
        names = None
        if isinstance(layers, str):
            raise BadInput(f"layers: {shown(str(layers))} is one name; give a list of names")
        if layers is not None:
            names = sequence("layers", layers, "['features.0', 'features.4']", text("layers"))
        fractions = sequence("levels", levels, "[0.1, 0.5, 0.9]", lambda level: level)
        return cls(
            kind,
            tuple(fraction("--levels", level) for level in fractions),
            names,
            importance,
            repair,
            bool(repair_linear),
            whole_number("seed", seed, 0, MAX_SEED),
            precision,
        )

    @property
    def needs_gradients(self) -> bool:
        """Return True if the importance reads the gradients in the parameters."""
        return self.importance in CRITERIA and CRITERIA[self.importance].needs_gradients

    def refitted(self, spec: Spec) -> tuple[str, ...]:
        """Return the layers at which weights are refitted when they are pruned.

        Zeros of a hidden linear layer are only if :attr:`repair_linear` says so.
        """
        if self.repair != "reconstruct":
            return ()
        convs = {row.name for row in spec.rows if row.kind == "conv"}
        every = self.kind == "structured" or self.repair_linear
        return tuple(name for name in spec.prunable if every or name in convs)

    def named(self, spec: Spec) -> SweepQuestion:
        """Return the same question with :data:`ALL_LAYERS` replaced by the layers' names."""
        return replace(self, layers=tuple(spec.prunable)) if self.layers == ALL_LAYERS else self

    def removed(self, spec: Spec) -> Mapping[str, tuple[int, ...]]:
        """Return the number of channels or weights to remove, by layer and rising level.

        The layers are in the network's order. Raises :class:`BadInput` if the kind, the precision,
        a layer, a level, the importance or the repair does not fit ``spec``.
        """
        choice("kind", self.kind, get_args(Kind))
        choice("precision", self.precision, get_args(Precision))
        if self.repair_linear and (self.kind, self.repair) != ("unstructured", "reconstruct"):
            raise BadInput(
                "--repair-linear: is for the zeros of hidden linear layers; give it with "
                "--kind unstructured --repair reconstruct"
            )
        check_repair(self.repair, spec)
        removed = removals(self.kind, spec, sorted(self.levels), self.named(spec).layers)
        check_importance(self.importance, spec, removed, self.kind)
        if CRITERIA[self.importance].needs_images and self.repair != "reconstruct":
            raise BadInput(
                f"--importance {self.importance}: ranks channels by what they are worth after a "
                "repair; give --repair reconstruct"
            )
        return removed
