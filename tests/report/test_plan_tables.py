"""A printed plan says which drop is the smallest, why this plan was taken, and how sure that is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import pages
from helpers.networks import SMALL

from tp_vgg.planning.allocation import LeastDrop, PlanResult
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.report.plan_tables import render_plan


@pytest.fixture
def plan() -> PlanResult:
    return make_plan(pages.sweep(SMALL), {"macs": 0.9}, round_to=1, sweep={"split": "val"})


def with_least(plan: PlanResult, *, macs: int, macs_gap: int = 0) -> PlanResult:
    """The plan beside one of ``macs`` MACs whose predicted drop is 0.10 points smaller."""
    smallest = replace(
        plan.prediction, drop=1.0, drop_low=-0.5, drop_high=2.5, macs=macs, macs_share=0.595
    )
    least = LeastDrop(smallest, 0.1, -0.1, 0.3, 0.2, macs_gap)
    return replace(plan, least_drop=least, prediction=replace(plan.prediction, drop=1.1))


def test_both_plans_are_printed_with_intervals(plan: PlanResult) -> None:
    said = render_plan(with_least(plan, macs=plan.prediction.macs - 1))
    low, high = plan.prediction.drop_low, plan.prediction.drop_high
    assert f"predicted drop before fine-tuning: +1.10 points [{low:+.2f}, {high:+.2f}], to" in said
    assert "within the budget: +1.00 points [-0.50, +2.50], at MACs 0.5950×, params" in said
    assert (
        f"taken: +0.10 points more [-0.10, +0.30], which {plan.sweep['n']} images can't tell from"
        f" none, at MACs {plan.prediction.macs_share:.4f}×; no plan within 0.2 points of it keeps"
        " more MACs"
    ) in said


def test_one_line_says_that_it_is_the_same_plan(plan: PlanResult) -> None:
    said = render_plan(with_least(plan, macs=plan.prediction.macs))
    assert "taken: the plan with that drop; no plan within 0.2 points of it keeps more" in said
    assert "smallest predicted drop" not in said


def test_a_search_that_left_plans_out_says_what_that_can_have_cost(plan: PlanResult) -> None:
    dense = plan.prediction.macs / plan.prediction.macs_share
    said = render_plan(with_least(plan, macs=1, macs_gap=round(0.01 * dense)))
    assert "of it keeps over 0.01" in said
    assert "keeps over 0.000001× more MACs" in render_plan(
        replace(
            with_least(plan, macs=1, macs_gap=1),
            prediction=replace(plan.prediction, macs=10**9, macs_share=0.5),
        )
    )


def test_a_plan_of_an_older_version_is_printed_without_them(plan: PlanResult) -> None:
    data = plan.to_dict()
    del data["least_drop"], data["prediction"]["drop_low"], data["prediction"]["drop_high"]
    said = render_plan(PlanResult.from_dict(data))
    assert f"predicted drop before fine-tuning: {plan.prediction.drop:+.2f} points, to" in said
    assert said.splitlines()[-1] == "minimised: drop; no plan within the budget predicts less"


def test_a_budget_of_a_drop_has_no_second_step() -> None:
    smallest = make_plan(pages.sweep(SMALL), {"drop": 5.0}, round_to=1)
    assert smallest.least_drop is None
    assert render_plan(smallest).splitlines()[-1].startswith("minimised: params; no plan within")
