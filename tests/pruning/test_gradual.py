"""The zeros before each of several trainings (those within one: tests/training)."""

from __future__ import annotations

import itertools
import math

import pytest

from tp_vgg.pruning.gradual import MOST_AT_ONCE, sparsity_after


@pytest.mark.parametrize(
    ("final", "steps", "expected"),
    [
        (0.98, 1, [0.98]),
        (0.98, 2, [0.95, 0.98]),
        (0.98, 3, [0.875, 0.95, 0.98]),
        (0.99, 2, [0.975, 0.99]),
        (0.5, 2, [1 - math.sqrt(0.5), 0.5]),
        (0.875, 3, [0.5, 0.75, 0.875]),
        (0.0, 3, [0, 0, 0]),
    ],
)
def test_zeros_of_each_step(final: float, steps: int, expected: list[float]) -> None:
    found = [sparsity_after(step, steps, final) for step in range(1, steps + 1)]
    assert found == pytest.approx(expected)
    assert found[-1] == final


@pytest.mark.parametrize("final", [0.001, 0.3, 0.6, 0.84, 0.9, 0.999])
@pytest.mark.parametrize("steps", [2, 3, 7])
def test_kept_weights_fall_by_equal_factors_but_never_too_far(final: float, steps: int) -> None:
    kept = [1, *(1 - sparsity_after(step, steps, final) for step in range(1, steps + 1))]
    first, *others = (before / after for before, after in itertools.pairwise(kept))
    assert others == pytest.approx([others[0]] * len(others))
    assert 1 < others[0] <= MOST_AT_ONCE + 1e-9
    assert first >= others[0] - 1e-9
    assert first == pytest.approx(others[0]) or others[0] == pytest.approx(MOST_AT_ONCE)
