"""Kernels compute conv and linear layers, for several weights or channel counts on one input.

They are for evaluation only and have no gradients. Activations are channels-last:
``[n, side, side, channels]``, or ``[n, features]`` behind the head's pool. Most kernels are matrix
products: they spread the input over ``taps`` matrices once, multiply these by each weight, and
gather each product into output pixels.

The rule that chooses a layer's kernel was measured (``experiments/sweep_speed.py`` prints the times
again). It is fixed, so that the same images give the same bits in every run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from tp_vgg.sensitivity.fused_layer import FusedLayer, pool_bias_relu

CACHE_BYTES = 24 << 20
"""Upper limit, on a CPU, on the bytes of a micro-batch's transformed input and product.

They are then still in the cache when they are read again. A micro-batch has one image at least.
"""
Outputs = Sequence[torch.Tensor]
"""Tensors that a kernel fills, one per weight or count, each ``[n, *layer.output_shape]``."""


class Kernel(ABC):
    """A kernel is a way to compute a :class:`FusedLayer`; it has no state.

    A weight goes through :meth:`prepare` once, before the kernel runs with it.
    """

    @abstractmethod
    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight ``[out, in, ...]`` in the layout that this kernel multiplies by."""

    @abstractmethod
    def run_weights(
        self,
        layers: Sequence[FusedLayer],
        x: torch.Tensor,
        prepared: Sequence[torch.Tensor],
        outputs: Outputs,
    ) -> None:
        """Fill ``outputs[i]`` with the output of ``layers[i]`` for the input ``x``.

        ``prepared[i]``: its weight. The layers differ in weight and bias only.
        """

    @abstractmethod
    def run_prefixes(
        self,
        layer: FusedLayer,
        x: torch.Tensor,
        prepared: torch.Tensor,
        counts: Sequence[int],
        outputs: Outputs,
    ) -> None:
        """Fill ``outputs[i]`` with the layer's output from its first ``counts[i]`` input channels.

        ``counts`` must ascend. ``prepared``: the weight for all input channels.
        """


class Direct(Kernel):
    """The direct kernel is torch's ``conv2d`` in channels_last memory format."""

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight ``[out, in, 3, 3]`` in channels_last memory format."""
        return weight.contiguous(memory_format=torch.channels_last)

    def run_weights(
        self,
        layers: Sequence[FusedLayer],
        x: torch.Tensor,
        prepared: Sequence[torch.Tensor],
        outputs: Outputs,
    ) -> None:
        """Convolve ``x`` with each weight; see :meth:`Kernel.run_weights`."""
        for part, *pieces in _micro_batches(x, self._bytes(layers[0], x), *outputs):
            for layer, weight, piece in zip(layers, prepared, pieces, strict=True):
                _convolve(layer, part, weight, piece)

    def run_prefixes(
        self,
        layer: FusedLayer,
        x: torch.Tensor,
        prepared: torch.Tensor,
        counts: Sequence[int],
        outputs: Outputs,
    ) -> None:
        """Convolve each count's channels on their own; see :meth:`Kernel.run_prefixes`."""
        widths = [aligned(count, x.shape[-1], x.dtype) for count in counts]
        weights = [
            self.prepare(_first_channels(prepared, *both))
            for both in zip(counts, widths, strict=True)
        ]
        for part, *pieces in _micro_batches(x, self._bytes(layer, x), *outputs):
            for width, weight, piece in zip(widths, weights, pieces, strict=True):
                _convolve(layer, part[..., :width].contiguous(), weight, piece)

    @staticmethod
    def _bytes(layer: FusedLayer, x: torch.Tensor) -> int:
        return 2 * layer.side**2 * (x.shape[-1] + len(layer.weight)) * x.element_size()


