"""Why pruning paid, or did not: stated rules over what was measured (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tp_vgg.latency.table import BenchmarkCase, LatencyRow, Mode, Ratio, Verdict
from tp_vgg.latency.traffic import Memory, bytes_moved
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.spec import Spec

FULL = 0.9
"""Efficiency from which nothing needs an explanation."""
BUSY = 0.5
"""A GPU that works for less of the wall time is kept waiting by launches."""
GRAPH_GAIN = 2.0
"""So is one that a CUDA graph makes this many times faster."""
GRAPH_OF: dict[Mode, Mode] = {"eager": "graph", "folded": "folded-graph"}
"""The mode that runs the same operators without their launches."""
MEMORY = 0.5
"""Memory-bound: moving what the cache does not hold (:func:`tp_vgg.latency.traffic.bytes_moved`) takes this share of the time."""
STEP_GAIN = 1.05
"""A step is worth naming where going down is this many times faster, and saves twice what its MACs are worth."""
TILE = 8
"""Channels of bf16 that fill the 16 bytes which tensor cores want to begin at (NVIDIA's performance guide for convolutions)."""
UNEXPLAINED = "no rule explains it"
ZEROS = 0.01
"""Share of zeros more than the dense model has, from which they are worth a word."""
CONTROL = 0.03
"""An A/A control further off says that the machine was not quiet."""


@dataclass(frozen=True)
class WidthStep:
    """What a network, or one layer of it, would take at slightly smaller widths at which kernels step."""

    change: str
    """Which layer at which width."""
    worth: float
    """How many times fewer MACs that is: the gain that would be proportional."""
    gain: Ratio
    """Time as it is ÷ time with the change."""
    of: str
    """Whose time that is."""

    @property
    def found(self) -> bool:
        return self.gain.low >= max(STEP_GAIN, 1 + 2 * (self.worth - 1))

    def __str__(self) -> str:
        return f"staircase: {self.change} would take {1 - 1 / self.gain.value:.0%} off {self.of} for {1 - 1 / self.worth:.0%} fewer MACs"


def verdict(ratio: Ratio, control: Ratio) -> Verdict:
    """``no gain`` where the interval includes 1, or comes within what the A/A control itself was off by."""
    off = 0.0 if control.includes_one else abs(control.value - 1)
    if ratio.low > 1 + off:
        return "faster"
    return "slower" if ratio.high < 1 - off else "no gain"


def needs_reason(row: LatencyRow) -> bool:
    """Whether a network of fewer MACs gained less than these promised."""
    if row.efficiency is None or row.mac_ratio is None or row.mac_ratio <= 1:
        return False
    return row.verdict != "faster" or row.efficiency < FULL


def explain(
    rows: Sequence[LatencyRow],
    models: Mapping[str, Mapping[str, Any]],
    memory: Memory,
    steps: Mapping[tuple[str, BenchmarkCase], Iterable[WidthStep]],
    *,
    cuda: bool = False,
) -> tuple[LatencyRow, ...]:
    """The rows with the reasons that the rules give. ``models``: the dense one first. ``steps``: what was probed, by model and case.
    ``cuda``: whether the device is a GPU, where bf16 runs on tensor cores and a conv's bias is added apart."""
    return tuple(
        replace(row, reasons=tuple(_reasons(row, rows, models, memory, steps, cuda)))
        for row in rows
    )


def _reasons(
    row: LatencyRow,
    rows: Sequence[LatencyRow],
    models: Mapping[str, Mapping[str, Any]],
    memory: Memory,
    steps: Mapping[tuple[str, BenchmarkCase], Iterable[WidthStep]],
    cuda: bool,
) -> Iterable[str]:
    if row.median_ms is None or row.speedup is None:
        yield from row.reasons
        return
    if row.verdict == "reference":
        if abs(row.speedup - 1) > CONTROL:
            yield f"not quiet: the A/A control of this case is {row.speedup:.3f}"
        if not row.warm:
            yield "not warm: times still fell after the longest warm-up"
        return
    found = []
    about = models[row.model]
    dense = next(iter(models.values()))
    if about["density"] < (1 - ZEROS) * dense["density"]:
        found.append(
            f"masks save nothing: dense kernels multiply its {1 - about['density']:.1%} zeros too"
        )
    if needs_reason(row):
        spec = spec_from_dict(about["spec"])
        found += _launch_bound(row, rows)
        found += [str(step) for step in steps.get((row.model, row.case), ()) if step.found]
        found += _odd_widths(spec) if cuda and row.dtype == "bf16" else ()
        found += _memory_bound(row, spec, memory, cuda)
        found = found or [UNEXPLAINED]
    yield from found


def _launch_bound(row: LatencyRow, rows: Sequence[LatencyRow]) -> Iterable[str]:
    if row.median_ms is None:
        return
    if row.busy is not None and row.busy < BUSY:
        yield f"launch-bound: the GPU works {row.busy:.0%} of the time"
        return
    where = (row.model, row.dtype, row.batch_size)
    times = {
        r.mode: r.median_ms
        for r in rows
        if (r.model, r.dtype, r.batch_size) == where and r.median_ms is not None
    }
    graph = times.get(GRAPH_OF[row.mode]) if row.mode in GRAPH_OF else None
    if graph is not None and row.median_ms >= GRAPH_GAIN * graph:
        yield f"launch-bound: a CUDA graph of it is {row.median_ms / graph:.1f}× as fast as {row.mode}"


def _odd_widths(spec: Spec) -> Iterable[str]:
    widths = [row.out_width for row in spec.rows if row.kind == "conv"]
    odd = sum(width % TILE > 0 for width in widths)
    if odd:
        yield (
            f"odd widths: {odd} of {len(widths)} convs have a number of channels that is no multiple of {TILE}, which is slow on"
            f" tensor cores; prune with --round-to {TILE} or {2 * TILE}"
        )


def _memory_bound(row: LatencyRow, spec: Spec, memory: Memory, cuda: bool) -> Iterable[str]:
    item = 2 if row.dtype == "bf16" else 4
    moved = bytes_moved(spec, row.mode, row.batch_size, item, memory.cache_bytes, cuda=cuda)
    share = moved / memory.bandwidth / ((row.median_ms or 0.0) / 1000)
    if share >= MEMORY:
        yield f"memory-bound: moving what the cache does not hold is {min(share, 1):.0%} of its time"
