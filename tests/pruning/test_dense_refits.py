"""Refits from sums that are taken once are those of each pruned layer by itself."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.networks import CONVS
from torch import nn

from tp_vgg.pruning import conjugate_gradients, dense_refits, refit
from tp_vgg.pruning.dense_refits import DenseRefits
from tp_vgg.pruning.paired_walk import Activations
from tp_vgg.pruning.refit import correction
from tp_vgg.pruning.repair_sample import RepairSample

HELD = 8
SEED = 5
CHANNELS = 9
KEPT = torch.tensor([7, 2, 0, 5])


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the corrections be exact and be applied, whatever the held-out images say."""
    monkeypatch.setattr(conjugate_gradients, "CG_TOLERANCE", 1e-6)
    monkeypatch.setattr(dense_refits, "refit", lambda layer, found, _: found.add_to(layer))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer_of(kind: str, reads: int, *, bias: bool, zeros: float) -> nn.Conv2d | nn.Linear:
    torch.manual_seed(1)
    layer: nn.Conv2d | nn.Linear
    if kind == "linear":
        layer = nn.Linear(CHANNELS * reads, 12, bias=bias)
    else:
        layer = nn.Conv2d(CHANNELS, 6, bias=bias, **CONVS[kind])
    layer.requires_grad_(False)
    layer.weight[drawn(*layer.weight.shape, seed=2).sigmoid() < zeros] = 0
    return layer


def refits_of(layer, reads: int, inputs: torch.Tensor) -> DenseRefits:
    blocks = tuple(inputs.split(HELD))
    sample = RepairSample(blocks, 1, len(blocks), HELD)
    return DenseRefits(layer, reads, Activations(blocks), sample, SEED)


def assert_same(found, pruned, columns, layer, reads: int, inputs: torch.Tensor) -> None:
    """Compare with the correction of the pruned layer, whose sums are of its own inputs."""
    fitted = inputs[HELD:].split(HELD)
    pairs = [(block if columns is None else block[:, columns], layer(block)) for block in fitted]
    generator = torch.Generator().manual_seed(SEED)
    before = copy.deepcopy(pruned)
    correction(pruned, pairs, generator, reads).add_to(pruned)
    assert found.weight.shape == pruned.weight.shape
    largest = float((pruned.weight - before.weight).abs().max())
    assert largest > 1e-2 and (found.weight - pruned.weight).abs().max() < 1e-3 * largest
    if layer.bias is not None:
        assert torch.allclose(found.bias, pruned.bias, atol=1e-3 * float(pruned.bias.abs().max()))
    assert torch.equal(found.weight == 0, before.weight == 0)


def narrowed(layer, columns: torch.Tensor):
    pruned = copy.deepcopy(layer)
    pruned.weight = nn.Parameter(layer.weight[:, columns].contiguous(), requires_grad=False)
    if isinstance(pruned, nn.Conv2d):
        pruned.in_channels = len(columns)
    return pruned


def masked(layer) -> tuple[nn.Module, torch.Tensor]:
    mask = drawn(*layer.weight.shape, seed=3) > 0
    pruned = copy.deepcopy(layer)
    pruned.weight = nn.Parameter(layer.weight * mask, requires_grad=False)
    return pruned, mask


@pytest.mark.parametrize("zeros", [0.0, 0.3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [4, 10])
@pytest.mark.parametrize("kind", CONVS)
def test_a_convs_refits(kind: str, side: int, bias: bool, zeros: float) -> None:
    """At a side of 10 the positions are drawn."""
    layer = layer_of(kind, 1, bias=bias, zeros=zeros)
    inputs = drawn(48, CHANNELS, side, side) + 0.5
    inputs += inputs.roll(1, 1)
    refits = refits_of(layer, 1, inputs)
    assert_same(refits.narrowed(KEPT), narrowed(layer, KEPT), KEPT, layer, 1, inputs)
    pruned, mask = masked(layer)
    assert_same(refits.masked(mask), pruned, None, layer, 1, inputs)
    assert_same(refits.narrowed(KEPT[:2]), narrowed(layer, KEPT[:2]), KEPT[:2], layer, 1, inputs)


@pytest.mark.parametrize("zeros", ["none", "some", "one"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images", [14, 200])
@pytest.mark.parametrize("reads", [1, 4, -4])
@pytest.mark.parametrize("widest", [10_000, 20, 0])
def test_a_linears_refits(
    reads: int, images: int, bias: bool, zeros: str, widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``reads`` below 0: the neighbours differ. 14 images are fewer than the columns."""
    for module in (dense_refits, refit):
        monkeypatch.setattr(module, "WIDEST_GRAM", widest)
    differ, reads = reads < 0, abs(reads)
    layer = layer_of("linear", reads, bias=bias, zeros=0.3 if zeros == "some" else 0.0)
    if zeros == "one":
        layer.weight[3, 2] = 0
    inputs = drawn(HELD + images, CHANNELS) + 0.5
    inputs = (inputs + inputs.roll(1, 1)).repeat_interleave(reads, 1)
    if differ:
        inputs += drawn(*inputs.shape, seed=4)
    refits = refits_of(layer, reads, inputs)
    columns = (KEPT[:, None] * reads + torch.arange(reads)).flatten()
    assert_same(refits.narrowed(KEPT), narrowed(layer, columns), columns, layer, reads, inputs)
    pruned, mask = masked(layer)
    assert_same(refits.masked(mask), pruned, None, layer, reads, inputs)
