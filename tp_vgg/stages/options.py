"""What the pruning stages are asked to do, checked against a network before any work (no torch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tp_vgg.errors import BadInput
from tp_vgg.latency.table import BenchmarkCase
from tp_vgg.network.spec import Spec, narrowed
from tp_vgg.pruning.criteria import check_importance
from tp_vgg.pruning.ratios import Plan, check_layers, resolve, resolve_sparsity
from tp_vgg.pruning.repair import Repair, check_repair
from tp_vgg.training.recipe import Schedule

PlanFor = Callable[[Spec], Plan]
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
    repair: Repair = "none"
    """After each pruning."""
    finetune: Finetune = Finetune()


@dataclass(frozen=True)
class UnstructuredOptions:
    global_sparsity: float | None = None
    """Rank all layers together to this sparsity; ``None``: per layer, as the plan says."""
    importance: str = "l1"
    gradual: bool = False
    """Let the zeros grow while fine-tuning."""
    finetune: Finetune = Finetune(epochs=0)


@dataclass(frozen=True)
class BenchmarkOptions:
    cases: tuple[BenchmarkCase, ...]
    trials: int | None = None
    """Blocks of a case; ``None``: :data:`~tp_vgg.latency.table.TRIALS`, fewer where they take long."""
    threads: int | None = None
    """Of the CPU; ``None``: torch's default."""
    reuse_input: bool = False
    """One input for every pass, instead of a ring larger than the cache."""
    probes: bool = True
    """Look for slightly smaller widths that would be faster, where a row that is quoted falls short."""


Options = TypeVar("Options")
Resolved = TypeVar("Resolved")


@dataclass(frozen=True)
class PruningRequest(ABC, Generic[Options, Resolved]):
    """What a pruning command is asked for, before the network is known."""

    plan_for: PlanFor
    options: Options
    show: str | None = None
    """A layer to draw before and after."""
    _resolved: dict[Spec, Resolved] = field(default_factory=dict, compare=False, repr=False)

    def resolve(self, spec: Spec) -> Resolved:
        """What it comes to for ``spec``; worked out once. Raises :class:`BadInput` for a plan, options or a layer to show that do not fit."""
        if spec not in self._resolved:
            self._resolved[spec] = self._resolve(spec, self.plan_for(spec))
        return self._resolved[spec]

    @abstractmethod
    def _resolve(self, spec: Spec, plan: Plan) -> Resolved: ...

    def _check_show(self, spec: Spec) -> None:
        if self.show is not None:
            check_layers(Plan({self.show: 0.0}, "--show"), spec)


@dataclass(frozen=True)
class StructuredTarget:
    """A structured request resolved against a network."""

    plan: Plan
    spec: Spec
    """With the widths that the plan leaves."""


@dataclass(frozen=True)
class StructuredRequest(PruningRequest[StructuredOptions, StructuredTarget]):
    def _resolve(self, spec: Spec, plan: Plan) -> StructuredTarget:
        options = self.options
        self._check_show(spec)
        epochs = options.finetune.epochs
        if epochs and epochs < options.steps:
            raise BadInput(
                f"--finetune-epochs: {epochs} can't be shared out over --steps {options.steps}; "
                f"give {options.steps} or more, or 0"
            )
        check_repair(options.repair, spec)
        target = resolve(plan, spec, options.round_to)
        shown = [self.show] if self.show else []
        check_importance(options.importance, spec, [*narrowed(spec, target), *shown])
        return StructuredTarget(plan, target)


@dataclass(frozen=True)
class UnstructuredRequest(PruningRequest[UnstructuredOptions, Plan]):
    def _resolve(self, spec: Spec, plan: Plan) -> Plan:
        options = self.options
        self._check_show(spec)
        if options.gradual and not options.finetune.epochs:
            raise BadInput(
                "--gradual: the zeros grow while the network is fine-tuned; give --finetune-epochs"
            )
        if options.gradual and options.importance != "l1":
            raise BadInput(
                f"--gradual: ranks by magnitude as it goes; drop --importance {options.importance}"
            )
        if options.global_sparsity is None:
            resolve_sparsity(plan, spec)
        return plan
