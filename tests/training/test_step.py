from __future__ import annotations

import gc
import os
import signal
import warnings
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.networks import VARIANTS, fresh, weights
from helpers.training import fit

from tp_vgg.errors import WorkFailed
from tp_vgg.machine.precision import fp32_flags
from tp_vgg.network.masks import remove_masks
from tp_vgg.pruning.gradual import Gradual
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.unstructured import mask_layers
from tp_vgg.training import run as training_run
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.run import TrainingRun
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.step import EAGER_STEPS, ReplayedStep, TrainingStep, draw_epoch

RECIPE = Recipe(epochs=3, lr=0.05, batch_size=20, seed=1)
"""The 96 images make four full batches and one of 16."""


def test_an_epoch_is_drawn_from_its_seed_and_number_alone() -> None:
    one, again = (draw_epoch(RECIPE, 1, 500, flip=True) for _ in range(2))
    assert one.shape == (4, 500) and one.dtype == torch.int64
    assert torch.equal(one, again)
    for other in (
        draw_epoch(RECIPE, 2, 500, flip=True),
        draw_epoch(replace(RECIPE, seed=2), 1, 500, flip=True),
    ):
        assert not any(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    where, down, right, _ = one
    assert torch.equal(where.sort().values, torch.arange(500))
    for shift in (down, right):
        assert set(shift.tolist()) == set(range(-4, 5))
    assert not torch.equal(down, right)


def test_images_are_mirrored_every_other_epoch() -> None:
    """Alternating flip: each image is mirrored in one of two epochs, about half of them first."""
    first, second, third = (
        turned[where.argsort()]
        for where, _, _, turned in (draw_epoch(RECIPE, epoch, 500, flip=True) for epoch in range(3))
    )
    assert torch.equal(first, 1 - second) and torch.equal(first, third)
    assert 200 < int(first.sum()) < 300
    assert not draw_epoch(RECIPE, 0, 500, flip=False)[3].any()


def stepped(data, steps: int, *, replayed: bool, on_device: bool = True, capture=lambda call: call):
    model = fresh().train()
    step = TrainingStep(model, TrainingSetup(data, RECIPE, data.normalisation), on_device=on_device)
    run = ReplayedStep(step, RECIPE.batch_size, capture) if replayed else step
    draws = draw_epoch(RECIPE, 0, len(data.train), flip=False)
    for i in range(steps):
        torch.manual_seed(i)  # for dropout
        place = (i % 5) * 20
        run(draws[:, place : place + 20], RECIPE.rate(i, 5))
    return model, step


def test_a_replayed_step_is_the_step(few_digits) -> None:
    """The capture only keeps the call: batch and rate are copied to the tensors a graph reads."""
    captured = []
    model, step = stepped(
        few_digits, 12, replayed=True, capture=lambda call: captured.append(call) or call
    )
    same, alone = stepped(few_digits, 12, replayed=False)
    assert torch.equal(weights(model), weights(same))
    assert torch.equal(step.loss_sum, alone.loss_sum) and torch.equal(step.hits, alone.hits)
    assert len(captured) == 1
    by_number, _ = stepped(few_digits, 12, replayed=False, on_device=False)
    assert torch.allclose(weights(by_number), weights(same), rtol=1e-3, atol=1e-4)


def test_the_first_steps_and_odd_batches_are_not_replayed(few_digits) -> None:
    replayed = []
    model, _ = stepped(
        few_digits, 10, replayed=True, capture=lambda call: lambda: replayed.append(call())
    )
    assert len(replayed) == 10 - 2 - EAGER_STEPS, "of each five the last has 16 images"
    assert model.training


def test_nothing_happens_while_a_graph_is_captured(few_digits) -> None:
    """A capture records and does not run, so it must not be counted as a step."""
    replayed, _ = stepped(
        few_digits, EAGER_STEPS + 1, replayed=True, capture=lambda _: lambda: None
    )
    before, _ = stepped(few_digits, EAGER_STEPS, replayed=False)
    assert torch.equal(weights(replayed), weights(before))


def test_a_step_that_can_not_be_captured_is_run_without(few_digits) -> None:
    def refuse(call):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    with pytest.warns(
        UserWarning,
        match="can.t be a CUDA graph .*operation not permitted when stream is capturing.; going on",
    ):
        model, _ = stepped(few_digits, 10, replayed=True, capture=refuse)
    same, _ = stepped(few_digits, 10, replayed=False)
    assert torch.equal(weights(model), weights(same))


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """fit() runs as on CUDA, with the plain call in the place of each graph."""
    captured: list[object] = []
    monkeypatch.setattr(training_run, "replays", lambda *_: True)
    monkeypatch.setattr(
        training_run, "capture_graph", lambda call, **_: captured.append(call) or call
    )
    return captured


@pytest.mark.parametrize("stop_at", [2, 4, 5, 9])
def test_a_replayed_fit_goes_on_where_it_was_interrupted(
    stop_at: int, few_digits, tmp_path: Path, monkeypatch, replayed: list[object]
) -> None:
    """Interrupted before and after the capture, and at the end of an epoch, with dropout.

    The result is the same bit for bit.
    """

    def trained(model, **options):
        return fit(model, few_digits, RECIPE, **options)

    straight, resumed = fresh(), fresh()
    history = trained(straight)
    assert len(replayed) == 1
    step = TrainingRun.train_step

    def interrupting(self):
        if self.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "train_step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            trained(resumed, partial=tmp_path / "m.partial.pth")
    kept = torch.load(tmp_path / "m.partial.pth", weights_only=True)
    assert type(kept["optimizer"]["param_groups"][0]["lr"]) is float, (
        "a partial of one device opens on another"
    )
    resumed = fresh()
    again = trained(resumed, partial=tmp_path / "m.partial.pth")
    assert torch.equal(weights(resumed), weights(straight))
    assert [replace(e, seconds=0) for e in again] == [replace(e, seconds=0) for e in history]


def test_nothing_of_the_step_before_is_alive_when_a_graph_is_captured(
    few_digits, monkeypatch
) -> None:
    """Masked weights once kept the autograd graph of the step before alive.

    On CUDA its gradients belong to another stream, and the capture fails.
    """
    model = fresh(VARIANTS["bn-linear"])
    mask_layers(model, Plan.uniform(0.5, tuple(model.spec.prunable), "t"))
    alive = []

    def capture(call, **_):
        alive.extend(
            name
            for module in model.modules()
            for name, v in vars(module).items()
            if isinstance(v, torch.Tensor) and v.grad_fn
        )
        return call

    monkeypatch.setattr(training_run, "replays", lambda *_: True)
    monkeypatch.setattr(training_run, "capture_graph", capture)
    fit(model, few_digits, RECIPE)
    assert not alive
    remove_masks(model)
    assert all(
        0.4 < float((model.get_submodule(name).weight == 0).float().mean()) < 0.6
        for name in model.spec.prunable
    )


def test_a_finished_fit_keeps_nothing_of_its_graph(few_digits, monkeypatch) -> None:
    """Its memory is freed at once, not at the next collection of reference cycles."""
    held = []

    class Graph:
        def __init__(self, call) -> None:
            self.call = call
            held.append(weakref.ref(self))

        def __call__(self) -> None:
            self.call()

    monkeypatch.setattr(training_run, "replays", lambda *_: True)
    monkeypatch.setattr(training_run, "capture_graph", lambda call, **_: Graph(call))
    gc.collect()
    gc.disable()
    try:
        fit(fresh(), few_digits, RECIPE)
        assert [one() for one in held] == [None]
    finally:
        gc.enable()


def test_masks_that_grow_are_seen_by_a_replayed_step(
    few_digits, monkeypatch, replayed: list[object]
) -> None:
    models = []
    for replays in (True, False):
        monkeypatch.setattr(training_run, "replays", lambda *_, on=replays: on)
        model = fresh(VARIANTS["bn-linear"])
        gradual = Gradual(None, 0.7, every=1)
        gradual.begin(model)
        fit(model, few_digits, RECIPE, masking=gradual)
        models.append(model)
    masks = [[b for name, b in model.named_buffers() if name.endswith("mask")] for model in models]
    assert all(map(torch.equal, *masks))
    assert torch.allclose(*map(weights, models), rtol=1e-3, atol=1e-3)


def test_fp32_training_is_fp32(few_digits, monkeypatch) -> None:
    """As in evaluation, TF32 is off on CUDA, and cuDNN is deterministic."""
    found = []
    step = TrainingRun.train_step
    monkeypatch.setattr(
        TrainingRun, "train_step", lambda self: (found.append(fp32_flags()), step(self))[1]
    )
    fit(fresh(), few_digits, replace(RECIPE, epochs=1))
    wanted = {
        "cuda_matmul": "ieee",
        "cudnn_conv": "ieee",
        "cudnn_benchmark": False,
        "cudnn_deterministic": True,
    }
    assert found and all(flags == wanted for flags in found)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["weight", "running_var"])
