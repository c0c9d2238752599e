"""These classes hold the options of the pruning and benchmark stages.

A pruning request is checked against the network before any work.

This module does not import torch.
"""

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
from tp_vgg.pruning.repairs import Repair, RepairOption, check_repair
from tp_vgg.training.recipe import Schedule

MANY_ZEROS = 0.9
"""Part of the weights to zero from which on fine-tuning does better without a repair.

docs/results.md has the measurements."""

EXTREME_ZEROS = 0.98
"""Part of the weights to zero from which on fine-tuning does better in two steps.

Measured for all layers ranked together by magnitude (docs/results.md)."""

PlanFor = Callable[[Spec], Plan]
"""Function that returns the plan for a network (``--ratio`` applies to every conv of it)."""


@dataclass(frozen=True)
class Finetune:
    """A Finetune says how a pruned model is fine-tuned.

    ``None`` means the default for the data set and the network.
    """

    epochs: int | None = None
    """Number of epochs over all steps together."""
    lr: float | None = None
    """Peak learning rate."""
    batch_size: int | None = None
    schedule: Schedule = "triangular"
    distill: bool = True
    """Distil: learn from the dense model's outputs too."""
    distill_weight: float = 0.5
    """Weight of the dense model's part of the loss, in [0, 1]."""
    distill_temperature: float = 4.0


@dataclass(frozen=True)
class RepairOptions:
    """Repair options say what corrects the pruned model before any fine-tuning."""

    option: RepairOption = "auto"
    images: int | None = None
    """Training images on which the repair looks; ``None``: the default of its method."""

    def method(self, better_without: str = "") -> Repair:
        """Return what ``auto`` stands for, or what was chosen.

        ``better_without``: why the fine-tuning does better without a repair, if it does.
        """
        if self.option != "auto":
            return self.option
        return "none" if better_without else "reconstruct"


@dataclass(frozen=True)
class StructuredOptions:
    """Structured options say how channels are removed and how the model is fine-tuned."""

    importance: str = "l1"
    """How channels are ranked: a key of :data:`~tp_vgg.pruning.criteria.CRITERIA`."""
    round_to: int = 1
    """Multiple to which the number of kept channels is rounded up."""
    steps: int = 1
    """Number of prunings, each followed by fine-tuning; the epochs are divided among them."""
    repair: RepairOptions = RepairOptions()
    """Repair after each pruning."""
    finetune: Finetune = Finetune()


@dataclass(frozen=True)
class UnstructuredOptions:
    """Unstructured options say how weights are zeroed and how the model is fine-tuned."""

    global_sparsity: float | None = None
    """Sparsity of all layers ranked together; ``None``: each layer has the plan's sparsity."""
    importance: str = "l1"
    """One of :data:`~tp_vgg.pruning.criteria.WEIGHT_CRITERIA`."""
    gradual: bool = False
    """Raise the number of zeros step by step during fine-tuning."""
    steps: int | None = None
    """Number of prunings, each followed by fine-tuning; the epochs are divided among them.

    ``None``: see :meth:`chosen_steps`."""
    repair: RepairOptions = RepairOptions()
    """Repair after each pruning."""
    finetune: Finetune = Finetune(epochs=0)

    def better_without_repair(self, spec: Spec, plan: Plan) -> str:
        """Return why a fine-tuning does better without a repair; empty if it does not.

        ``plan``: sparsities by layer, if they are not ranked together.
        """
        if self.gradual:
            return "since the zeros grow in training"
        if self.finetune.epochs and self._sparsity(spec, plan) >= MANY_ZEROS:
            return (
                f"since with {100 * MANY_ZEROS:g} % zeros or more a fine-tuning does better from "
                "the weights as they were"
            )
        return ""

    def chosen_steps(self, spec: Spec, plan: Plan) -> int:
        """Return the number of steps: what was chosen, or what does better.

        It is 1 if nothing would happen between two steps. ``plan``: as above.
        """
        method = self.repair.method(self.better_without_repair(spec, plan))
        epochs = self.finetune.epochs or 0
        if self.steps is not None:
            ranked_anew = epochs or method == "reconstruct" or self.importance != "l1"
            return self.steps if ranked_anew else 1
        if self.gradual or epochs < 2 or method != "none":
            return 1
        return 2 if self._sparsity(spec, plan) >= EXTREME_ZEROS else 1

    def _sparsity(self, spec: Spec, plan: Plan) -> float:
        """Return the part of the prunable weights to zero, without noise in the last digits."""
        if self.global_sparsity is not None:
            return self.global_sparsity
        weights = {row.name: row.weights for row in spec.rows if row.name in spec.prunable}
        zeros = sum(plan.values.get(name, 0) * count for name, count in weights.items())
        return round(zeros / sum(weights.values()), 9)

    @property
    def move_zeros(self) -> bool:
        """Return True if the repair chooses the zeros anew; it ranks by magnitude, as ``l1``."""
        return self.importance == "l1"


