"""What a caller froze stays frozen: each module keeps its own mode."""

from __future__ import annotations

import pytest
import torch
from helpers.networks import lively
from torch import nn

import tp_vgg
from tp_vgg.errors import BadInput

PAIR = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10


def student():
    with torch.inference_mode(False):
        return lively()


CALLS = {
    "accuracy": lambda model: tp_vgg.accuracy(model, PAIR),
    "sweep": lambda model: tp_vgg.sweep(model, PAIR, levels=[0.5], layers=["features.4"]),
    "prune_structured": lambda model: tp_vgg.prune_structured(model, {"features.4": 0.5}),
    "finetune": lambda model: tp_vgg.finetune(model, PAIR, epochs=1, lr=1e-3),
    "teacher": lambda model: tp_vgg.finetune(student(), PAIR, teacher=model, epochs=1, lr=1e-3),
}


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"finetune"}))
def test_a_batch_norm_in_eval_mode_stays_in_it(name: str) -> None:
    model = lively().train()
    for module in model.modules():
        module.training &= not isinstance(module, nn.BatchNorm2d)
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    CALLS[name](model)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("name", CALLS)
def test_calls_work_in_inference_mode(name: str) -> None:
    model = lively()
    with torch.inference_mode():
        CALLS[name](model)
    assert not any(value.is_inference() for value in model.state_dict().values())


@pytest.mark.parametrize("name", CALLS)
def test_a_model_of_inference_mode_is_refused_where_autograd_is_needed(name: str) -> None:
    with torch.inference_mode():
        model = lively()
    if name in ("accuracy", "teacher"):
        CALLS[name](model)
        return
    with pytest.raises(BadInput, match=r"^model: features\.0\.weight: made in torch\.inference_mo"):
        CALLS[name](model)