def test_one_number_that_is_none_is_found(value: float, where: str, few_digits) -> None:
    model = fresh()
    run = TrainingRun(model, TrainingSetup(few_digits, RECIPE, few_digits.normalisation))
    run.train_step()
    run.check_finite()
    with torch.no_grad():
        tensor = next(v for name, v in model.state_dict().items() if name.endswith(where))
        tensor[(0,) * tensor.ndim] = value
    with pytest.raises(WorkFailed, match="non-finite at step 1 of 15"):
        run.check_finite()


def test_what_is_kept_of_a_finished_fit_is_its_best_epoch(few_digits, tmp_path: Path) -> None:
    model, partial = fresh(), tmp_path / "m.partial.pth"
    fit(model, few_digits, RECIPE, partial=partial)
    kept = torch.load(partial, weights_only=True)
    assert "optimizer" not in kept
    size = sum(value.nbytes for value in model.state_dict().values())
    assert partial.stat().st_size < 1.5 * size + 50_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_trains_as_single_kernels_do(
    precision: torch.dtype, masked: bool, monkeypatch
) -> None:
    from tp_vgg.data.datasets import load_data

    data = load_data("digits", Path("x"), torch.device("cuda"), limits=(320, 60, 60))
    states = []
    for replays in (True, True, False):
        monkeypatch.setattr(training_run, "replays", lambda *_, on=replays: on)
        model = fresh()
        if masked:
            mask_layers(model, Plan.uniform(0.5, tuple(model.spec.prunable), "t"))
        with warnings.catch_warnings(action="error"):
            fit(
                model,
                data,
                RECIPE,
                normalisation=data.normalisation,
                precision=precision,
                quiet=True,
            )
        states.append(weights(model).cpu())
    assert torch.equal(states[0], states[1]), "the same bits on every run"
    assert torch.allclose(states[0], states[2], rtol=0.05, atol=0.05)