@dataclass(frozen=True)
class BenchmarkOptions:
    """Benchmark options say which cases are timed, and how."""

    cases: tuple[BenchmarkCase, ...]
    trials: int | None = None
    """Blocks per case; ``None``: the default of the benchmark or of the profile."""
    threads: int | None = None
    """Number of CPU threads; ``None``: torch's default."""
    reuse_input: bool = False
    """Time every forward pass on one batch of images, which stays in the cache, instead of on an
    input pool that is larger than the cache."""
    probes: bool = True
    """Look for slightly smaller widths that are faster, if a quoted row's speed-up is below its MAC
    ratio."""


Options = TypeVar("Options")
Resolved = TypeVar("Resolved")


@dataclass(frozen=True)
class PruningRequest(ABC, Generic[Options, Resolved]):
    """A pruning request holds the plan and options of a pruning command for any network."""

    plan_for: PlanFor
    options: Options
    show: str | None = None
    """Layer to draw before and after pruning."""
    force: bool = False
    """Make the models also if they are there, and delete those of other settings."""
    _resolved: dict[Spec, Resolved] = field(default_factory=dict, compare=False, repr=False)

    def resolve(self, spec: Spec) -> Resolved:
        """Return the request resolved against ``spec``; it is computed once for each spec.

        Raises :class:`BadInput` if the plan, the options or the layer to show do not fit ``spec``.
        """
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
    """A structured target is a structured request that was resolved against a network."""

    plan: Plan
    spec: Spec
    """Spec of the network with the widths that the plan leaves."""


@dataclass(frozen=True)
class StructuredRequest(PruningRequest[StructuredOptions, StructuredTarget]):
    """A structured request asks for channels to be removed."""

    def _resolve(self, spec: Spec, plan: Plan) -> StructuredTarget:
        options = self.options
        self._check_show(spec)
        _check_shared_out(options.finetune.epochs, options.steps)
        check_repair(options.repair.option, spec)
        target = resolve(plan, spec, options.round_to)
        layer_to_show = [self.show] if self.show else []
        check_importance(options.importance, spec, [*narrowed(spec, target), *layer_to_show])
        return StructuredTarget(plan, target)


@dataclass(frozen=True)
class UnstructuredRequest(PruningRequest[UnstructuredOptions, Plan]):
    """An unstructured request asks for weights to be set to zero; it resolves to its plan."""

    def _resolve(self, spec: Spec, plan: Plan) -> Plan:
        options = self.options
        self._check_show(spec)
        if options.gradual and not options.finetune.epochs:
            raise BadInput(
                "--gradual: the zeros grow while the network is fine-tuned; give --finetune-epochs"
            )
        if options.gradual and (options.steps or 1) > 1:
            raise BadInput(
                f"--gradual: the zeros grow in one training; leave out --steps {options.steps}"
            )
        if options.gradual and options.importance != "l1":
            raise BadInput(
                f"--gradual: ranks by magnitude at every update of the zeros; "
                f"leave out --importance {options.importance}"
            )
        _check_shared_out(options.finetune.epochs, options.steps or 1)
        check_repair(options.repair.option, spec)
        if options.gradual and options.repair.method("gradual") != "none":
            raise BadInput(
                "--gradual: the zeros grow while the network is fine-tuned, so there is nothing to "
                f"repair before; leave out --repair {options.repair.option}"
            )
        if options.global_sparsity is None:
            resolve_sparsity(plan, spec)
        return plan


def _check_shared_out(epochs: int | None, steps: int) -> None:
    """Raise :class:`BadInput` if there are fewer epochs of fine-tuning than steps."""
    if epochs and epochs < steps:
        raise BadInput(
            f"--finetune-epochs: {epochs} can't be shared out over --steps {steps}; "
            f"give {steps} or more, or 0"
        )
