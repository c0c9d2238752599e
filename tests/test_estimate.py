from __future__ import annotations

import torch

from tp_vgg.estimate import estimate_seconds
from tp_vgg.recipe import Recipe


def test_an_estimate_leaves_the_model_alone(make_model, few_digits) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe(epochs=3, lr=0.05, batch_size=32)
    one = estimate_seconds(model, few_digits, recipe, few_digits.normalisation, torch.float32)
    assert one > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
