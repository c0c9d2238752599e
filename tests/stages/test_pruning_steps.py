"""`--steps` of both kinds of pruning: what is pruned when, and how the epochs are shared out."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from helpers.commands import QUICK

from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.network import Network
from tp_vgg.pruning.unstructured import magnitude_masks
from tp_vgg.stages.pruning_steps import pruning_steps
from tp_vgg.stages.session import Session
from tp_vgg.training.run import TrainingRun


def smallest(weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """True at as many of the smallest magnitudes of ``weight`` as ``like`` has zeros."""
    (kept,) = magnitude_masks(weight.abs(), [int((like == 0).sum())])
    return ~kept


def zeros(model: Network) -> tuple[int, int]:
    """The zeros of the prunable weights, masked ones included, and the number of weights."""
    weights = [model.get_submodule(name).weight for name in model.spec.prunable]
    return sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int, str]]:
    """Zeros at the start, epochs and label of each training."""
    found, fit = [], Session.fit

    def noting(self, model, recipe, partial, label, *more):
        count, total = zeros(model)
        found.append((count / total, recipe.epochs, label))
        return fit(self, model, recipe, partial, label, *more)

    monkeypatch.setattr(Session, "fit", noting)
    return found


@pytest.mark.parametrize(
    ("count", "epochs", "shares"),
    [(1, 5, [5]), (2, 5, [2, 3]), (3, 3, [1, 1, 1]), (3, 8, [2, 2, 4]), (2, 0, [0, 0])],
)
def test_steps_share_out_the_epochs(count: int, epochs: int, shares: list[int]) -> None:
    steps = pruning_steps(count, epochs, Path("o/model.pth"))
    assert [step.epochs for step in steps] == shares
    assert [step.last for step in steps] == [False] * (count - 1) + [True]
    assert len({step.partial for step in steps}) == count
    names = {step.numbered("done") for step in steps}
    assert names == (
        {"done"} if count == 1 else {f"step {n}/{count}: done" for n in range(1, count + 1)}
    )


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_zeros_in_steps(scope: str, call, at_home: Path, small: list, trainings: list) -> None:
    options = ["--scope", scope, "--sparsity", 0.9, "--steps", 3, "--finetune-epochs", 4]
    status, _, err = call("unstructured", *small, "--out", "o", *options, "--repair", "reconstruct")
    assert status == 0, err
    factor = 0.1 ** (1 / 3)
    assert [share for share, *_ in trainings] == pytest.approx(
        [1 - factor, 1 - factor**2, 0.9], abs=2e-3
    )
    assert [more for _, *more in trainings] == [[1, f"fine-tune {n}/3"] for n in (1, 2)] + [
        [2, "fine-tune 3/3"]
    ]
    assert [err.count(f"step {n}/3: weights were set to zero") for n in (1, 2, 3)] == [1, 1, 1]
    model = load(at_home / "o/unstructured_pruned_vgg11.pth")
    count, total = zeros(model)
    assert count == pytest.approx(0.9 * total, abs=len(model.spec.prunable))
    _, *rows = csv.reader((at_home / "o/unstructured_history.csv").read_text().splitlines())
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert not list((at_home / "o").rglob("*partial*"))


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_almost_all_zeros_are_set_in_two_steps(
    importance: str, call, at_home: Path, small: list, trainings: list
) -> None:
    options = ["--sparsity", 0.98, "--finetune-epochs", 3, "--importance", importance]
    status, _, err = call("unstructured", *small, "--out", "o", *options)
    assert status == 0, err
    assert [epochs for _, epochs, _ in trainings] == [1, 2]
    assert [share for share, *_ in trainings] == pytest.approx([0.95, 0.98], abs=5e-3)
    assert "--steps: 2, since with 98 % zeros or more" in err
    # What the default stands for is the same work, and one step is another.
    status, _, err = call("unstructured", *small, "--out", "o", *options, "--steps", 2)
    assert status == 0, err
    assert "made with these settings before" in err
    status, _, err = call("unstructured", *small, "--out", "o", *options, "--steps", 1)
    assert status == 0, err
    assert [epochs for _, epochs, _ in trainings] == [1, 2, 3]
    assert "--steps" not in err


def test_each_step_ranks_what_the_one_before_left(
    call, at_home: Path, small: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers have the plan's zeros, the dense model stays the teacher, zeros stay zero."""
    trained, teachers, fit = [], [], Session.fit

    def noting(self, model, recipe, partial, label, teacher, *more):
        begun = {name: model.get_submodule(name).weight.detach() for name in model.spec.prunable}
        teachers.append(copy.deepcopy(teacher.state_dict()))
        history = fit(self, model, recipe, partial, label, teacher, *more)
        ended = {name: model.get_submodule(name).weight.detach() for name in model.spec.prunable}
        trained.append((begun, ended))
        return history

    monkeypatch.setattr(Session, "fit", noting)
    plan = {"features.0": 0, "features.4": 0.5, "classifier.0": 0.9}
    Path("plan.json").write_text(json.dumps(plan))
    options = ["--ratios", "plan.json", "--steps", 2, "--finetune-epochs", 2]
    status, _, err = call(
        "unstructured", *small, "--out", "o", *options, "--repair", "none", "--lr", 0.5
    )
    assert status == 0, err
    (first, after), (second, last) = trained
    halfway = {"features.4": 1 - 0.5**0.5, "classifier.0": 0.75}
    for name, weight in first.items():
        for begun, wanted in ((first, halfway), (second, plan)):
            share = wanted.get(name, 0)
            count = int((begun[name] == 0).sum())
            assert count == pytest.approx(share * weight.numel(), abs=1)
        kept = second[name] != 0
        assert torch.equal(second[name][kept], after[name][kept])
        assert kept.all() or after[name][kept].abs().min() >= after[name][~kept].abs().max()
        assert not last[name][~kept].any()
    assert any(
        not torch.equal(second[name] == 0, smallest(first[name], second[name])) for name in plan
    ), "the training changed the order"
    assert all(torch.equal(teachers[0][name], teachers[1][name]) for name in teachers[0])


