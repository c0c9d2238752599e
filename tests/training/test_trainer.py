from __future__ import annotations

import os
import platform
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.networks import SMALL, VARIANTS, fresh, weights
from helpers.training import fit

from tp_vgg.errors import WorkFailed
from tp_vgg.evaluation.evaluate import accuracy
from tp_vgg.machine.precision import has_fast_bf16
from tp_vgg.network.masks import is_masked, remove_masks
from tp_vgg.network.vgg.model import build
from tp_vgg.pruning.gradual import Gradual
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.unstructured import mask_layers
from tp_vgg.training import run as training_run
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.run import TrainingRun

LINEAR = VARIANTS["bn-linear"]
RECIPE = Recipe(epochs=3, lr=0.05, batch_size=32, seed=1)


def run(model, data, recipe=RECIPE, **options):
    return fit(model, data, recipe, **options)


@pytest.mark.parametrize("name", ["bn-linear", "plain-linear"])
def test_learns_digits(name: str, digits) -> None:
    """Thin networks reach far more than the 10 % of chance in few epochs."""
    model = fresh(replace(VARIANTS[name], widths=(16, 24, 32, 32, 40, 40, 48, 48)))
    # Without batch norm, success at 0.05 depends on the seed and on the machine's rounding.
    lr, epochs = (0.05, 4) if "bn" in name else (0.02, 8)
    history = run(model, digits, Recipe(epochs=epochs, lr=lr, batch_size=32))
    assert len(history) == epochs
    assert max(epoch.val_accuracy for epoch in history) > 70
    assert history[-1].train_loss < history[0].train_loss


def test_ends_at_the_best_epoch_on_val(few_digits) -> None:
    model = fresh()
    history = run(model, few_digits)
    assert not model.training
    found = accuracy(model, few_digits.val, few_digits.normalisation).accuracy
    assert found == max(epoch.val_accuracy for epoch in history)
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    assert history[-1].lr < 1e-3 < max(epoch.lr for epoch in history)


