"""What the pruning stages are asked to do, checked against a network before any work (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tp_vgg.errors import BadInput
from tp_vgg.latency.table import Cell
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.criteria import Kind, check_importance
from tp_vgg.pruning.ratios import Plan, check_layers, removals, resolve, resolve_sparsity
from tp_vgg.pruning.repair import check_recalibrate
from tp_vgg.sensitivity.table import LEVELS
from tp_vgg.training.recipe import Schedule

PlanFor = Callable[[VGGSpec], Plan]
"""The plan once the network is known (``--ratio`` names every conv of it)."""


@dataclass(frozen=True)
class Finetune:
    """How a pruned model is trained back; ``None`` stands for the default of data set and network."""

    epochs: int | None = None
    """In all."""
    lr: float | None = None
    batch_size: int | None = None
    schedule: Schedule = "triangular"
    distill: bool = True
    """Learn from the dense model's outputs too."""
    distill_weight: float = 0.5
    distill_temperature: float = 4.0


@dataclass(frozen=True)
class StructuredOptions:
    importance: str = "l1"
    round_to: int = 1
    steps: int = 1
    """Prunings, with fine-tuning between them; the epochs are shared out over the steps."""
    recalibrate: bool = False
    """Batch norm's statistics anew after each pruning."""
    finetune: Finetune = Finetune()


@dataclass(frozen=True)
class UnstructuredOptions:
    global_sparsity: float | None = None
    """Rank all layers together to this sparsity; ``None``: per layer, as the plan says."""
    importance: str = "l1"
    gradual: bool = False
    """Let the zeros grow while fine-tuning."""
    finetune: Finetune = Finetune(epochs=0)


EVERY = ("all",)
"""In the place of layers' names: all that a plan can name."""


@dataclass(frozen=True)
class SweepOptions:
    kind: Kind
    levels: tuple[float, ...] = LEVELS
    layers: tuple[str, ...] | None = None
    """Every conv where ``None``, and hidden linears too where :data:`EVERY`."""
    split: Literal["val", "test"] = "val"
    importance: str = "l1"
    recalibrate: bool = False
    """Give the batch norms behind the pruned layer new statistics at every point."""

    def named(self, spec: VGGSpec) -> SweepOptions:
        """With the names of all layers in the place of :data:`EVERY`."""
        return replace(self, layers=tuple(spec.prunable)) if self.layers == EVERY else self

    def check(self, spec: VGGSpec) -> None:
        """Raise :class:`BadInput` for layers, levels or an importance that do not fit ``spec``, or no batch norm to recalibrate."""
        if self.recalibrate:
            check_recalibrate(spec)
        check_importance(
            self.importance, spec, removals(self.kind, spec, self.levels, self.named(spec).layers), self.kind
        )


@dataclass(frozen=True)
class BenchmarkOptions:
    cells: tuple[Cell, ...]
    trials: int | None = None
    """Blocks of a cell; ``None``: :data:`~tp_vgg.latency.table.TRIALS`, fewer where they take long."""
    threads: int | None = None
    """Of the CPU; ``None``: torch's default."""
    hot: bool = False
    """One input for every pass, instead of a ring larger than the cache."""
    probes: bool = True
    """Look for slightly smaller widths that would be faster, where a row that is quoted falls short."""


def structured_target(spec: VGGSpec, plan: Plan, options: StructuredOptions, show: str | None) -> VGGSpec:
    """The widths that the plan leaves. Raises :class:`BadInput` for a plan, a criterion or a layer to show that does not fit ``spec``."""
    _check_show(spec, show)
    epochs = options.finetune.epochs
    if epochs and epochs < options.steps:
        raise BadInput(
            f"--finetune-epochs: {epochs} can't be shared out over --steps {options.steps}; "
            f"give {options.steps} or more, or 0"
        )
    if options.recalibrate:
        check_recalibrate(spec)
    target = resolve(plan, spec, options.round_to)
    check_importance(options.importance, spec, [*spec.narrowed(target), *([show] if show else [])])
    return target


def check_unstructured(spec: VGGSpec, plan: Plan, options: UnstructuredOptions, show: str | None) -> None:
    """Raise :class:`BadInput` for a plan, a layer to show or a schedule that does not fit."""
    _check_show(spec, show)
    if options.gradual and not options.finetune.epochs:
        raise BadInput("--gradual: the zeros grow while the network is fine-tuned; give --finetune-epochs")
    if options.gradual and options.importance != "l1":
        raise BadInput(f"--gradual: ranks by magnitude as it goes; drop --importance {options.importance}")
    if options.global_sparsity is None:
        resolve_sparsity(plan, spec)


def _check_show(spec: VGGSpec, show: str | None) -> None:
    if show is not None:
        check_layers(Plan({show: 0.0}, "--show"), spec)