def test_a_layer_that_would_die_is_named_with_the_step(call, at_home: Path, make_model) -> None:
    model = make_model()
    with torch.no_grad():
        model.features[4].weight *= 1e-6
    save(model, Path("dying.pth"))
    options = ["--checkpoint", "dying.pth", "--dataset", "digits", *QUICK[4:], "--out", "o"]
    more = ["--sparsity", 0.5, "--scope", "global", "--steps", 2, "--finetune-epochs", 2]
    status, out, err = call("unstructured", *options, *more)
    assert (status, out) == (1, "")
    assert re.search(r"error: step 1/2: sparsity 0\.29\d*: every weight of features\.4", err)
    assert not list((at_home / "o").rglob("*unstructured*"))


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_a_stopped_training_outlives_a_pruning_without_one(
    kind: str, call, at_home: Path, small: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = TrainingRun.train_step, []

    def interrupting(self):
        steps.append(self.step)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(TrainingRun, "train_step", interrupting)
    plan = ["--ratio" if kind == "structured" else "--sparsity", 0.5, "--steps", 2]
    command = [kind, *small, "--out", "o", *plan, "--batch-size", 16]
    assert call(*command, "--finetune-epochs", 2)[0] == 130
    assert call(*command, "--finetune-epochs", 0)[0] == 0
    assert call(*command, "--finetune-epochs", 2)[0] == 0
    assert steps == [0, 1, 2, 3, 0, 1, 2, 3], "no step was done twice"
    assert not list((at_home / "o").rglob("*partial*"))


def test_steps_that_change_nothing_are_one(call, at_home: Path, small: list) -> None:
    options = ["--sparsity", 0.9, "--repair", "none"]
    status, _, err = call("unstructured", *small, "--out", "o", *options, "--steps", 3)
    assert status == 0, err
    assert "--steps: without effect" in err
    status, _, err = call("unstructured", *small, "--out", "o", *options)
    assert status == 0, err
    assert "made with these settings before" in err


def test_steps_without_training_are_repaired_towards_the_step_before(
    call, at_home: Path, small: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tp_vgg.stages import repair

    shares, real = [], repair.repair

    def noting(model, dense, *more, **options):
        shares.append([count / total for count, total in (zeros(dense), zeros(model))])
        return real(model, dense, *more, **options)

    monkeypatch.setattr(repair, "repair", noting)
    options = ["--sparsity", 0.9, "--steps", 2]
    status, _, err = call("unstructured", *small, "--out", "o", *options)
    assert status == 0, err
    assert err.count("weights were set to zero; then the zeros were chosen anew") == 2
    half = 1 - 0.1 * 2.5
    assert shares == [pytest.approx(pair, abs=2e-3) for pair in ([0, half], [half, 0.9])]
    count, total = zeros(load(at_home / "o/unstructured_pruned_vgg11.pth"))
    assert count == pytest.approx(0.9 * total, abs=8)