class Multiplied(Kernel):
    """A multiplied kernel computes a layer as matrix products, ``taps`` of them.

    Each multiplies ``[m, channels · per_channel]`` by ``[channels · per_channel, columns]``; m
    counts images times positions. ``columns`` is the number of output channels, times 4 in
    :class:`Flat`.
    """

    taps: int
    """Number of matrix products."""
    per_channel = 1
    """Rows of each matrix of a prepared weight per input channel."""

    @abstractmethod
    def spread(self, layer: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        """Return the input ``x`` as ``[taps, m, channels · per_channel]``."""

    @abstractmethod
    def gather(self, layer: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        """Turn the product ``[taps, m, columns]`` of ``n`` images into the output ``out``."""

    def run_weights(
        self,
        layers: Sequence[FusedLayer],
        x: torch.Tensor,
        prepared: Sequence[torch.Tensor],
        outputs: Outputs,
    ) -> None:
        """Spread ``x`` once and multiply it by each weight; see :meth:`Kernel.run_weights`."""
        for part, *pieces in _micro_batches(x, self._bytes(layers[0], x), *outputs):
            spread = self.spread(layers[0], part)
            for layer, weight, piece in zip(layers, prepared, pieces, strict=True):
                self.gather(layer, len(part), torch.bmm(spread, weight), piece)

    def run_prefixes(
        self,
        layer: FusedLayer,
        x: torch.Tensor,
        prepared: torch.Tensor,
        counts: Sequence[int],
        outputs: Outputs,
    ) -> None:
        """Compute all counts on one spread input; see :meth:`Kernel.run_prefixes`.

        In fp32, the sums of each count continue those of the count before.
        """
        ends = [count * self.per_channel for count in counts]
        # In bf16, a sum that continues another one would be rounded at every count.
        exact = x.dtype == torch.float32
        for part, *pieces in _micro_batches(x, self._bytes(layer, x), *outputs):
            spread = self.spread(layer, part)
            product = torch.bmm(spread[..., : ends[0]], prepared[:, : ends[0]])
            self.gather(layer, len(part), product, pieces[0])
            for start, end, piece in zip(ends, ends[1:], pieces[1:], strict=False):
                if exact:
                    product.baddbmm_(spread[..., start:end], prepared[:, start:end])
                else:
                    product = torch.bmm(spread[..., :end], prepared[:, :end])
                self.gather(layer, len(part), product, piece)

    def _bytes(self, layer: FusedLayer, x: torch.Tensor) -> int:
        pixels = (layer.side // 2) ** 2 if layer.side > 1 else 1
        return (
            self.taps
            * pixels
            * (x.shape[-1] * self.per_channel + len(layer.weight))
            * x.element_size()
        )


class Winograd(Multiplied):
    """The Winograd kernel F(2×2, 3×3) makes 16 products for 4 output pixels; a direct conv 36.

    Its constants are 0, ±1 and ±½, so its rounding error is that of a direct conv (tested). The
    side must be even. Source: Lavin & Gray 2016, section 4.1.
    """

    taps = 16

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the transformed weight, ``[16, in, out]``."""
        half = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
        return _mixed(torch.kron(half, half), weight)

    def spread(self, layer: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        """Return the transformed 4×4 tiles of ``x``, ``[16, n · (side / 2)², channels]``."""
        n, side, _, channels = x.shape
        half = side // 2
        padded = x.new_zeros(n, half + 1, 2, half + 1, 2, channels)
        padded.view(n, side + 2, side + 2, channels)[:, 1:-1, 1:-1] = x
        spread = x.new_empty(4, 4, n, half, half, channels)
        lines = padded[:, :half, 0], padded[:, :half, 1], padded[:, 1:, 0], padded[:, 1:, 1]
        for i, (mix, first, second) in enumerate(_INPUT):
            line = mix(lines[first], lines[second])
            pixels = (
                line[:, :, :half, 0],
                line[:, :, :half, 1],
                line[:, :, 1:, 0],
                line[:, :, 1:, 1],
            )
            for j, (blend, a, b) in enumerate(_INPUT):
                blend(pixels[a], pixels[b], out=spread[i, j])
        return spread.view(16, n * half * half, channels)

    def gather(self, layer: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        """Transform the product ``[16, m, out]`` back into pixels of ``out``."""
        half = layer.side // 2
        m = product.view(4, 4, n, half, half, -1)
        rows = (m[0] + m[1]).add_(m[2]), (m[1] - m[2]).sub_(m[3])
        pool_bias_relu(
            layer,
            [q for z in rows for q in ((z[0] + z[1]).add_(z[2]), (z[1] - z[2]).sub_(z[3]))],
            out,
        )


class Toeplitz(Multiplied):
    """The Toeplitz kernel computes a 3×3 conv on a 2×2 map with 9 products.

    The equal ``Linear`` of 4·in × 4·out makes 16 products, a direct conv 36. In one dimension it is
    y = [[b, c], [a, b]] x = (b·(x₀+x₁) + (c−b)·x₁, b·(x₀+x₁) + (a−b)·x₀), Karatsuba's trick.
    """

    taps = 9

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the mixed weight, ``[9, in, out]``."""
        mix = weight.new_tensor([[0, 1, 0], [0, -1, 1], [1, -1, 0]])
        return _mixed(torch.kron(mix, mix), weight)

    def spread(self, layer: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        """Return the mixed pixels of ``x``, ``[9, n, channels]``."""
        spread = x.new_empty(3, 3, len(x), x.shape[-1])
        for i, line in enumerate((x[:, 0] + x[:, 1], x[:, 1], x[:, 0])):
            torch.add(line[:, 0], line[:, 1], out=spread[i, 0])
            spread[i, 1], spread[i, 2] = line[:, 1], line[:, 0]
        return spread.view(9, len(x), -1)

    def gather(self, layer: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        """Add the product ``[9, n, out]`` up into the four pixels of ``out``."""
        m = product.view(3, 3, n, 1, 1, -1)
        rows = m[0] + m[1], m[0] + m[2]
        pool_bias_relu(layer, [q for z in rows for q in (z[0] + z[1], z[0] + z[2])], out)


class Flat(Multiplied):
    """The flat kernel computes a 3×3 conv on a 2×2 map as the equal ``Linear`` of 4·in × 4·out.

    It takes no differences of weights, so it is fit for bf16.
    """

    taps = 1
    per_channel = 4

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight of the equal linear layer, ``[1, 4 · in, 4 · out]``."""
        out, channels = weight.shape[:2]
        dense = weight.new_empty(channels, 2, 2, 2, 2, out)
        for row, column, i, j in torch.cartesian_prod(*[torch.arange(2)] * 4).tolist():
            dense[:, row, column, i, j] = weight[:, :, 1 + row - i, 1 + column - j].T
        return dense.view(1, channels * 4, 4 * out)

    def spread(self, layer: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` flattened channel by channel, ``[1, n, 4 · channels]``."""
        return x.permute(0, 3, 1, 2).reshape(1, len(x), -1)

    def gather(self, layer: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        """Write the product ``[1, n, 4 · out]`` into the four pixels of ``out``."""
        pool_bias_relu(layer, list(product.view(n, 1, 1, 4, -1).unbind(3)), out)


@dataclass(frozen=True)
class Linear(Multiplied):
    """The linear kernel computes a linear layer.

    The first linear layer also pools and flattens the map before it, channel by channel as
    torchvision does.
    """

    head_pool: int
    """Side of the pooled map; 0 if the layer reads features."""
    taps = 1

    @property
    def per_channel(self) -> int:  # type: ignore[override]
        """Return the number of features per input channel."""
        return max(self.head_pool, 1) ** 2

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the transposed weight, ``[1, in · pool², out]``."""
        return weight.T.contiguous()[None]

    def spread(self, layer: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` pooled and flattened if it is a map, ``[1, n, features]``."""
        if x.ndim == 4:
            x = x.permute(0, 3, 1, 2)
            if x.shape[-1] != self.head_pool:
                x = F.adaptive_avg_pool2d(x, self.head_pool)
            x = x.flatten(1)
        return x[None]

    def gather(self, layer: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        """Add the bias to the product ``[1, n, out]`` and apply ReLU if the layer has one."""
        torch.add(product[0], layer.bias, out=out)
        if layer.relu:
            out.relu_()


WINOGRAD_FROM = 1 << 14
"""Smallest in · out (channels) at which Winograd's transforms pay for themselves (measured)."""


def choose(layer: FusedLayer) -> Kernel:
    """Return the kernel for a layer, by its shape, dtype and device.

    Convs in fp32 on the CPU: Toeplitz on maps with a side of 2, Winograd for wide convs on sides of
    4 and 8. For all other convs the vendor's library is fastest: ``conv2d``, or the equal linear
    layer on a side of 2.
    """
    if layer.weight.ndim == 2:
        return Linear(layer.head_pool)
    by_hand = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    if layer.side == 2:
        return Toeplitz() if by_hand else Flat()
    wide = layer.weight.shape[0] * layer.weight.shape[1] >= WINOGRAD_FROM
    return Winograd() if by_hand and layer.side in (4, 8) and wide else Direct()


_INPUT = ((torch.sub, 0, 2), (torch.add, 1, 2), (torch.sub, 2, 1), (torch.sub, 1, 3))


def _mixed(mix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return ``mix`` [taps, 9] times the filters [out, in, 3, 3], as [taps, in, out]."""
    out, channels = weight.shape[:2]
    return (mix @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, channels, out)


def _convolve(layer: FusedLayer, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, layer.bias, padding=1)
    if layer.pooled:
        y = F.max_pool2d(y, 2)
    torch.clamp_min(y.permute(0, 2, 3, 1), 0, out=out)


def aligned(count: int, channels: int, dtype: torch.dtype) -> int:
    """Return how many of ``channels`` input channels to convolve if the first ``count`` are needed.

    In bf16 it is a multiple of 8, if there are so many. Otherwise tensor cores are not used
    (measured: 90 channels take 2.5 times as long as 96).
    """
    return min(-(-count // 8) * 8, channels) if dtype == torch.bfloat16 else count


def _first_channels(weight: torch.Tensor, count: int, width: int) -> torch.Tensor:
    """Return a weight's first ``width`` input channels; those after ``count`` are zero."""
    part = weight[:, :width]
    if width > count:
        part = part.clone()
        part[:, count:] = 0
    return part


def _micro_batches(
    x: torch.Tensor, bytes_per_image: int, *outputs: torch.Tensor
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Split the input and the outputs into micro-batches that fit the CPU's cache.

    On an accelerator, they stay whole.
    """
    size = max(1, CACHE_BYTES // bytes_per_image) if x.device.type == "cpu" else len(x)
    return zip(x.split(size), *(out.split(size) for out in outputs), strict=True)
