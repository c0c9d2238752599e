"""A conv is timed at several widths, to find steps in its time and to predict a plan's latency."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tp_vgg.latency.clock import Clock
from tp_vgg.latency.cuda import CudaCalls
from tp_vgg.latency.interleave import interleave
from tp_vgg.latency.modes import DTYPE, layout
from tp_vgg.latency.profile import Timed
from tp_vgg.latency.table import MIN_VALUE, BenchmarkCase
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.memory import release_memory
from tp_vgg.network.layers import LayerRow
from tp_vgg.network.spec import Spec
from tp_vgg.stats import quartiles

PROFILE_TRIALS = 5
"""Blocks per layer of a profile, by default."""
REPEATS = 20
"""Most calls in one CUDA graph: so many convs take longer than the launch of their graph."""
REPLAY_SECONDS = 0.01
"""Seconds of one sample of a conv. A graph has fewer calls if :data:`REPEATS` of them would take
longer."""


@dataclass(frozen=True)
class Grid:
    """A grid says at which widths each conv is timed.

    These are multiples of ``step`` and the full width, at most ``points`` in all.
    """

    step: int = 8
    points: int = 8

    def widths(self, full: int) -> tuple[int, ...]:
        """Return the widths up to ``full``, rising, as evenly spread as the step allows.

        The full width is always one of them.
        """
        every = max(-(-full // (self.step * self.points)), 1) * self.step
        return tuple(sorted({*range(every, full, every), full}))

    def of(self, spec: Spec) -> dict[str, tuple[tuple[int, int], ...]]:
        """Return the pairs (input width, output width) at which each conv is timed, by its name.

        These are all pairs of widths and, at the full input width, one output channel more than
        each output width, because a step shows there. The first conv always has the three input
        channels of the images.
        """
        points: dict[str, tuple[tuple[int, int], ...]] = {}
        for row in spec.rows:
            if row.kind == "conv":
                ins = self.widths(row.in_width) if points else (row.in_width,)
                outs = self.widths(row.out_width)
                points[row.name] = (
                    *itertools.product(ins, outs),
                    *((row.in_width, width + 1) for width in outs[:-1] if width + 1 not in outs),
                )
        return points


GRID = Grid()


def profile_layer(
    row: LayerRow,
    points: Sequence[tuple[int, int]],
    case: BenchmarkCase,
    device: torch.device,
    clock: Clock,
    trials: int = PROFILE_TRIALS,
    cuda: CudaCalls | None = None,
) -> Iterator[Timed]:
    """Time one conv at each (input width, output width) of ``points``, all in the same blocks.

    With ``cuda`` the calls are captured in CUDA graphs, so that their launches are not timed.
    """
    images = {i: random_images(i, row.side, case, device) for i, _ in points}
    calls = {f"{i},{o}": conv_call([(i, o, row.side, False)], images[i], case) for i, o in points}
    times = without_launches(calls, clock, cuda, trials, warm_up=(1, 1))
    for (i, o), seconds in zip(points, times.values(), strict=True):
        low, middle, high = quartiles(seconds)
        yield Timed(row.name, i, o, 1e6 * middle, 1e6 * (high - low))


@torch.inference_mode()
def without_launches(
    calls: Mapping[str, Call],
    clock: Clock,
    cuda: CudaCalls | None,
    trials: int,
    warm_up: tuple[int, int],
) -> dict[str, tuple[float, ...]]:
    """Time ``calls`` in turns; return the seconds of one call by name, one value per block.

    A large GPU finishes a conv before the next one is launched, so launches would be timed. With
    ``cuda`` each call is therefore captured in a graph, up to :data:`REPEATS` times, and the replay
    is timed. The graphs share their memory, which is released before this returns.
    """
    if cuda is None:
        return interleave(calls, clock, trials, warm_up=warm_up).seconds
    slowest = max(clock.sample(call) for call in calls.values())
    repeats = max(1, min(REPEATS, int(REPLAY_SECONDS / max(slowest, MIN_VALUE))))
    pool = cuda.pool()
    replays: dict[str, Call] = {}
    try:
        for name, call in calls.items():
            replays[name] = cuda.capture(call, repeats, pool)
        seconds = interleave(replays, clock, trials, warm_up=warm_up).seconds
    finally:
        replays.clear()
        release_memory()
    return {name: tuple(value / repeats for value in values) for name, values in seconds.items()}


def random_images(width: int, side: int, case: BenchmarkCase, device: torch.device) -> torch.Tensor:
    """Draw a random input map [batch, width, side, side] in the dtype and layout of ``case``."""
    images = torch.randn(case.batch_size, width, side, side).to(
        device=device, dtype=DTYPE[case.dtype]
    )
    return images.contiguous(memory_format=layout(case))


def conv_call(
    convs: list[tuple[int, int, int, bool]], images: torch.Tensor, case: BenchmarkCase
) -> Call:
    """Build a chain of convs, each followed by its ReLU; return a call that runs it on ``images``.

    Each conv is (input width, output width, side of its map, True if a max-pool follows). The
    weights are random.
    """
    layers: list[nn.Module] = []
    for before, width, _, pool in convs:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
        if pool:
            layers.append(nn.MaxPool2d(2))
    chain: Any = (
        nn.Sequential(*layers).requires_grad_(False).to(device=images.device, dtype=images.dtype)
    )
    chain = chain.to(memory_format=layout(case))
    return lambda: chain(images)
