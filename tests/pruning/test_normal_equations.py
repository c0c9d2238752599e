"""The sums of a layer are those of all its patches, and its correction is the ridge solution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import CONVS
from torch import nn

from tp_vgg.pruning import conjugate_gradients, normal_equations, refit
from tp_vgg.pruning.normal_equations import (
    as_matrix,
    as_weight,
    conv_equations,
    linear_equations,
)
from tp_vgg.pruning.refit import RIDGE, correction

SIDES = [4, 6]
"""Sides of the input maps."""


@pytest.fixture(params=["by pairs of pixels", "by patches"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sum a map's products in one of the two ways; all positions count in both."""
    if request.param == "by patches":
        monkeypatch.setattr(normal_equations, "pixel_pairs", lambda *_: [])
    return request.param


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conv_of(kind: str, *, bias: bool = True, rows: int = 5, channels: int = 3) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, rows, bias=bias, **CONVS[kind]).requires_grad_(False)


def blocks_of(conv: nn.Conv2d, side: int, images: int = 10):
    """Return three blocks of inputs and wanted outputs, of different sizes."""
    draws = generator()
    inputs = torch.randn(images, conv.in_channels, side, side, generator=draws) + 0.7
    wanted = conv(inputs)
    wanted = wanted + torch.randn(wanted.shape, generator=draws) * 0.5 + 0.2
    return list(zip(inputs.split(4), wanted.split(4), strict=True))


def patches_of(conv: nn.Conv2d, blocks) -> tuple[torch.Tensor, torch.Tensor]:
    """Return X and r of all positions in fp64, the columns in the order of ``as_matrix``."""
    inputs, wanted = (torch.cat(parts).double() for parts in zip(*blocks, strict=True))
    unfolded = F.unfold(inputs, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    columns = unfolded.unflatten(1, (-1, taps)).transpose(1, 2).flatten(1, 2)
    patches = columns.transpose(1, 2).flatten(0, 1)
    bias = None if conv.bias is None else conv.bias.double()
    outputs = F.linear(patches, as_matrix(conv.weight).double(), bias)
    return patches, wanted.flatten(2).transpose(1, 2).flatten(0, 1) - outputs


def assert_sums(equations, inputs: torch.Tensor, lacking: torch.Tensor, *, bias: bool) -> None:
    means = (inputs.mean(0), lacking.mean(0)) if bias else (0 * inputs[0], 0 * lacking[0])
    square = float(inputs.square().sum(0).mean())
    centred, missing = inputs - means[0], lacking - means[1]
    for found, wanted in (
        (equations.inputs.gram, centred.T @ centred),
        (equations.cross, missing.T @ centred),
        (equations.inputs.mean, means[0]),
        (equations.lacking_mean, means[1]),
    ):
        assert found.dtype == torch.float64 and found.shape == wanted.shape
        assert torch.allclose(found, wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))
    assert float(equations.inputs.squares.mean()) == pytest.approx(square, rel=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.usefixtures("way")
def test_a_convs_sums_are_those_of_all_its_patches(kind: str, side: int, bias: bool) -> None:
    conv = conv_of(kind, bias=bias)
    blocks = blocks_of(conv, side)
    equations = conv_equations(conv, blocks, generator())
    assert_sums(equations, *patches_of(conv, blocks), bias=bias)


@pytest.mark.usefixtures("way")
def test_what_is_lacking_may_be_little() -> None:
    conv = conv_of("vgg", channels=6)
    inputs = blocks_of(conv, 6, images=40)[0][0]
    little = 1e-3 * torch.randn(4, 5, 6, 6, generator=generator(3))
    blocks = [(inputs, conv(inputs) + little)]
    patches, lacking = patches_of(conv, blocks)
    wanted = (lacking - lacking.mean(0)).T @ (patches - patches.mean(0))
    found = conv_equations(conv, blocks, generator()).cross
    assert (found - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize("strip", [1, 5, 27])
def test_gram_matrices_of_several_strips_are_the_same(
    strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normal_equations, "pixel_pairs", lambda *_: [])
    monkeypatch.setattr(normal_equations, "_STRIP", strip)
    conv = conv_of("vgg")
    blocks = blocks_of(conv, 4)
    equations = conv_equations(conv, blocks, generator())
    assert_sums(equations, *patches_of(conv, blocks), bias=True)


def test_positions_are_drawn_anew_for_each_image_and_without_repetition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(normal_equations, "POSITIONS", 16)
    conv = conv_of("1x1", channels=1)
    places = torch.arange(100.0).view(1, 1, 10, 10).expand(300, 1, 10, 10)
    seen = []
    monkeypatch.setattr(normal_equations, "_add_gram", lambda _, patches: seen.append(patches))
    conv_equations(conv, [(places, conv(places))], generator())
    drawn = seen[0].view(300, 16).sort(1).values
    assert bool((drawn.diff(dim=1) > 0).all())
    assert len({tuple(row) for row in drawn.tolist()}) == 300
    assert len(drawn.unique()) == 100


def test_sampled_sums_come_close_to_those_of_all_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(normal_equations, "POSITIONS", 16)
    conv = conv_of("vgg")
    blocks = blocks_of(conv, 8, images=400)
    inputs, _ = patches_of(conv, blocks)
    equations = conv_equations(conv, blocks, generator())
    centred = inputs - inputs.mean(0)
    wanted = centred.T @ centred / 4  # 16 of 64 positions
    assert (equations.inputs.gram - wanted).norm() < 0.1 * wanted.norm()
    again = conv_equations(conv, blocks, generator())
    assert torch.equal(again.inputs.gram, equations.inputs.gram) and torch.equal(
        again.cross, equations.cross
    )
    other = conv_equations(conv, blocks, generator(1))
    assert not torch.equal(other.inputs.gram, equations.inputs.gram)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linears_sums(bias: bool) -> None:
    inputs = torch.randn(50, 7, generator=generator()) + 1
    lacking = torch.randn(50, 4, generator=generator(1)) - 2
    equations = linear_equations(inputs, lacking, bias=bias)
    assert_sums(equations, inputs.double(), lacking.double(), bias=bias)


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (1, 1, 3, 3), (2, 3, 1, 1), (4, 6)])
def test_a_matrix_becomes_the_weight_that_it_was(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=generator())
    assert torch.equal(as_weight(as_matrix(weight), weight.shape), weight)
    assert as_matrix(weight).shape == (shape[0], weight[0].numel())


