"""The budgets of `pareto` as texts, directories and checked values."""

from __future__ import annotations

import pytest

from tp_vgg.errors import BadInput
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.pareto_plans import budget_text, check_budgets, variant


@pytest.mark.parametrize(
    ("budget", "text", "directory"),
    [
        ({"macs": 0.5}, "macs=0.5", "pareto-macs0.5"),
        ({"params": 0.5, "macs": 0.7}, "params=0.5+macs=0.7", "pareto-params0.5-macs0.7"),
        ({"drop": 1.0}, "drop=1", "pareto-drop1"),
        ({"macs": 0.1234567}, "macs=0.1234567", "pareto-macs0.1234567"),
    ],
)
def test_each_budget_has_a_text_and_a_directory(budget: dict, text: str, directory: str) -> None:
    assert budget_text(budget) == text
    assert variant(Settings(), budget).tag == directory
    assert variant(Settings(tag="mine"), budget).tag == f"mine/{directory}"


def test_a_budget_that_is_given_twice_is_met_once() -> None:
    assert check_budgets([{"macs": 0.5}, {"drop": 1.0}, {"macs": 0.50}]) == (
        {"macs": 0.5},
        {"drop": 1.0},
    )


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"macs": 0.0}, "--budgets macs=0: must be above 0"),
        ({"latency": 1.1}, "--budgets latency=1.1: must be above 0 and at most 1"),
        ({"drop": -1.0}, "--budgets drop=-1: must be from 0 to 100"),
        ({"sparsity": 0.5}, "give macs, params, latency or drop$"),
    ],
)
def test_a_budget_out_of_range_is_refused_by_the_option_s_name(budget: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_budgets([{"macs": 0.5}, budget])
