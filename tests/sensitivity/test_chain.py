from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.networks import SMALL, WIDE

from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.sensitivity.chain import Chain, fused_layers_of, with_channels_in_order
from tp_vgg.sensitivity.kernels import Toeplitz, Winograd


def images(n: int, side: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


@torch.inference_mode()
def test_a_chain_gives_the_networks_logits(spec, make_model) -> None:
    model, x = make_model(spec), images(5)
    assert close(
        Chain.of(fused_layers_of(model, 32)).logits(x.permute(0, 2, 3, 1).contiguous()), model(x)
    )


@torch.inference_mode()
@pytest.mark.parametrize(
    "spec",
    [replace(WIDE, batch_norm=False), WIDE, replace(WIDE, widths=(8,) * 16, hidden=())],
    ids=str,
)
def test_so_does_every_kernel(spec: VGGSpec, make_model) -> None:
    model, x = make_model(spec), images(3)
    chain = Chain.of(fused_layers_of(model, 32))
    assert Toeplitz in map(type, chain.kernels)
    assert spec.depth != 11 or Winograd in map(type, chain.kernels)
    assert close(chain.logits(x.permute(0, 2, 3, 1).contiguous()), model(x))


@torch.inference_mode()
@pytest.mark.parametrize(("side", "pool"), [(64, 7), (64, 1), (33, 7), (96, 7)])
def test_larger_images_keep_their_map_and_pool(side: int, pool: int, make_model) -> None:
    model, x = make_model(replace(SMALL, image_size=side, pool=pool)), images(2, side)
    layers = fused_layers_of(model, side)
    assert next(layer.head_pool for layer in layers if layer.head_pool) == (
        1 if side < 64 else pool
    )
    assert close(Chain.of(layers).logits(x.permute(0, 2, 3, 1).contiguous()), model(x))


@torch.inference_mode()
def test_the_order_of_channels_changes_nothing_but_their_order(spec, make_model) -> None:
    model, x = make_model(spec), images(4).permute(0, 2, 3, 1).contiguous()
    layers = fused_layers_of(model, 32)
    orders = {
        name: torch.randperm(width, generator=torch.Generator().manual_seed(1))
        for name, width in spec.prunable.items()
    }
    permuted = with_channels_in_order(layers, orders)
    before, after = Chain.of(layers), Chain.of(permuted)
    assert close(after.logits(x), before.logits(x))
    assert close(after.roll(x, 0), before.roll(x, 0)[..., orders["features.0"]])


def test_names_are_the_models_own(make_model) -> None:
    assert [layer.name for layer in fused_layers_of(make_model(SMALL), 32)] == [
        row.name for row in SMALL.rows
    ]