def ridge_solution(
    inputs: torch.Tensor, lacking: torch.Tensor, weight: torch.Tensor, *, bias: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve each output by lstsq in fp64, of the columns of its weights that are not 0."""
    ridge = RIDGE * float(inputs.square().sum(0).mean())
    means = (inputs.mean(0), lacking.mean(0)) if bias else (0 * inputs[0], 0 * lacking[0])
    delta = torch.zeros(weight.shape, dtype=torch.float64)
    for row, weights in enumerate(weight):
        read = weights.nonzero()[:, 0]
        if len(read):
            penalty = ridge**0.5 * torch.eye(len(read), dtype=torch.float64)
            stacked = torch.cat([(inputs - means[0])[:, read], penalty])
            right = torch.cat([lacking[:, row] - means[1][row], penalty[0] * 0])
            delta[row, read] = torch.linalg.lstsq(stacked, right[:, None]).solution[:, 0]
    return delta, means[1] - delta @ means[0]


def with_zeros(weight: torch.Tensor, zeros: str) -> None:
    draws = torch.rand(weight.shape, generator=generator(2))
    if zeros != "none":
        weight[draws < {"half": 0.5, "most": 0.95, "all": 2.0}[zeros]] = 0
        if zeros == "half":
            weight[0] = 0
            weight[1] = 1


def assert_correction(found, delta: torch.Tensor, bias: torch.Tensor, weight, tolerance) -> None:
    matrix = as_matrix(found.weight).double()
    assert not found.weight[weight == 0].any()
    assert (matrix - delta).abs().max() <= tolerance * max(float(delta.abs().max()), 1e-9)
    if found.bias is not None:
        assert (found.bias.double() - bias).abs().max() <= tolerance * float(bias.abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("zeros", ["none", "half", "most", "all"])
@pytest.mark.parametrize("kind", ["vgg", "oblong"])
def test_a_convs_correction_is_the_ridge_solution(kind: str, zeros: str, bias: bool) -> None:
    conv = conv_of(kind, bias=bias)
    with_zeros(conv.weight, zeros)
    blocks = blocks_of(conv, 4)
    wanted = ridge_solution(*patches_of(conv, blocks), as_matrix(conv.weight), bias=bias)
    assert_correction(correction(conv, blocks, generator()), *wanted, conv.weight, 1e-3)


@pytest.mark.parametrize("reads", [1, 49])
@pytest.mark.parametrize("images", [9, 120])
@pytest.mark.parametrize("zeros", ["none", "half", "most", "all"])
@pytest.mark.parametrize("widest", [10_000, 0])
def test_a_linears_correction_is_the_ridge_solution(
    zeros: str, images: int, reads: int, widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "WIDEST_GRAM", widest)
    monkeypatch.setattr(conjugate_gradients, "CG_TOLERANCE", 1e-5)
    torch.manual_seed(0)
    channels = 4 if reads > 1 else 20
    linear = nn.Linear(channels * reads, 6).requires_grad_(False)
    with_zeros(linear.weight, zeros)
    inputs = torch.randn(images, channels, generator=generator()).add_(0.5)
    inputs = inputs.repeat_interleave(reads, 1)
    wanted = linear(inputs) + torch.randn(images, 6, generator=generator(1))
    lacking = (wanted - linear(inputs)).double()
    blocks = list(zip(inputs.split(50), wanted.split(50), strict=True))
    solution = ridge_solution(inputs.double(), lacking, linear.weight, bias=True)
    found = correction(linear, blocks, generator(), reads)
    assert_correction(found, *solution, linear.weight, 2e-3)


def test_neighbours_that_differ_are_not_one_column() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(20, 3).requires_grad_(False)
    inputs = torch.randn(60, 20, generator=generator())
    blocks = [(inputs, torch.randn(60, 3, generator=generator(1)))]
    one, other = correction(linear, blocks, generator(), 4), correction(linear, blocks, generator())
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e3, 1e-20])
@pytest.mark.parametrize("kind", ["all positions", "drawn", "linear", "few samples"])
def test_inputs_that_never_change_move_the_bias_alone(kind: str, value: float) -> None:
    torch.manual_seed(0)
    if kind in ("linear", "few samples"):
        layer: nn.Module = nn.Linear(12, 3)
        inputs = torch.full((5 if kind == "few samples" else 40, 12), value)
    else:
        layer = nn.Conv2d(2, 3, 1)
        side = 3 if kind == "all positions" else 9
        inputs = torch.full((10, 2, side, side), value)
    layer.requires_grad_(False)
    shift = torch.tensor([1.0, -2.0, 0.5]).view(-1, *[1] * (inputs.ndim - 2))
    former = layer(inputs)
    found = correction(layer, [(inputs, former + shift)], generator())
    # What a conv lacks is a difference of two large sums of fp32 products.
    assert float(found.weight.abs().max()) <= 5e-4 * float(layer.weight.abs().max())
    found.add_to(layer)
    assert torch.allclose(layer(inputs), former + shift, atol=1e-3 + 1e-5 * abs(value))
