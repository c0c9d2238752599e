"""Every kernel against torch's own convolution and linear layer."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tp_vgg.sensitivity import kernels
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.kernels import Direct, Flat, Kernel, Linear, Toeplitz, Winograd, choose

CONVS = [
    (Direct(), 6),
    (Direct(), 5),
    (Winograd(), 2),
    (Winograd(), 8),
    (Toeplitz(), 2),
    (Flat(), 2),
]


def conv_layer(
    side: int, pooled: bool, dtype: torch.dtype, channels: int = 5, out: int = 7
) -> tuple[FusedLayer, torch.Tensor]:
    generator = torch.Generator().manual_seed(side)
    weight = torch.randn(out, channels, 3, 3, generator=generator, dtype=dtype)
    bias = torch.randn(out, generator=generator, dtype=dtype)
    x = torch.randn(3, side, side, channels, generator=generator, dtype=dtype)
    return FusedLayer("features.0", weight, bias, side, pooled, relu=True), x


def reference(layer: FusedLayer, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the conv with batch norm folded in, then ReLU, then the pool: torchvision's order."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, layer.bias, padding=1).relu()
    return (F.max_pool2d(y, 2) if layer.pooled else y).permute(0, 2, 3, 1)


def outputs(layer: FusedLayer, x: torch.Tensor, count: int) -> list[torch.Tensor]:
    return [x.new_empty(len(x), *layer.output_shape) for _ in range(count)]


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("kernel", "side"), CONVS, ids=lambda value: type(value).__name__)
def test_a_kernel_is_the_convolution(
    kernel: Kernel, side: int, pooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "CACHE_BYTES", 1)  # one image at a time
    layer, x = conv_layer(side, pooled, torch.float64)
    weights = [layer.weight, layer.weight * (layer.weight > 0)]
    results = outputs(layer, x, 2)
    kernel.run_weights(
        [layer] * len(weights), x, [kernel.prepare(weight) for weight in weights], results
    )
    for weight, output in zip(weights, results, strict=True):
        torch.testing.assert_close(output, reference(layer, x, weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kernel", "side"), CONVS, ids=lambda value: type(value).__name__)
def test_nested_outputs_use_the_first_channels(
    kernel: Kernel, side: int, dtype: torch.dtype
) -> None:
    layer, x = conv_layer(side, True, dtype)
    counts = (1, 3, 5)
    results = outputs(layer, x, len(counts))
    kernel.run_prefixes(layer, x, kernel.prepare(layer.weight), counts, results)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.5}[dtype]
    for count, output in zip(counts, results, strict=True):
        expected = reference(layer, x[..., :count], layer.weight[:, :count])
        torch.testing.assert_close(output, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("side", "pool"), [(1, 1), (2, 2), (1, 7), (3, 7)])
def test_the_first_linear_pools_and_flattens_as_torchvision_does(side: int, pool: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, side, side, 6, dtype=torch.float64)
    weight, bias = (
        torch.randn(5, 6 * pool**2, dtype=torch.float64),
        torch.randn(5, dtype=torch.float64),
    )
    layer = FusedLayer("classifier", weight, bias, 1, pooled=False, relu=False, head_pool=pool)
    kernel = choose(layer)
    assert kernel == Linear(pool)
    results = outputs(layer, x, 2)
    kernel.run_prefixes(layer, x, kernel.prepare(weight), (2, 6), results)
    for count, output in zip((2, 6), results, strict=True):
        flat = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2)[:, :count], pool).flatten(1)
        torch.testing.assert_close(output, F.linear(flat, weight[:, : count * pool**2], bias))


@pytest.mark.parametrize(
    ("kernel", "side"),
    [(Winograd(), 8), (Winograd(), 4), (Toeplitz(), 2)],
    ids=lambda value: type(value).__name__ if isinstance(value, Kernel) else str(value),
)
def test_rounding_errors_are_those_of_a_direct_convolution(kernel: Kernel, side: int) -> None:
    layer, x = conv_layer(side, False, torch.float32, channels=256, out=64)
    wide = FusedLayer(layer.name, layer.weight.double(), layer.bias.double(), side, False, True)
    exact = reference(wide, x.double(), wide.weight)
    results = outputs(layer, x, 1)
    kernel.run_weights([layer], x, [kernel.prepare(layer.weight)], results)
    direct = (reference(layer, x, layer.weight) - exact).abs().max()
    assert (results[0] - exact).abs().max() <= 4 * direct
    assert (results[0] - exact).abs().max() <= 2e-6 * exact.abs().max()


def test_the_choice_is_by_map_width_and_dtype() -> None:
    wide, _ = conv_layer(8, False, torch.float32, 128, 128)
    thin, _ = conv_layer(8, False, torch.float32, 100, 128)
    small, _ = conv_layer(2, False, torch.float32)
    assert [type(choose(layer)) for layer in (wide, thin, small)] == [Winograd, Direct, Toeplitz]
    halves = [layer.to(torch.bfloat16) for layer in (wide, thin, small)]
    assert [type(choose(layer)) for layer in halves] == [Direct, Direct, Flat]


def test_buffers_are_used_again_and_grow() -> None:
    buffers = Buffers()
    first = buffers.take("a", torch.empty(4, 2), (3, 5))
    assert first.shape == (4, 3, 5)
    assert buffers.take("a", torch.empty(2, 2), (3, 5)).data_ptr() == first.data_ptr()
    assert buffers.take("b", torch.empty(4, 2), (3, 5)).data_ptr() != first.data_ptr()
    assert buffers.take("a", torch.empty(9, 2), (3, 5)).shape == (9, 3, 5)
    assert (
        buffers.take("a", torch.empty(9, 2, dtype=torch.bfloat16), (3, 5)).dtype == torch.bfloat16
    )


def test_bf16_convolves_a_multiple_of_eight_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels beyond the count have zero weights, whatever they hold; fp32 convolves the count."""
    widths: list[int] = []
    convolve = kernels._convolve
    monkeypatch.setattr(
        kernels,
        "_convolve",
        lambda layer, x, weight, out: (widths.append(x.shape[-1]), convolve(layer, x, weight, out)),
    )
    for dtype, wanted in ((torch.bfloat16, [8, 8, 16, 20]), (torch.float32, [3, 8, 9, 18])):
        layer, x = conv_layer(6, True, dtype, channels=20)
        counts = (3, 8, 9, 18)
        results = outputs(layer, x, len(counts))
        Direct().run_prefixes(layer, x, Direct().prepare(layer.weight), counts, results)
        assert widths == wanted
        widths.clear()
        for count, output in zip(counts, results, strict=True):
            expected = reference(layer, x[..., :count], layer.weight[:, :count])
            torch.testing.assert_close(
                output, expected, rtol=0, atol=0.5 if dtype == torch.bfloat16 else 1e-4
            )
