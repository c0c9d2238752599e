"""This module finds the labels that no other label dominates (Pareto dominance).

This module does not import torch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np


def pareto(sums: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the indices of the rows that no other row of their group dominates; of equals, one.

    ``sums`` [n, components] is sorted by group, then by component 0, 1, and so on. ``groups``: the
    group [n] of each row.
    """
    keep = np.zeros(len(sums), bool)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(sums)], strict=True):
        block = sums[start:end, 1:]
        if block.shape[1] <= 1:
            column = block[:, 0] if block.shape[1] else np.zeros(len(block))
            before = np.minimum.accumulate(np.concatenate([[np.inf], column[:-1]]))
            keep[start:end] = column < before
        else:
            keep[start:end] = (front_of_two if block.shape[1] == 2 else front_of_more)(block)
    return np.flatnonzero(keep)


def front_of_two(block: np.ndarray) -> np.ndarray:
    """Return :func:`front_of_more` of two components, in n log n steps.

    The front of two components is a staircase, so only one of its steps can dominate a row.
    """
    keep = np.zeros(len(block), bool)
    firsts: list[float] = []
    seconds: list[float] = []
    for row, (first, second) in enumerate(block.tolist()):
        at = bisect_right(firsts, first)
        if at and seconds[at - 1] <= second:
            continue
        start = end = bisect_left(firsts, first)
        while end < len(seconds) and seconds[end] >= second:
            end += 1
        firsts[start:end], seconds[start:end] = [first], [second]
        keep[row] = True
    return keep


def front_of_more(block: np.ndarray, width: int = 128) -> np.ndarray:
    """Return a mask [n] of the rows of ``block`` [n, components] that no earlier row dominates.

    The rows are one group of :func:`pareto` without component 0, which never falls from row to
    row. So only earlier rows can dominate. ``width``: rows that are compared at once.
    """
    keep = np.zeros(len(block), bool)
    front = np.empty((0, block.shape[1]))
    for start in range(0, len(block), width):
        rows = block[start : start + width]
        alive = ~np.any(np.all(front[None] <= rows[:, None], axis=2), axis=1)
        beaten = np.all(rows[None] <= rows[:, None], axis=2) & np.tri(len(rows), k=-1, dtype=bool)
        alive &= ~np.any(beaten, axis=1)
        keep[start : start + len(rows)] = alive
        front = np.concatenate([front, rows[alive]])
    return keep
