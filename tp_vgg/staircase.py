"""The time of a conv over its widths: where it falls in steps, and what a plan can count on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tp_vgg.clocks import Clock, CudaCalls
from tp_vgg.cuda_graph import Call
from tp_vgg.device import release_memory
from tp_vgg.interleave import interleave
from tp_vgg.latencies import FEW_TRIALS, LEAST, Cell, Ratio, Timed
from tp_vgg.model import VGG, build
from tp_vgg.modes import DTYPE, layout
from tp_vgg.spec import LayerRow, VGGSpec
from tp_vgg.stats import quartiles
from tp_vgg.verdicts import Step

MULTIPLES = (8, 16, 32, 64)
"""Widths at which kernels step: vectors of a CPU, tiles of a tensor core."""
NEAR = 0.85
"""A lower width is just below from this share of the width on."""
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

    def of(self, spec: VGGSpec) -> dict[str, tuple[tuple[int, int], ...]]:
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
    cell: Cell,
    device: torch.device,
    clock: Clock,
    trials: int = PROFILE_TRIALS,
    cuda: CudaCalls | None = None,
) -> Iterator[Timed]:
    """Time one conv at each (in, out); the points take turns. ``cuda``: where they are captured in graphs, so that launches do not count."""
    images = {i: _images(i, row.side, cell, device) for i, _ in points}
    calls = {f"{i},{o}": _conv_call([(i, o, row.side, False)], images[i], cell) for i, o in points}
    times = _without_launches(calls, clock, cuda, trials, warm_up=(1, 1))
    for (i, o), seconds in zip(points, times.values(), strict=True):
        low, middle, high = quartiles(seconds)
        yield Timed(row.name, i, o, 1e6 * middle, 1e6 * (high - low))


def probe_layers(
    spec: VGGSpec,
    cell: Cell,
    device: torch.device,
    clock: Clock,
    trials: int = FEW_TRIALS,
    cuda: CudaCalls | None = None,
) -> Iterator[Step]:
    """Whether a conv of ``spec`` lies just above a step: its time, with the conv that reads it, at its width and at the multiples
    of 8, 16, 32 and 64 just below, in turns. Yields the best of each layer that has any such width. ``cuda``: as in :func:`profile_layer`."""
    convs = [row for row in spec.rows if row.kind == "conv"]
    for row, after in itertools.pairwise([*convs, None]):
        assert row is not None
        lower = lower_widths(row.out_width)
        if not lower:
            continue
        images = _images(row.in_width, row.side, cell, device)
        calls = {width: _conv_call(_pair(row, after, width), images, cell) for width in (row.out_width, *lower)}
        timed = _without_launches({str(w): call for w, call in calls.items()}, clock, cuda, trials, warm_up=(1, 3))
        found = [
            Step(
                f"{row.name} at {width} channels instead of {row.out_width}",
                row.out_width / width,
                Ratio.of(timed[str(row.out_width)], timed[str(width)]),
                "its time and that of the conv behind it" if after else "its time",
            )
            for width in lower
        ]
        yield max(found, key=lambda step: (step.found, step.gain.low / step.worth))


def probe_network(
    spec: VGGSpec, ready: Callable[[VGG], Call], clock: Clock, trials: int = FEW_TRIALS
) -> Iterator[Step]:
    """The same of a whole network, for modes that can't run a conv alone: beside one whose convs have the multiples of 16 below.
    ``ready``: a network to a call. Yields nothing for widths that are such multiples, or under 16."""
    lower = {name: width - width % 16 for name, width in zip(spec.conv_names, spec.widths, strict=True)}
    changed = {name: width for name, width in lower.items() if width != spec.prunable[name]}
    if not changed or not all(changed.values()):
        return
    target = spec.with_widths(changed)
    with torch.inference_mode():
        sides = {"as it is": ready(build(spec).eval()), "lower": ready(build(target).eval())}
        timed = interleave(sides, clock, trials).seconds
    names = ", ".join(f"{name} at {width} channels instead of {spec.prunable[name]}" for name, width in changed.items())
    yield Step(names, spec.macs() / target.macs(), Ratio.of(timed["as it is"], timed["lower"]), "the network's time")


def lower_widths(width: int) -> tuple[int, ...]:
    """The widths just below ``width`` at which kernels step, rising; none for a width at which they do."""
    below = {width - width % multiple for multiple in MULTIPLES if width % multiple}
    return tuple(sorted(w for w in below if w and w >= NEAR * width))


@torch.inference_mode()
def _without_launches(
    calls: Mapping[str, Call], clock: Clock, cuda: CudaCalls | None, trials: int, warm_up: tuple[int, int]
) -> dict[str, tuple[float, ...]]:
    """Seconds of one call of each, a value a block.

    A large GPU is done with a conv before the next is launched. On ``cuda`` each call is captured in a graph, up to :data:`REPEATS`
    times, and the replay is timed. The graphs share their memory, which is given back before this returns.
    """
    if cuda is None:
        return interleave(calls, clock, trials, warm_up=warm_up).seconds
    slowest = max(clock.sample(call) for call in calls.values())
    repeats = max(1, min(REPEATS, int(REPLAY_SECONDS / max(slowest, LEAST))))
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


def _pair(row: LayerRow, after: LayerRow | None, width: int) -> list[tuple[int, int, int, bool]]:
    first = (row.in_width, width, row.side, after is not None and after.side < row.side)
    return [first] if after is None else [first, (width, after.out_width, after.side, False)]


def _images(width: int, side: int, cell: Cell, device: torch.device) -> torch.Tensor:
    images = torch.randn(cell.batch_size, width, side, side).to(device=device, dtype=DTYPE[cell.dtype])
    return images.contiguous(memory_format=layout(cell))


def _conv_call(convs: list[tuple[int, int, int, bool]], images: torch.Tensor, cell: Cell) -> Call:
    """Convs (in, out, side, whether a pool follows) one behind the other, each with its ReLU, on ``images``."""
    layers: list[nn.Module] = []
    for before, width, _, pool in convs:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
        if pool:
            layers.append(nn.MaxPool2d(2))
    chain: Any = nn.Sequential(*layers).requires_grad_(False).to(device=images.device, dtype=images.dtype)
    chain = chain.to(memory_format=layout(cell))
    return lambda: chain(images)
