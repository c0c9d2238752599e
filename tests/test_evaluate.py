from __future__ import annotations

import pytest
import torch
from scipy.stats import norm

from tp_vgg.evaluate import BLOCK, accuracy, predictions
from tp_vgg.records import Accuracy


def test_counts_what_a_plain_loop_counts(make_model, digits) -> None:
    model = make_model().train()
    found = accuracy(model, digits.train, digits.normalisation)
    assert model.training, "the mode is put back"
    model.eval()
    assert len(digits.train) > 2 * BLOCK
    with torch.no_grad():
        expected = sum(
            int((model(digits.normalisation(x)).argmax(1) == y).sum()) for x, y in digits.train.blocks(BLOCK)
        )
    assert (found.correct, found.n) == (expected, 1295)
    assert predictions(model, digits.val, digits.normalisation).shape == (143,)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (7, 10), (8733, 10_000)])
def test_interval_is_wilsons(correct: int, n: int) -> None:
    found = Accuracy.of(correct, n)
    z, p = norm.ppf(0.975), correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    assert found.accuracy == pytest.approx(100 * p)
    assert found.low == pytest.approx(100 * (centre - half), abs=1e-9)
    assert found.high == pytest.approx(100 * (centre + half), abs=1e-9)