def test_the_seed_decides_everything(few_digits) -> None:
    models = [fresh() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        run(model, few_digits, replace(RECIPE, seed=seed))
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


@pytest.mark.parametrize("stop_at", [2, 3, 4, 9])
def test_ctrl_c_saves_and_a_rerun_ends_at_the_same_numbers(
    stop_at: int, few_digits, tmp_path: Path, monkeypatch
) -> None:
    """Interrupted in mid-epoch (steps 2, 4) or at the end of an epoch (3, 9), with dropout.

    The result is the same bit for bit.
    """
    straight = fresh()
    history = run(straight, few_digits)
    partial = tmp_path / "m.partial.pth"
    step = TrainingRun.train_step
    steps = []

    def interrupting(self):
        steps.append(self.step)
        if len(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(TrainingRun, "train_step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        run(fresh(), few_digits, partial=partial)
    assert steps == list(range(stop_at)), "the step in hand was finished"
    resumed = fresh()
    again = run(resumed, few_digits, partial=partial)
    assert steps == list(range(9)), "no step was done twice"
    assert torch.equal(weights(resumed), weights(straight))
    assert [replace(e, seconds=0) for e in again] == [replace(e, seconds=0) for e in history]


def test_a_finished_fit_is_not_done_again(few_digits, tmp_path: Path, monkeypatch) -> None:
    partial = tmp_path / "m.partial.pth"
    first = fresh()
    run(first, few_digits, partial=partial)
    monkeypatch.setattr(TrainingRun, "train_step", lambda _: pytest.fail("trained again"))
    second = fresh()
    run(second, few_digits, partial=partial)
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize("change", ["recipe", "weights", "torn", "foreign"])
def test_a_partial_of_other_work_is_ignored(change: str, few_digits, tmp_path: Path) -> None:
    partial = tmp_path / "m.partial.pth"
    run(fresh(), few_digits, partial=partial)
    recipe, model = RECIPE, fresh()
    if change == "recipe":
        recipe = replace(RECIPE, lr=0.01)
    elif change == "weights":
        with torch.no_grad():
            model.features[0].weight[0, 0, 0, 0] += 1e-3
    elif change == "torn":
        partial.write_bytes(partial.read_bytes()[:1000])
    else:
        torch.save([1], partial)
    alone = fresh()
    alone.load_state_dict(model.state_dict())
    run(model, few_digits, recipe, partial=partial)
    run(alone, few_digits, recipe)
    assert torch.equal(weights(model), weights(alone))


def test_other_works_partial_is_put_aside_and_found_again(
    few_digits, tmp_path: Path, monkeypatch
) -> None:
    """A is interrupted; B runs to its end under the same name; A goes on where it was."""
    partial = tmp_path / "m.partial.pth"
    step = TrainingRun.train_step

    def interrupting(self):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "train_step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run(fresh(), few_digits, partial=partial)
    run(fresh(), few_digits, replace(RECIPE, lr=0.01), partial=partial)
    partial.unlink()
    seen = []
    monkeypatch.setattr(
        TrainingRun, "train_step", lambda self: (seen.append(self.step), step(self))[1]
    )
    run(fresh(), few_digits, partial=partial)
    assert seen == [5, 6, 7, 8]


def test_a_non_finite_loss_stops_and_keeps_the_last_good_epoch(
    few_digits, tmp_path: Path, monkeypatch
) -> None:
    partial = tmp_path / "m.partial.pth"
    step = TrainingRun.train_step

    def poisoned(self):
        if self.step == 5:
            with torch.no_grad():
                self.model.features[0].weight.fill_(float("nan"))
        return step(self)

    monkeypatch.setattr(TrainingRun, "train_step", poisoned)
    with pytest.raises(
        WorkFailed,
        match=r"non-finite at step 6 of 9; the last good epoch is kept in .*smaller --lr",
    ):
        run(fresh(), few_digits, partial=partial)
    kept = torch.load(partial, weights_only=True)
    assert kept["step"] == 3
    assert all(value.isfinite().all() for value in kept["model"].values())


def test_a_runaway_rate_is_caught(few_digits) -> None:
    with pytest.raises(WorkFailed, match="non-finite"):
        run(fresh(VARIANTS["plain-hidden"]), few_digits, replace(RECIPE, lr=1e6))


def test_masks_hold_through_fit(few_digits) -> None:
    model = fresh()
    mask_layers(model, Plan(dict.fromkeys(SMALL.prunable, 0.8), "t"))
    before = {name: model.get_submodule(name).weight_mask.clone() for name in SMALL.prunable}
    run(model, few_digits)
    remove_masks(model)
    for name, mask in before.items():
        weight = model.get_submodule(name).weight
        assert int((weight != 0).sum()) == int(mask.sum())
        assert not weight[mask == 0].any()


def test_weight_decay_is_decoupled_and_spares_biases_and_batch_norm(few_digits) -> None:
    """Without gradients convs and linears shrink by 1 − lr·decay per step; nothing else changes."""
    model = fresh()
    for p in model.parameters():
        p.register_hook(torch.zeros_like)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    recipe = replace(RECIPE, epochs=1, weight_decay=0.5)
    run(model, few_digits, recipe)
    factors = {
        name: float(p.detach().norm() / before[name].norm())
        for name, p in model.named_parameters()
        if before[name].any()
    }
    expected = factors["features.0.weight"]
    assert 0.9 < expected < 0.999
    for name, factor in factors.items():
        matrix = before[name].ndim > 1
        assert factor == pytest.approx(expected if matrix else 1, rel=1e-5), name


def test_distillation_pulls_towards_the_teacher(few_digits) -> None:
    torch.manual_seed(5)
    teacher = build(SMALL).eval()
    with torch.no_grad():
        teacher.classifier[-1].bias[3] += 8
    student = fresh()
    recipe = replace(RECIPE, distill_weight=1.0)
    run(student, few_digits, recipe, teacher=teacher)
    with torch.inference_mode():
        found = student(few_digits.normalisation(few_digits.val.images)).argmax(1)
    assert (found == 3).float().mean() > 0.9


def test_bf16_autocast_trains(few_digits) -> None:
    model = fresh()
    history = run(model, few_digits, replace(RECIPE, epochs=1), precision=torch.bfloat16)
    assert history[0].train_loss < 5
    assert all(p.dtype == torch.float32 for p in model.parameters())
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    if "x86" in platform.machine():
        assert has_fast_bf16(torch.device("cpu")) == ("avx512_bf16" in flags or "amx_bf16" in flags)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fit_on_cuda(digits) -> None:
    from tp_vgg.data.datasets import load_data

    data = load_data("digits", Path("x"), torch.device("cuda"))
    for precision in (torch.float32, torch.bfloat16):
        history = run(
            fresh(LINEAR), data, Recipe(epochs=5, lr=0.05, batch_size=64), precision=precision
        )
        assert max(e.val_accuracy for e in history) > 50


@pytest.mark.parametrize("goal", ["layer", "global"])
def test_gradual_masks_end_where_masks_at_once_do(goal: str, few_digits) -> None:
    """On the cubic ramp zeros never get fewer and all are there at its end.

    No epoch before the end of the ramp can be the best.
    """
    model = fresh(LINEAR)
    plan = Plan(dict.fromkeys(LINEAR.prunable, 0.8), "t")
    gradual = Gradual(plan, every=1) if goal == "layer" else Gradual(None, 0.8, every=1)
    gradual.begin(model)
    counts = []
    before = Gradual.before_step

    class Watched(Gradual):
        def before_step(self, network, step, total):
            before(self, network, step, total)
            counts.append(
                sum(int((m.weight_mask == 0).sum()) for m in network.modules() if is_masked(m))
            )

    history = run(model, few_digits, masking=Watched(**vars(gradual)))
    weights_in_all = sum(row.weights for row in LINEAR.rows if row.name in LINEAR.prunable)
    assert counts == sorted(counts)
    assert counts[0] == 0
    ramp = int(0.6 * len(counts))
    assert (
        counts[ramp - 1]
        < counts[ramp]
        == counts[-1]
        == pytest.approx(0.8 * weights_in_all, abs=len(LINEAR.prunable))
    )
    assert counts[ramp // 2] > counts[-1] / 2, "cubic: most of it early"
    assert len(history) == 3
    remove_masks(model)
    assert (
        sum(int((model.get_submodule(n).weight == 0).sum()) for n in LINEAR.prunable) == counts[-1]
    )


def test_an_epoch_before_the_masks_are_final_is_never_the_best(few_digits, monkeypatch) -> None:
    right = iter([40, 1, 0])  # as if pruning had lost all accuracy
    labels = few_digits.val.labels
    monkeypatch.setattr(
        training_run, "predictions", lambda *_: labels + (torch.arange(len(labels)) >= next(right))
    )
    model = fresh(LINEAR)
    gradual = Gradual(Plan(dict.fromkeys(LINEAR.prunable, 0.8), "t"))
    gradual.begin(model)
    run(model, few_digits, masking=gradual)
    remove_masks(model)
    share = sum(int((model.get_submodule(n).weight == 0).sum()) for n in LINEAR.prunable)
    assert share > 0.79 * sum(row.weights for row in LINEAR.rows if row.name in LINEAR.prunable)


def test_a_gradual_fit_goes_on_from_its_partial(few_digits, tmp_path: Path, monkeypatch) -> None:
    gradual = Gradual(None, 0.7, every=1)
    straight, resumed = fresh(LINEAR), fresh(LINEAR)
    for model in (straight, resumed):
        gradual.begin(model)
    run(straight, few_digits, masking=gradual)
    step = TrainingRun.train_step

    def interrupting(self):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "train_step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run(resumed, few_digits, masking=gradual, partial=tmp_path / "m.partial.pth")
    resumed = fresh(LINEAR)
    gradual.begin(resumed)
    run(resumed, few_digits, masking=gradual, partial=tmp_path / "m.partial.pth")
    assert torch.equal(weights(resumed), weights(straight))
