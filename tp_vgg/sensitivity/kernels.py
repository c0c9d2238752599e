"""Convolutions and linears for evaluation alone, several weights or channel counts on the same input.

Activations are channels-last: ``[n, side, side, channels]``, or ``[n, features]`` behind the head's pool. A kernel spreads its input
over ``taps`` matrices once, multiplies them by as many weight sets as asked, and gathers each product into output pixels; which
kernel is fastest where was measured (``experiments/sweep_speed.py`` prints it again), and is a fixed rule, so that the same images
give the same bits in every run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from tp_vgg.sensitivity.fused_layer import FusedLayer, pool_bias_relu

CACHE_BYTES = 24 << 20
"""A micro-batch's transformed input and product stay within this, so that they are still in the cache when read again."""
Outputs = Sequence[torch.Tensor]


class Kernel(ABC):
    """How one :class:`FusedLayer` is computed. Stateless; ``prepare`` turns its weights into what the kernel multiplies by."""

    @abstractmethod
    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        """The weights [out, in, ...] as this kernel wants them."""

    @abstractmethod
    def run_weights(
        self, step: FusedLayer, x: torch.Tensor, prepared: Sequence[torch.Tensor], outputs: Outputs
    ) -> None:
        """Fill ``outputs`` with the step's output for each of several weights on one input."""

    @abstractmethod
    def run_prefixes(
        self,
        step: FusedLayer,
        x: torch.Tensor,
        prepared: torch.Tensor,
        counts: Sequence[int],
        outputs: Outputs,
    ) -> None:
        """Fill ``outputs`` with the step's output from the first ``counts[i]`` input channels, for ascending counts."""


class Direct(Kernel):
    """``conv2d`` in channels_last."""

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.contiguous(memory_format=torch.channels_last)

    def run_weights(
        self, step: FusedLayer, x: torch.Tensor, prepared: Sequence[torch.Tensor], outputs: Outputs
    ) -> None:
        for part, *pieces in _micro(x, self._bytes(step, x), *outputs):
            for weight, piece in zip(prepared, pieces, strict=True):
                _convolve(step, part, weight, piece)

    def run_prefixes(
        self,
        step: FusedLayer,
        x: torch.Tensor,
        prepared: torch.Tensor,
        counts: Sequence[int],
        outputs: Outputs,
    ) -> None:
        widths = [_aligned(count, x) for count in counts]
        weights = [
            self.prepare(_first(prepared, *both)) for both in zip(counts, widths, strict=True)
        ]
        for part, *pieces in _micro(x, self._bytes(step, x), *outputs):
            for width, weight, piece in zip(widths, weights, pieces, strict=True):
                _convolve(step, part[..., :width].contiguous(), weight, piece)

    @staticmethod
    def _bytes(step: FusedLayer, x: torch.Tensor) -> int:
        return 2 * step.side**2 * (x.shape[-1] + len(step.weight)) * x.element_size()


