from __future__ import annotations

import io
import warnings

import pytest
import torch
from scipy.stats import norm
from torch import nn

from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.evaluate import EVALUATION_BLOCK, accuracy, predictions


def test_counts_what_a_plain_loop_counts(make_model, digits) -> None:
    model = make_model().train()
    found = accuracy(model, digits.train, digits.normalisation)
    assert model.training, "the mode is put back"
    model.eval()
    assert len(digits.train) > 2 * EVALUATION_BLOCK
    with torch.no_grad():
        expected = sum(
            int((model(digits.normalisation(x)).argmax(1) == y).sum())
            for x, y in digits.train.blocks(EVALUATION_BLOCK)
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


class Cramped(nn.Module):
    """A network that runs out of memory with more than ``room`` images at a time."""

    def __init__(
        self, model: nn.Module, room: int, error: type[Exception] = torch.OutOfMemoryError
    ) -> None:
        super().__init__()
        self.model, self.room, self.error = model, room, error
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.model(x)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_halves_the_batch_and_says_so(
    error: type[Exception], make_model, digits
) -> None:
    model = make_model()
    expected = predictions(model, digits.train, digits.normalisation)
    cramped = Cramped(model, 130, error)
    with pytest.warns(
        UserWarning,
        match=r"out of memory with (500|250) images at a time; going on with (250|125)$",
    ) as said:
        found = predictions(cramped, digits.train, digits.normalisation)
    assert len(said) == 2  # 250 images were too many as well
    assert torch.equal(found, expected)
    assert cramped.sizes[:3] == [500, 250, 125]
    assert set(cramped.sizes[2:-1]) == {125}, "the smaller batch stays"


def test_one_image_too_large_and_other_errors_are_not_hidden(make_model, few_digits) -> None:
    with warnings.catch_warnings(action="ignore"), pytest.raises(torch.OutOfMemoryError):
        predictions(Cramped(make_model(), 0), few_digits.val, few_digits.normalisation)
    cramped = Cramped(make_model(), 0, lambda _: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        predictions(cramped, few_digits.val, few_digits.normalisation)
    assert cramped.sizes == [40]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_for_who_watches(make_model, few_digits, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(label: str, screen: io.StringIO) -> str:
        monkeypatch.setattr("sys.stderr", screen)
        accuracy(make_model(), few_digits.val, few_digits.normalisation, label=label)
        return screen.getvalue()

    assert said("measure", Terminal()).startswith("\rmeasure:   0%|")
    assert said("", Terminal()) == ""
    assert said("measure", io.StringIO()) == ""
