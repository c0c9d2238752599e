"""Refitted weights get their former norms before a training; the function stays the same."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers.networks import SMALL, VARIANTS, lively
from torch.nn.utils import prune

import tp_vgg
from tp_vgg.network.checkpoint import load
from tp_vgg.network.network import Network
from tp_vgg.pruning.rebase import restore_row_norms, row_norms
from tp_vgg.stages.session import Session

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
IMAGES = torch.randn(8, 3, 32, 32, generator=GENERATOR)


def repaired(variant: str, kind: str) -> tuple[Network, dict[str, torch.Tensor]]:
    dense = lively(VARIANTS[variant])
    model = copy.deepcopy(dense)
    if kind == "channels":
        tp_vgg.prune_structured(model, dict.fromkeys(model.spec.prunable, 0.4))
    else:
        tp_vgg.prune_unstructured(model, 0.8, masks=kind == "masks")
    norms = row_norms(model)
    tp_vgg.repair(model, dense, PIXELS, move_zeros=kind != "channels")
    return model, norms


@pytest.mark.parametrize("kind", ["channels", "zeros", "masks"])
@pytest.mark.parametrize("variant", ["bn-hidden", "bn-linear", "bn-unfolded"])
def test_norms_come_back_and_logits_stay(variant: str, kind: str) -> None:
    model, norms = repaired(variant, kind)
    changed = row_norms(model)
    assert max(float((changed[name] / norms[name] - 1).abs().max()) for name in norms) > 0.1
    with torch.no_grad():
        before = model.eval()(IMAGES)
        restore_row_norms(model, norms)
        after = model(IMAGES)
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    for name, norm in row_norms(model).items():
        assert torch.allclose(norm, norms[name], rtol=1e-5)
        layer = model.get_submodule(name)
        if prune.is_pruned(layer):
            assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)


def test_a_small_epsilon_is_not_small_for_a_channel_that_hardly_varies() -> None:
    model, norms = repaired("bn-linear", "channels")
    model.features[5].running_var.mul_(1e-6)
    with torch.no_grad():
        before = model.eval()(IMAGES)
        restore_row_norms(model, norms)
        assert (model(IMAGES) - before).abs().max() <= 1e-4 * before.abs().max()


def test_rows_of_zeros_and_networks_without_batch_norm_stay() -> None:
    model, norms = repaired("plain-linear", "channels")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert norms == {}
    restore_row_norms(model, norms)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model = lively()
    with torch.no_grad():
        model.features[4].weight[1] = 0
    norms = {name: 2 * norm for name, norm in row_norms(model).items()}
    norms["features.8"][0] = 0
    kept = model.features[8].weight[0].clone()
    restore_row_norms(model, norms)
    assert not model.features[4].weight[1].any() and torch.equal(model.features[8].weight[0], kept)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize("repair", ["reconstruct", "none"])
@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_a_training_begins_with_the_norms_from_before_the_repair(
    kind: str, repair: str, call, at_home: Path, small: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[dict[str, torch.Tensor], torch.Tensor]] = []
    real = Session.fit

    def fit(session, model, *given, **named):
        begun.append((row_norms(model), model.features[8].weight.detach().clone()))
        return real(session, model, *given, **named)

    monkeypatch.setattr(Session, "fit", fit)
    amount = ["--ratio" if kind == "structured" else "--sparsity", 0.5, "--repair", repair]
    status, _, err = call(kind, *small, "--out", "o", *amount, "--finetune-epochs", 1)
    assert status == 0, err
    dense = load(Path(small[-1]))
    if kind == "structured":
        tp_vgg.prune_structured(dense, dict.fromkeys(SMALL.conv_names, 0.5))
    else:
        tp_vgg.prune_unstructured(dense, 0.5)
    ((norms, weight),) = begun
    for name, wanted in row_norms(dense).items():
        assert torch.allclose(norms[name], wanted, rtol=1e-4)
    assert torch.allclose(weight, dense.features[8].weight) == (repair == "none")
