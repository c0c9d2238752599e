"""Fixed rules explain, from the measured times, why pruning made a model faster or did not.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tp_vgg.latency.table import BenchmarkCase, LatencyRow, Mode, Ratio, Verdict
from tp_vgg.latency.traffic import Memory, bytes_moved
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.spec import Spec

FULL = 0.9
"""Efficiency at or above which a row needs no explanation."""
BUSY = 0.5
"""A case is launch-bound if the GPU works for less than this fraction of the wall time."""
GRAPH_GAIN = 2.0
"""A case is also launch-bound if a CUDA graph of it is at least this many times faster."""
GRAPH_OF: dict[Mode, Mode] = {"eager": "graph", "folded": "folded-graph"}
"""By mode, the mode that runs the same operators in one CUDA graph, without their launches."""
MEMORY = 0.5
"""A case is memory-bound if moving the data that the cache does not hold
(:func:`tp_vgg.latency.traffic.bytes_moved`) takes at least this fraction of the time."""
STEP_GAIN = 1.05
"""A width step is reported if the smaller width is at least this many times faster, and gains at
least twice what its fewer MACs alone would give."""
TILE = 8
"""Number of bf16 channels in 16 bytes, to which tensor cores want their data aligned. Source:
NVIDIA's performance guide for convolutions."""
UNEXPLAINED = "no rule explains it"
ZEROS = 0.01
"""Zeros are mentioned if the model's fraction of non-zero weights is lower than the dense model's
by more than this fraction of it."""
CONTROL = 0.03
"""If the A/A control differs from 1 by more than this, the row says the machine was not quiet."""


@dataclass(frozen=True)
class WidthStep:
    """A width step compares the time at the present widths with that at slightly smaller ones.

    The time of a kernel rises in steps with the width, so a few channels less can save much.
    """

    change: str
    """The layers and their smaller widths, in words."""
    mac_ratio: float
    """MACs of what is timed at the present widths divided by those at the smaller ones: the gain
    that would be proportional."""
    gain: Ratio
    """Time at the present widths divided by the time at the smaller ones."""
    timed: str
    """The time that is compared, in words, such as ``the network's time``."""

    @property
    def is_large(self) -> bool:
        """Return True if the gain is large enough to be reported (:data:`STEP_GAIN`)."""
        return self.gain.low >= max(STEP_GAIN, 1 + 2 * (self.mac_ratio - 1))

    def __str__(self) -> str:
        saved, fewer_macs = 1 - 1 / self.gain.value, 1 - 1 / self.mac_ratio
        return (
            f"staircase: {self.change} would take {saved:.0%} off {self.timed}"
            f" for {fewer_macs:.0%} fewer MACs"
        )


def verdict(ratio: Ratio, control: Ratio) -> Verdict:
    """Return the verdict on a speed-up ``ratio``, given the A/A ``control`` of its case.

    It is ``no gain`` if the interval of ``ratio`` includes 1. If the control's interval excludes 1,
    the interval of ``ratio`` must also be further from 1 than the control.
    """
    off = 0.0 if control.includes_one else abs(control.value - 1)
    if ratio.low > 1 + off:
        return "faster"
    return "slower" if ratio.high < 1 - off else "no gain"


def needs_reason(row: LatencyRow) -> bool:
    """Return True if the model gained less than its fewer MACs promise.

    It has fewer MACs than the dense model, but is not faster or has an efficiency below
    :data:`FULL`.
    """
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
    """Return the rows with the reasons that the rules give.

    ``models`` holds the facts of each model (:attr:`~tp_vgg.latency.table.Latency.models`), the
    dense one first; ``steps`` the probed width steps by model and case. ``cuda`` tells that the
    device is a GPU: there bf16 runs on tensor cores, and a conv's bias is a separate operator.
    """
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
    reasons = []
    facts = models[row.model]
    dense = next(iter(models.values()))
    if facts["density"] < (1 - ZEROS) * dense["density"]:
        reasons.append(
            f"masks save nothing: dense kernels multiply its {1 - facts['density']:.1%} zeros too"
        )
    if needs_reason(row):
        spec = spec_from_dict(facts["spec"])
        reasons += _launch_bound(row, rows)
        reasons += [str(step) for step in steps.get((row.model, row.case), ()) if step.is_large]
        reasons += _odd_widths(spec) if cuda and row.dtype == "bf16" else ()
        reasons += _memory_bound(row, spec, memory, cuda)
        reasons = reasons or [UNEXPLAINED]
    yield from reasons


def _launch_bound(row: LatencyRow, rows: Sequence[LatencyRow]) -> Iterable[str]:
    if row.median_ms is None:
        return
    if row.busy is not None and row.busy < BUSY:
        yield f"launch-bound: the GPU works {row.busy:.0%} of the time"
        return
    same = (row.model, row.dtype, row.batch_size)
    times = {
        r.mode: r.median_ms
        for r in rows
        if (r.model, r.dtype, r.batch_size) == same and r.median_ms is not None
    }
    graph = times.get(GRAPH_OF[row.mode]) if row.mode in GRAPH_OF else None
    if graph is not None and row.median_ms >= GRAPH_GAIN * graph:
        ratio = row.median_ms / graph
        yield f"launch-bound: a CUDA graph of it is {ratio:.1f}× as fast as {row.mode}"


def _odd_widths(spec: Spec) -> Iterable[str]:
    widths = [row.out_width for row in spec.rows if row.kind == "conv"]
    odd = sum(width % TILE > 0 for width in widths)
    if odd:
        yield (
            f"odd widths: {odd} of {len(widths)} convs have a number of channels that is no"
            f" multiple of {TILE}, which is slow on tensor cores; prune with --round-to {TILE} or"
            f" {2 * TILE}"
        )


def _memory_bound(row: LatencyRow, spec: Spec, memory: Memory, cuda: bool) -> Iterable[str]:
    item = 2 if row.dtype == "bf16" else 4
    moved = bytes_moved(spec, row.mode, row.batch_size, item, memory.cache_bytes, cuda=cuda)
    share = moved / memory.bandwidth / ((row.median_ms or 0.0) / 1000)
    if share >= MEMORY:
        percent = f"{min(share, 1):.0%}"
        yield f"memory-bound: moving what the cache does not hold is {percent} of its time"
