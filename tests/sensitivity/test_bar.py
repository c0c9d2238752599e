"""A sweep's progress bar: it counts points, from where the journal left off to the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.sweeps import interrupted
from tqdm import tqdm

from tp_vgg.files.journal import Journal
from tp_vgg.sensitivity import engine
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.sweep import run


class Silent(tqdm):
    """A bar that counts although nothing is shown; all bars that were made, and their starts."""

    made: list[Silent] = []  # noqa: RUF012

    def __init__(self, label: str, *, quiet: bool, unit: str, total: float, initial: float, **_):
        self.values, self.unit_name = [float(initial)], unit
        super().__init__(total=total, initial=initial, disable=True)
        self.total, self.n = total, initial
        Silent.made.append(self)

    def update(self, n: float = 1) -> None:
        self.n += n
        self.values.append(self.n)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Silent]:
    Silent.made = []
    monkeypatch.setattr(engine, "progress_bar", Silent)
    return Silent.made


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
@pytest.mark.parametrize("block", [7, 250])
def test_it_ends_at_all_points_and_never_beyond(
    kind, block, bars, make_model, few_digits, monkeypatch
) -> None:
    monkeypatch.setitem(engine.SWEEP_BLOCK, "cpu", block)
    model = make_model().eval()
    resolved = ResolvedSweep.of(SweepQuestion(kind, (0.25, 0.5)), model, None)
    run(model, few_digits.val, resolved, "key")
    (bar,) = bars
    assert bar.unit_name == "point"
    assert bar.total == len(resolved.rows)
    assert bar.values[0] == 0
    assert bar.values[-1] == pytest.approx(bar.total)
    assert max(bar.values) <= bar.total + 1e-6
    assert bar.values == sorted(bar.values) or block == 7


def test_after_an_interruption_it_starts_where_it_was(
    bars, make_model, few_digits, monkeypatch, tmp_path: Path
) -> None:
    model = make_model().eval()
    resolved = ResolvedSweep.of(SweepQuestion("structured", (0.25, 0.5)), model, None)
    with monkeypatch.context() as patch:
        interrupted(patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            run(model, few_digits.val, resolved, "key", Journal(tmp_path / "j.jsonl", "key"))
    run(model, few_digits.val, resolved, "key", Journal(tmp_path / "j.jsonl", "key"))
    assert bars[1].values[0] == 4, "two layers of two levels"
    assert bars[1].values[-1] == pytest.approx(bars[1].total)


def test_out_of_memory_leaves_one_bar(bars, make_model, few_digits, monkeypatch) -> None:
    model = make_model().eval()
    resolved = ResolvedSweep.of(SweepQuestion("structured", (0.25, 0.5)), model, None)
    real, failed = engine.classes_of, []

    def fails_once(logits: torch.Tensor) -> torch.Tensor:
        if not failed:
            failed.append(True)
            raise MemoryError
        return real(logits)

    monkeypatch.setattr(engine, "classes_of", fails_once)
    with pytest.warns(UserWarning, match="memory"):
        run(model, few_digits.val, resolved, "key")
    (bar,) = bars
    assert bar.values[-1] == pytest.approx(bar.total)
