"""With ``move_zeros``, a repair chooses anew which weights of a layer are zero."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, VARIANTS, lively
from torch import nn
from torch.nn.utils import prune

import tp_vgg
from tp_vgg.network.families import segments
from tp_vgg.network.network import Network
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning import conjugate_gradients, refit
from tp_vgg.pruning.normal_equations import as_matrix
from tp_vgg.pruning.refit import RIDGE, correction

PIXELS = torch.randint(
    0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def zeros_of(model: Network) -> dict[str, torch.Tensor]:
    return {part.name: part.layer.weight.detach() == 0 for part in segments(model)}


def sparse(dense: Network, sparsity: float = 0.8, *, masks: bool = False) -> Network:
    model = copy.deepcopy(dense)
    tp_vgg.prune_unstructured(model, sparsity, masks=masks)
    return model


def ridge(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), cross)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("reads", [1, 4])
@pytest.mark.parametrize("kind", ["conv", "linear", "few samples"])
def test_the_smallest_weights_of_the_whole_refit_become_the_zeros(
    kind: str, reads: int, masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with NumPy, output by output, over the patches themselves."""
    monkeypatch.setattr(conjugate_gradients, "CG_TOLERANCE", 1e-6)
    torch.manual_seed(0)
    layer: nn.Conv2d | nn.Linear
    if kind == "conv":
        layer = nn.Conv2d(5, 6, 3, padding=1)
        inputs, wanted = drawn(40, 5, 4, 4), drawn(40, 6, 4, 4, seed=1)
        patches = nn.functional.unfold(inputs, 3, padding=1).view(40, 5, 9, 16)
        x = patches.permute(0, 3, 2, 1).reshape(640, 45)
        y = wanted.flatten(2).transpose(1, 2).reshape(640, 6)
    else:
        layer = nn.Linear(24, 6)
        inputs = drawn(10 if kind == "few samples" else 80, 24 // reads).repeat_interleave(reads, 1)
        wanted = drawn(len(inputs), 6, seed=1)
        x, y = inputs, wanted
    layer.requires_grad_(False)
    dense = layer.weight.clone()
    dense[0, 0] = 0
    zeroed = drawn(*dense.shape, seed=2) < 0.5
    zeroed |= dense == 0
    if masks:
        prune.custom_from_mask(layer, "weight", ~zeroed)
    else:
        layer.weight[zeroed] = 0
    blocks = [(inputs, wanted)]
    generator = torch.Generator().manual_seed(0)
    found = correction(layer, blocks, generator, reads if kind != "conv" else 1, dense)
    found.add_to(layer)

    start, x, y = as_matrix(dense).double().numpy(), x.double().numpy(), y.double().numpy()
    penalty = RIDGE * float((x**2).sum(0).mean())
    x, y = x - x.mean(0), y - y.mean(0)
    whole = np.zeros_like(start)
    for row, weights in enumerate(start):
        used = weights != 0
        lacking = y[:, row] - x @ weights
        whole[row, used] = weights[used] + ridge(
            x[:, used].T @ x[:, used], x[:, used].T @ lacking, penalty
        )
    threshold = np.sort(np.abs(whole).ravel())[int(zeroed.sum()) - 1]
    kept = np.abs(whole) > threshold
    expected = np.zeros_like(start)
    for row, weights in enumerate(start * kept):
        used = kept[row]
        lacking = y[:, row] - x @ weights
        expected[row, used] = weights[used] + ridge(
            x[:, used].T @ x[:, used], x[:, used].T @ lacking, penalty
        )
    weight = layer.weight_orig * layer.weight_mask if masks else layer.weight
    actual = as_matrix(weight).double().numpy()
    assert ((actual != 0) == kept).all()
    assert not (kept == ~as_matrix(zeroed).numpy()).all()
    assert np.abs(actual - expected).max() <= 2e-3 * np.abs(expected).max()
    if masks:
        assert (as_matrix(layer.weight_mask).bool().numpy() == kept).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_layer_keeps_the_number_of_its_zeros(variant: str) -> None:
    dense = lively(VARIANTS[variant])
    plain, masked = sparse(dense), sparse(dense, masks=True)
    before = zeros_of(plain)
    for model in (plain, masked):
        result = tp_vgg.repair(model, dense, PIXELS, move_zeros=True)
        assert result.layers["features.8"].outcome == "refitted"
    after = zeros_of(plain)
    for name, zeros in before.items():
        assert int(after[name].sum()) == int(zeros.sum()), name
        assert torch.equal(plain.get_submodule(name).weight, masked.get_submodule(name).weight)
        if zeros.any():
            mask = masked.get_submodule(name).weight_mask
            assert torch.equal(mask == 0, after[name])
    # The first layer reads the images, so that its dense weights are the best as they are.
    assert torch.equal(after["features.0"], before["features.0"])
    assert not torch.equal(after["features.8"], before["features.8"])


def test_zeros_of_the_dense_network_stay() -> None:
    dense = lively()
    tp_vgg.prune_unstructured(dense, 0.5)
    there = zeros_of(dense)
    model = sparse(dense)
    tp_vgg.repair(model, dense, PIXELS, move_zeros=True)
    for name, zeros in zeros_of(model).items():
        assert not (there[name] & ~zeros).any(), name


def test_after_channels_were_removed_the_dense_weights_are_those_of_what_is_left() -> None:
    """The dense network is that before both prunings, or that between them: the same zeros."""
    first = lively()
    second = copy.deepcopy(first)
    tp_vgg.prune_structured(second, dict.fromkeys(SMALL.prunable, 0.3))
    models = [sparse(second), sparse(second)]
    for model, dense in zip(models, (first, second), strict=True):
        before = zeros_of(model)
        tp_vgg.repair(model, dense, PIXELS, layers=["features.0"], move_zeros=True)
        assert torch.equal(zeros_of(model)["features.0"], before["features.0"])
    model, before = sparse(second), zeros_of(sparse(second))
    tp_vgg.repair(model, first, PIXELS, move_zeros=True)
    after = zeros_of(model)
    assert all(int(after[name].sum()) == int(before[name].sum()) for name in before)
    # Each weight that is left was pulled to its dense value; a mix-up of channels would show.
    kept = torch.tensor(model.kept["features.8"])
    read = torch.tensor(model.kept["features.4"])
    dense = first.features[8].weight[kept][:, read]
    left = ~after["features.8"]
    weight = model.features[8].weight
    together = torch.stack([weight[left], dense[left]]).detach()
    assert torch.corrcoef(together)[0, 1] > 0.5


def test_a_few_zeros_do_not_move() -> None:
    """One zero that came by chance in training must not cost the layer its weights."""
    dense = lively(VGGSpec((8, 12, 40, 40, 20, 20, 24, 24)))
    models = [copy.deepcopy(dense) for _ in range(2)]
    for model, move_zeros in zip(models, (True, False), strict=True):
        with torch.no_grad():
            model.features[8].weight += 0.05 * drawn(*model.features[8].weight.shape)
            model.features[8].weight[0, 0, 0, 0] = 0
        tp_vgg.repair(model, dense, PIXELS, move_zeros=move_zeros)
    states = [model.state_dict() for model in models]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("training", [False, True])
def test_masks_that_cover_some_of_the_zeros_cover_all_afterwards(training: bool) -> None:
    dense = lively()
    model = sparse(dense, 0.5)
    expected = copy.deepcopy(model)
    for name in ("features.8", "classifier.0"):
        layer = model.get_submodule(name)
        mask = (layer.weight != 0) | (drawn(*layer.weight.shape) < 0)
        prune.custom_from_mask(layer, "weight", mask)
    model.to(memory_format=torch.channels_last).train(training)
    tp_vgg.repair(model, dense, PIXELS, move_zeros=True)
    tp_vgg.repair(expected, dense, PIXELS, move_zeros=True)
    assert model.training == training
    for part in segments(expected):
        layer = model.get_submodule(part.name)
        weight = layer.weight_orig * layer.weight_mask if prune.is_pruned(layer) else layer.weight
        assert torch.allclose(weight, part.layer.weight, atol=1e-5)
        if prune.is_pruned(layer):
            assert torch.equal(layer.weight_mask != 0, part.layer.weight != 0)


@pytest.mark.parametrize("kind", ["channels", "none"])
def test_without_new_zeros_it_changes_nothing(kind: str) -> None:
    dense = lively()
    model = copy.deepcopy(dense)
    if kind == "channels":
        tp_vgg.prune_structured(model, {"features.8": 0.5})
    other = copy.deepcopy(model)
    results = [
        tp_vgg.repair(model, dense, PIXELS, move_zeros=True),
        tp_vgg.repair(other, dense, PIXELS),
    ]
    assert results[0] == results[1]
    states = model.state_dict(), other.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("masks", [False, True])
def test_a_layer_that_would_be_worse_keeps_its_zeros(
    masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = refit.as_correction

    def worse(*given, **named) -> refit.Correction:
        found = real(*given, **named)
        return refit.Correction(100 * torch.randn_like(found.weight), found.bias)

    dense = lively()
    model = sparse(dense, masks=masks)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(refit, "as_correction", worse)
    result = tp_vgg.repair(model, dense, PIXELS, move_zeros=True, layers=["features.8"])
    assert result.layers["features.8"].outcome == "kept"
    layer = {name: value for name, value in model.state_dict().items() if "features.8." in name}
    assert layer and all(torch.equal(value, before[name]) for name, value in layer.items())


@pytest.mark.parametrize("variant", ["bn-hidden", "bn-linear", "plain-linear"])
def test_it_gives_more_accuracy_where_many_weights_are_zero(
    variant: str, trained: Callable, digits
) -> None:
    dense = trained(VARIANTS[variant])
    correct = []
    for move_zeros in (False, True):
        model = sparse(dense, 0.93)
        tp_vgg.repair(model, dense, digits.train, limit=600, move_zeros=move_zeros)
        correct.append(tp_vgg.accuracy(model, digits.test).accuracy)
    assert correct[1] > correct[0]