class Multiplied(Kernel):
    """A kernel that is matrix products: ``taps`` of them, [m, channels] by [channels, out]."""

    taps: int
    per_channel = 1
    """Rows of a prepared weight for one input channel."""

    @abstractmethod
    def spread(self, step: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        """The input as [taps, m, channels · per_channel]."""

    @abstractmethod
    def gather(self, step: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        """Turn the product [taps, m, out] into the step's output."""

    def run_weights(
        self, step: FusedLayer, x: torch.Tensor, prepared: Sequence[torch.Tensor], outputs: Outputs
    ) -> None:
        for part, *pieces in _micro(x, self._bytes(step, x), *outputs):
            spread = self.spread(step, part)
            for weight, piece in zip(prepared, pieces, strict=True):
                self.gather(step, len(part), torch.bmm(spread, weight), piece)

    def run_prefixes(
        self,
        step: FusedLayer,
        x: torch.Tensor,
        prepared: torch.Tensor,
        counts: Sequence[int],
        outputs: Outputs,
    ) -> None:
        ends = [count * self.per_channel for count in counts]
        exact = (
            x.dtype == torch.float32
        )  # a sum that goes on from a bf16 one would round at every count
        for part, *pieces in _micro(x, self._bytes(step, x), *outputs):
            spread = self.spread(step, part)
            product = torch.bmm(spread[..., : ends[0]], prepared[:, : ends[0]])
            self.gather(step, len(part), product, pieces[0])
            for start, end, piece in zip(ends, ends[1:], pieces[1:], strict=False):
                if exact:
                    product.baddbmm_(spread[..., start:end], prepared[:, start:end])
                else:
                    product = torch.bmm(spread[..., :end], prepared[:, :end])
                self.gather(step, len(part), product, piece)

    def _bytes(self, step: FusedLayer, x: torch.Tensor) -> int:
        pixels = (step.side // 2) ** 2 if step.side > 1 else 1
        return (
            self.taps
            * pixels
            * (x.shape[-1] * self.per_channel + len(step.weight))
            * x.element_size()
        )


class Winograd(Multiplied):
    """F(2×2, 3×3): 16 products for four output pixels where a direct conv makes 36. Source: Lavin & Gray 2016, section 4.1.

    Its constants are 1, 0 and ½, so its rounding error is that of a direct conv (tested). Needs an even side.
    """

    taps = 16

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        half = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
        return _mixed(torch.kron(half, half), weight)

    def spread(self, step: FusedLayer, x: torch.Tensor) -> torch.Tensor:
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

    def gather(self, step: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        half = step.side // 2
        m = product.view(4, 4, n, half, half, -1)
        rows = (m[0] + m[1]).add_(m[2]), (m[1] - m[2]).sub_(m[3])
        pool_bias_relu(
            step,
            [q for z in rows for q in ((z[0] + z[1]).add_(z[2]), (z[1] - z[2]).sub_(z[3]))],
            out,
        )


class Toeplitz(Multiplied):
    """A 3×3 conv on a 2×2 map by 9 products where the equal ``Linear`` of 4·in × 4·out makes 16 and a direct conv 36.

    In one dimension it is y = [[b, c], [a, b]] x = (b·(x₀+x₁) + (c−b)·x₁, b·(x₀+x₁) + (a−b)·x₀), Karatsuba's trick.
    """

    taps = 9

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        mix = weight.new_tensor([[0, 1, 0], [0, -1, 1], [1, -1, 0]])
        return _mixed(torch.kron(mix, mix), weight)

    def spread(self, step: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        spread = x.new_empty(3, 3, len(x), x.shape[-1])
        for i, line in enumerate((x[:, 0] + x[:, 1], x[:, 1], x[:, 0])):
            torch.add(line[:, 0], line[:, 1], out=spread[i, 0])
            spread[i, 1], spread[i, 2] = line[:, 1], line[:, 0]
        return spread.view(9, len(x), -1)

    def gather(self, step: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        m = product.view(3, 3, n, 1, 1, -1)
        rows = m[0] + m[1], m[0] + m[2]
        pool_bias_relu(step, [q for z in rows for q in (z[0] + z[1], z[0] + z[2])], out)


class Flat(Multiplied):
    """A 3×3 conv on a 2×2 map as the equal ``Linear`` of 4·in × 4·out; no differences of weights, so fit for bf16."""

    taps = 1
    per_channel = 4

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        out, channels = weight.shape[:2]
        dense = weight.new_empty(channels, 2, 2, 2, 2, out)
        for row, column, i, j in torch.cartesian_prod(*[torch.arange(2)] * 4).tolist():
            dense[:, row, column, i, j] = weight[:, :, 1 + row - i, 1 + column - j].T
        return dense.view(1, channels * 4, 4 * out)

    def spread(self, step: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2).reshape(1, len(x), -1)

    def gather(self, step: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        pool_bias_relu(step, list(product.view(n, 1, 1, 4, -1).unbind(3)), out)


@dataclass(frozen=True)
class Linear(Multiplied):
    """A linear layer; the first one pools and flattens the map before it, channel by channel as torchvision does."""

    head_pool: int
    taps = 1

    @property
    def per_channel(self) -> int:  # type: ignore[override]  # a constant of the layer, not of the class
        return max(self.head_pool, 1) ** 2

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.T.contiguous()[None]

    def spread(self, step: FusedLayer, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 4:
            x = x.permute(0, 3, 1, 2)
            if x.shape[-1] != self.head_pool:
                x = F.adaptive_avg_pool2d(x, self.head_pool)
            x = x.flatten(1)
        return x[None]

    def gather(self, step: FusedLayer, n: int, product: torch.Tensor, out: torch.Tensor) -> None:
        torch.add(product[0], step.bias, out=out)
        if step.relu:
            out.relu_()


WINOGRAD_FROM = 1 << 14
"""Products of channels, in · out, from which Winograd's transforms pay for themselves (measured)."""


def choose(step: FusedLayer) -> Kernel:
    """The kernel for a step: in fp32 on the CPU Winograd for wide convs on maps of 4 and 8 pixels and Toeplitz on maps of 2; elsewhere
    what the vendor's library does best, with the 2×2 map as a Linear."""
    if step.weight.ndim == 2:
        return Linear(step.head_pool)
    by_hand = step.weight.device.type == "cpu" and step.weight.dtype == torch.float32
    if step.side == 2:
        return Toeplitz() if by_hand else Flat()
    wide = step.weight.shape[0] * step.weight.shape[1] >= WINOGRAD_FROM
    return Winograd() if by_hand and step.side in (4, 8) and wide else Direct()


_INPUT = ((torch.sub, 0, 2), (torch.add, 1, 2), (torch.sub, 2, 1), (torch.sub, 1, 3))


def _mixed(mix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[taps, 9] by the nine pixels of [out, in, 3, 3], as [taps, in, out]."""
    out, channels = weight.shape[:2]
    return (mix @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, channels, out)


def _convolve(step: FusedLayer, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, step.bias, padding=1)
    if step.pooled:
        y = F.max_pool2d(y, 2)
    torch.clamp_min(y.permute(0, 2, 3, 1), 0, out=out)


def _aligned(count: int, x: torch.Tensor) -> int:
    """Input channels of ``x`` to convolve where the first ``count`` are asked for: in bf16 a multiple of 8, as far as there are, without which
    tensor cores are not used (measured: 90 channels take 2.5 times as long as 96)."""
    return min(-(-count // 8) * 8, x.shape[-1]) if x.dtype == torch.bfloat16 else count


def _first(weight: torch.Tensor, count: int, width: int) -> torch.Tensor:
    """The first ``width`` input channels of a conv's weight, of which only the first ``count`` are not zero."""
    part = weight[:, :width]
    if width > count:
        part = part.clone()
        part[:, count:] = 0
    return part


def _micro(
    x: torch.Tensor, bytes_per_image: int, *outputs: torch.Tensor
) -> Iterator[tuple[torch.Tensor, ...]]:
    """The input and the outputs in equal slices of as many images as the cache holds; whole on an accelerator."""
    size = max(1, CACHE_BYTES // bytes_per_image) if x.device.type == "cpu" else len(x)
    return zip(x.split(size), *(out.split(size) for out in outputs), strict=True)
