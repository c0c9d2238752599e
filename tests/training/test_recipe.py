from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tp_vgg.training.recipe import END_FRACTION, START_FRACTION, Recipe

STEPS = 25


def rates(recipe: Recipe) -> list[float]:
    return [recipe.rate(step, STEPS) for step in range(recipe.epochs * STEPS + 1)]


@pytest.mark.parametrize(("schedule", "torchs"), [("one-cycle", "cos"), ("triangular", "linear")])
def test_cycles_are_torchs(schedule: str, torchs: str) -> None:
    """torch's OneCycleLR gives the same rates if its ``pct_start`` is set to the same peak step."""
    recipe = Recipe(epochs=4, lr=0.5, schedule=schedule, warmup=0.2)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    total = recipe.epochs * STEPS
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.lr,
        total_steps=total + 1,
        pct_start=(0.2 * total + 1) / (total + 1),
        anneal_strategy=torchs,
        cycle_momentum=False,
    )
    for found in rates(recipe):
        assert found == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        if theirs.last_epoch < total:
            theirs.step()


def test_rewinding_repeats_the_end_of_the_whole_cycle() -> None:
    whole = Recipe(epochs=24, lr=0.1)
    end = replace(whole, schedule="rewind", epochs=5, rewound=24)
    assert rates(end) == rates(whole)[19 * STEPS :]
    assert rates(replace(end, rewound=0)) == rates(replace(whole, epochs=5)), (
        "no longer cycle is known: its own"
    )


@pytest.mark.parametrize("epochs", [1, 2, 7])
@pytest.mark.parametrize("schedule", ["one-cycle", "triangular", "rewind"])
def test_rates_stay_between_their_ends(schedule: str, epochs: int) -> None:
    for steps in (3, 30):
        recipe = Recipe(epochs=epochs, lr=1.0, schedule=schedule, rewound=9)
        found = [recipe.rate(step, steps) for step in range(epochs * steps + 1)]
        assert all(END_FRACTION * 0.999 <= rate <= 1 for rate in found)
        assert found[-1] == pytest.approx(END_FRACTION)
        if schedule != "rewind":
            assert found[0] == pytest.approx(START_FRACTION)
