"""Candidates meet the budget and differ from each other; a uniform plan stands beside them."""

from __future__ import annotations

import itertools

import pytest
from helpers.made_up_sweeps import SPEC, table

from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.candidates import BEST, UNIFORM, candidates
from tp_vgg.planning.make_plan import make_plan


def apart(one: PlanResult, other: PlanResult) -> float:
    """Return by what share of the channels or weights removed two plans differ, at least."""
    gone = [[row.before - row.after for row in plan.layers] for plan in (one, other)]
    difference = sum(abs(a - b) for a, b in zip(*gone, strict=True))
    return difference / max(map(sum, gone))


@pytest.mark.parametrize(
    ("kind", "budget"),
    [
        ("structured", {"macs": 0.5}),
        ("structured", {"macs": 0.6, "params": 0.5}),
        ("structured", {"drop": 5.0}),
        ("unstructured", {"sparsity": 0.5}),
        ("unstructured", {"drop": 3.0}),
    ],
)
def test_candidates_meet_the_budget_and_differ_in_a_tenth(kind: str, budget: dict) -> None:
    swept = table(SPEC, kind, n=10_000)
    plans = candidates(swept, budget, 4, round_to=2)
    assert list(plans) == [BEST, "2", "3", "4", UNIFORM]
    assert plans[BEST] == make_plan(swept, budget, round_to=2)
    several = [plan for name, plan in plans.items() if name != UNIFORM]
    for one, other in itertools.combinations(several, 2):
        assert apart(one, other) >= 0.1
    for plan in plans.values():
        said = plan.prediction
        assert said.macs_share <= budget.get("macs", 1) + 1e-9
        assert said.params_share <= budget.get("params", 1) + 1e-9
        assert said.sparsity >= budget.get("sparsity", 0) - 1e-9
        assert said.drop <= budget.get("drop", 100) + 1e-9
        least = plans[BEST].least_drop
        assert plan.gap >= plans[BEST].gap
        assert least is None or said.drop >= least.prediction.drop - 1e-9


@pytest.mark.parametrize(("kind", "round_to"), [("structured", 1), ("unstructured", 8)])
def test_the_uniform_plan_prunes_all_layers_alike_and_no_more_than_asked(
    kind: str, round_to: int
) -> None:
    name = "macs" if kind == "structured" else "sparsity"
    plan = candidates(table(SPEC, kind), {name: 0.5}, 1, round_to=round_to)[UNIFORM]
    shares = [row.after / row.before for row in plan.layers]
    assert max(shares) - min(shares) <= 2 / min(row.before for row in plan.layers)
    met = plan.prediction.macs_share if kind == "structured" else plan.prediction.sparsity
    assert met == pytest.approx(0.5, abs=0.06)


def test_where_no_other_plan_is_so_different_there_are_fewer() -> None:
    swept = table(SPEC, layers=("features.0",))
    plans = candidates(swept, {"macs": 0.95}, 9, round_to=4)
    assert 1 <= len(plans) < 9 and BEST in plans
    several = [plan for name, plan in plans.items() if name != UNIFORM]
    assert all(apart(*pair) >= 0.1 for pair in itertools.combinations(several, 2))
