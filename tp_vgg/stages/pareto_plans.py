"""All budgets of `pareto` are planned before the first training, because one may be out of reach.

This module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.budget import read_budget
from tp_vgg.pruning.ratios import Plan
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune, RepairOptions, StructuredOptions, StructuredRequest
from tp_vgg.stages.plan import best_plan, note_chance
from tp_vgg.stages.plan_file import PlanOptions

Budget = Mapping[str, float]


@dataclass(frozen=True)
class ParetoOptions:
    """Pareto options say which budgets are met, and how their models are tuned and timed."""

    budgets: tuple[Budget, ...]
    round_to: int = 8
    """Widths are multiples of it, or the full width."""
    profile: Path | None = None
    """File of the staircase profile for latency budgets, as for `plan`."""
    batch_size_timed: int = 64
    """Batch size at which the models are timed; 0: they are not."""
    finetune: Finetune = field(default_factory=Finetune)
    force: bool = False
    """Make everything again, and delete results of other settings instead of moving them."""

    def plan_options(self, budget: Budget) -> PlanOptions:
        """Return the options of one budget's plan."""
        return PlanOptions(
            "structured",
            dict(budget),
            self.round_to,
            profile=self.profile,
            force=self.force,
        )

    def request(self, plan: PlanResult) -> StructuredRequest:
        """Return the pruning by a plan, in the way that its sweep measured."""
        options = StructuredOptions(
            importance=plan.importance,
            repair=RepairOptions("recalibrate" if plan.repair == "recalibrate" else "auto"),
            finetune=self.finetune,
        )
        ratios = Plan.of(plan.ratios, "the plan")
        return StructuredRequest(lambda _spec: ratios, options, force=self.force)


def budget_text(budget: Budget, between: str = "+", equals: str = "=") -> str:
    """Return a budget as it is typed, such as ``macs=0.5+params=0.4``."""
    return between.join(f"{name}{equals}{_number(value)}" for name, value in budget.items())


def _number(value: float) -> str:
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def variant(settings: Settings, budget: Budget) -> Settings:
    """Return the settings of one budget: its files lie in ``pareto-BUDGET``, below any tag."""
    return inside(settings, f"pareto-{budget_text(budget, '-', '')}")


def inside(settings: Settings, name: str) -> Settings:
    """Return the settings whose files lie in the directory ``name`` of the present ones'."""
    return replace(settings, tag=f"{settings.tag}/{name}" if settings.tag else name)


def best_plans(settings: Settings, options: ParetoOptions) -> dict[str, PlanResult]:
    """Return the best plan for each budget, by its text; nothing is written.

    Raises :class:`BadInput` as :func:`~tp_vgg.stages.plan.best_plan` does.
    """
    if settings.checkpoint is not None:
        from tp_vgg.stages.given import given_network

        settings, _ = given_network(settings)
    contents = RunContents.of(settings)
    plans: dict[str, PlanResult] = {}
    for budget in options.budgets:
        with named_budgets():
            plans[budget_text(budget)] = best_plan(settings, contents, options.plan_options(budget))
    note_chance(contents, "structured")
    return plans


def check_budgets(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Return the budgets, each once; raise :class:`BadInput` for one that channels can't meet."""
    by_text = {}
    for budget in budgets:
        with named_budgets():
            read_budget(budget, "structured")
        by_text[budget_text(budget)] = budget
    return tuple(by_text.values())


@contextmanager
def named_budgets() -> Iterator[None]:
    """Let a refusal of ``--budget`` name the option ``--budgets``, for the duration of a block."""
    try:
        yield
    except BadInput as error:
        text = str(error).replace(", or --kind unstructured", "")
        raise BadInput(re.sub(r"--budget\b", "--budgets", text)) from None
