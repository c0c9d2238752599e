"""If only one row of a benchmark is shown for a network, this module says which, and its gain.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tp_vgg.latency.table import MIN_VALUE, Latency, LatencyRow, Ratio, Verdict, quoted_batch
from tp_vgg.latency.verdicts import verdict
from tp_vgg.stats import median_interval, quartiles


def fastest(
    rows: Iterable[LatencyRow], model: str, dtype: str, batch_size: int
) -> LatencyRow | None:
    """Return the row of the mode in which ``model`` is fastest at this dtype and batch size.

    ``None`` if the model was not timed there.
    """
    timed = [
        row
        for row in rows
        if (row.model, row.dtype, row.batch_size) == (model, dtype, batch_size)
        and row.median_ms is not None
    ]
    return min(timed, key=lambda row: row.median_ms or 0.0, default=None)


def is_quoted(row: LatencyRow, rows: Sequence[LatencyRow], reference: str) -> bool:
    """Return True if ``row`` may be quoted for its model.

    It must be at the quoted batch size (:func:`~tp_vgg.latency.table.quoted_batch`), and in the
    mode in which, at the row's dtype, either the dense model (``reference``) or the row's model is
    fastest.
    """
    if row.batch_size != quoted_batch(rows, reference):
        return False
    best = (fastest(rows, name, row.dtype, row.batch_size) for name in (reference, row.model))
    return row.case in {one.case for one in best if one is not None}


@dataclass(frozen=True)
class Gain:
    """A gain compares a network with the dense model, each in its own fastest mode."""

    row: LatencyRow
    """The row of the network."""
    dense: LatencyRow | None
    """The row of the dense model if its fastest mode is another one; ``None`` if it is the same
    mode, so that both were timed in the same blocks."""
    ratio: Ratio
    """The dense model's time divided by the network's."""
    verdict: Verdict


def gain_of(latency: Latency, row: LatencyRow) -> Gain:
    """Compare the network of ``row`` with the dense model, each in its own fastest mode.

    Both are taken at the batch size and dtype of ``row``, which must have been measured. If the
    fastest mode of both is the same, the gain is the paired ratio of that case. Otherwise it is the
    ratio of two medians from different blocks. Its interval is then wide: from the lowest to the
    highest quotient of the ends of the two 95 % intervals. The verdict uses the A/A control of
    that one of the two cases whose control is further from 1.
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
    """Return True if the row has the times of its blocks; a file may lack them."""
    return len(row.seconds) > 1 and min(row.seconds) >= MIN_VALUE


def _unpaired(dense: LatencyRow, best: LatencyRow) -> Ratio:
    """Return the ratio of the medians of two rows from different cases, with a wide interval."""
    low, high = median_interval(dense.seconds)
    fast, slow = median_interval(best.seconds)
    return Ratio(quartiles(dense.seconds)[1] / quartiles(best.seconds)[1], low / slow, high / fast)


def _paired(row: LatencyRow) -> Ratio:
    """Return the speed-up that the row recorded, from blocks with the dense model in them."""
    assert row.speedup is not None and row.speedup_low is not None and row.speedup_high is not None
    return Ratio(row.speedup, row.speedup_low, row.speedup_high)
