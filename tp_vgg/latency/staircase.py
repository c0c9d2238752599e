"""The time of a conv over its widths: where it falls in steps, and what a plan can count on."""

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
from tp_vgg.latency.table import MIN_MS, BenchmarkCase
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.memory import release_memory
from tp_vgg.network.layers import LayerRow
from tp_vgg.network.spec import Spec
from tp_vgg.stats import quartiles

PROFILE_TRIALS = 5
REPEATS = 20
"""Calls in a CUDA graph at most: so many convs take longer than the launch of the graph that they are in."""
REPLAY_SECONDS = 0.01
"""A graph has fewer calls where they would take longer than this, which is a sample of a conv."""


@dataclass(frozen=True)
class Grid:
    """The widths at which each conv is timed: multiples of ``step`` up to its full width, at most ``points`` of them."""

    step: int = 8
    points: int = 8

    def widths(self, full: int) -> tuple[int, ...]:
        """Rising, evenly spread as far as the step allows; the full width is always one."""
        every = max(-(-full // (self.step * self.points)), 1) * self.step
        return tuple(sorted({*range(every, full, every), full}))

    def of(self, spec: Spec) -> dict[str, tuple[tuple[int, int], ...]]:
        """(in, out) of every point, by conv: all pairs of widths, and at the full input one channel more than each, which is where a
        staircase shows. The first conv's input is the image's three channels, always."""
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
    """Time one conv at each (in, out); the points take turns. ``cuda``: where they are captured in graphs, so that launches do not count."""
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
    """Seconds of one call of each, a value a block.

    A large GPU is done with a conv before the next is launched. On ``cuda`` each call is captured in a graph, up to :data:`REPEATS`
    times, and the replay is timed. The graphs share their memory, which is given back before this returns.
    """
    if cuda is None:
        return interleave(calls, clock, trials, warm_up=warm_up).seconds
    slowest = max(clock.sample(call) for call in calls.values())
    repeats = max(1, min(REPEATS, int(REPLAY_SECONDS / max(slowest, MIN_MS))))
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
    images = torch.randn(case.batch_size, width, side, side).to(
        device=device, dtype=DTYPE[case.dtype]
    )
    return images.contiguous(memory_format=layout(case))


def conv_call(
    convs: list[tuple[int, int, int, bool]], images: torch.Tensor, case: BenchmarkCase
) -> Call:
    """Convs (in, out, side, whether a pool follows) one behind the other, each with its ReLU, on ``images``."""
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
