from __future__ import annotations

from dataclasses import replace

import torch

from tp_vgg.machine.distributed import Ranks
from tp_vgg.training import estimate
from tp_vgg.training.estimate import estimate_seconds
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.trainer import steps_alone


def test_an_estimate_leaves_the_model_alone(make_model, few_digits) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe(epochs=3, lr=0.05, batch_size=32)
    one = estimate_seconds(model, TrainingSetup(few_digits, recipe, few_digits.normalisation))
    assert one > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_on_a_gpu_it_is_the_time_of_real_steps(make_model, few_digits, monkeypatch) -> None:
    """All ranks take the steps, and the device is waited for; here steps are only counted."""
    ranks, before, timed = Ranks(0, 2), *estimate.CUDA_STEPS
    steps, asked, waits, clock = [], [], [], iter([10.0, 22.0])
    monkeypatch.setattr(
        estimate,
        "steps_alone",
        lambda *given: asked.append(given[-1].ranks) or (lambda: steps.append(1)),
    )
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(estimate.torch.cuda, "synchronize", lambda _: waits.append(len(steps)))
    recipe = Recipe(epochs=3, lr=0.05, batch_size=32)
    setup = TrainingSetup(few_digits, recipe, few_digits.normalisation, ranks=ranks)
    of_a_step = estimate._step_seconds(make_model(), setup)
    assert (asked, waits) == ([ranks], [before, before + timed])
    assert of_a_step == 12 / timed


def test_on_a_cpu_processes_share_the_images(make_model, few_digits, monkeypatch) -> None:
    monkeypatch.setattr(estimate, "_image_seconds", lambda *_: 2.0)
    recipe = Recipe(epochs=3, lr=0.05, batch_size=32)
    model, setup = make_model(), TrainingSetup(few_digits, recipe, few_digits.normalisation)
    shared = replace(setup, ranks=Ranks(0, 2))
    assert (
        estimate_seconds(model, setup)
        == 2.0 * 3 * len(few_digits.train)
        == 2 * estimate_seconds(model, shared)
    )


def test_the_steps_that_are_timed_are_those_of_the_training(make_model, few_digits) -> None:
    model = make_model()
    recipe = Recipe(epochs=2, lr=0.05, batch_size=32)
    step = steps_alone(model, TrainingSetup(few_digits, recipe, few_digits.normalisation))
    before = model.state_dict()["features.0.weight"].clone()
    assert [step() for _ in range(6)] == [32] * 6
    assert not torch.equal(model.state_dict()["features.0.weight"], before)
