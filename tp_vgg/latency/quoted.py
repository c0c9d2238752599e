"""Which of a benchmark's rows stand for a network where there is room for one, and what it gains by them (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tp_vgg.latency.table import MIN_MS, Latency, LatencyRow, Ratio, Verdict, quoted_batch
from tp_vgg.latency.verdicts import verdict
from tp_vgg.stats import median_interval, quartiles


def fastest(
    rows: Iterable[LatencyRow], model: str, dtype: str, batch_size: int
) -> LatencyRow | None:
    """The row of ``model``'s own fastest mode; ``None`` where it was not timed."""
    timed = [
        row
        for row in rows
        if (row.model, row.dtype, row.batch_size) == (model, dtype, batch_size)
        and row.median_ms is not None
    ]
    return min(timed, key=lambda row: row.median_ms or 0.0, default=None)


def is_quoted(row: LatencyRow, rows: Sequence[LatencyRow], reference: str) -> bool:
    """Whether the row may be quoted for its model: at the batch size of the headline, in the mode in which, at its dtype, either the
    dense model (``reference``) or its own is fastest."""
    if row.batch_size != quoted_batch(rows, reference):
        return False
    best = (fastest(rows, name, row.dtype, row.batch_size) for name in (reference, row.model))
    return row.case in {one.case for one in best if one is not None}


@dataclass(frozen=True)
class Gain:
    """A network in its own fastest mode beside the dense one in its."""

    row: LatencyRow
    """The network's."""
    dense: LatencyRow | None
    """The dense one's where its fastest mode is another; ``None`` where it is the same, so that both were timed in the same blocks."""
    ratio: Ratio
    """The dense one's time ÷ the network's."""
    verdict: Verdict


def gain_of(latency: Latency, row: LatencyRow) -> Gain:
    """What the network of ``row`` (measured) gains at its batch size and dtype when it and the dense one each run in their fastest mode.

    Where that is one mode for both, this is the paired ratio of its case. Otherwise it is the ratio of two medians from different
    blocks; its interval goes from the lowest to the highest quotient of the ends of their 95 % intervals and so is a wide one, and the
    verdict heeds the control of the case that is further off.
    """
    dense = fastest(latency.rows, latency.reference, row.dtype, row.batch_size)
    best = fastest(latency.rows, row.model, row.dtype, row.batch_size)
    if dense is None or best is None or best.case == row.case == dense.case:
        return Gain(row, None, _paired(row), row.verdict)
    if best.case == dense.case or not (_has_blocks(best) and _has_blocks(dense)):
        return Gain(best, None, _paired(best), best.verdict)
    ratio = _unpaired(dense, best)
    cases = (dense.case, best.case)
    controls = [
        _paired(one)
        for one in latency.rows
        if one.model == latency.reference and one.case in cases and one.speedup is not None
    ]
    furthest = max(
        controls, key=lambda control: 0.0 if control.includes_one else abs(control.value - 1)
    )
    return Gain(best, dense, ratio, verdict(ratio, furthest))


def _has_blocks(row: LatencyRow) -> bool:
    """Whether the times of the blocks are there; a file need not have them."""
    return len(row.seconds) > 1 and min(row.seconds) >= MIN_MS


def _unpaired(dense: LatencyRow, best: LatencyRow) -> Ratio:
    low, high = median_interval(dense.seconds)
    fast, slow = median_interval(best.seconds)
    return Ratio(quartiles(dense.seconds)[1] / quartiles(best.seconds)[1], low / slow, high / fast)


def _paired(row: LatencyRow) -> Ratio:
    assert row.speedup is not None and row.speedup_low is not None and row.speedup_high is not None
    return Ratio(row.speedup, row.speedup_low, row.speedup_high)
