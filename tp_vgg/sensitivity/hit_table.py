"""Which images each point of a sweep gets right, as far as it is known."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from tp_vgg.evaluation.hits import pack_hits, unpack_hits
from tp_vgg.files.journal import Journal
from tp_vgg.machine.distributed import Ranks
from tp_vgg.sensitivity.resolved import ResolvedSweep

_UNKNOWN = 2


class HitTable:
    """Which image each point gets right, as far as it is known: on the disk where there is a journal, the same on every rank."""

    def __init__(self, asked: ResolvedSweep, n: int, journal: Journal | None, ranks: Ranks) -> None:
        self.rows = asked.rows
        self.hits = np.full((len(self.rows), n), _UNKNOWN, np.uint8)
        self.redone = np.zeros(len(self.rows), np.int64)
        self._journal, self._ranks = journal, ranks

    @classmethod
    def of(cls, asked: ResolvedSweep, n: int, journal: Journal | None, ranks: Ranks) -> HitTable:
        counts = cls(asked, n, journal, ranks)
        where = {row: place for place, row in enumerate(counts.rows)}
        for entry in journal.entries if journal else ():
            # A line that is not ours is work to do again.
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                row, start, redone = (
                    where[entry["layer"], entry["ratio"]],
                    int(entry["start"]),
                    int(entry["redone"]),
                )
                hits = unpack_hits(entry["hits"], int(entry["n"]))
                span = slice(start, start + len(hits))
                new = (counts.hits[row, span] == _UNKNOWN).all()  # nor is one that says it again
                if (
                    new
                    and len(hits) == entry["n"]
                    and 0 <= start <= n - len(hits)
                    and 0 <= redone <= len(hits)
                ):
                    counts._set(row, start, hits, redone)
        counts.hits, counts.redone = ranks.broadcast((counts.hits, counts.redone))
        return counts

    def _set(self, row: int, start: int, hits: np.ndarray, redone: int) -> None:
        self.hits[row, start : start + len(hits)] = hits
        self.redone[row] += redone

    def unknown(self, rows: Sequence[int], span: slice) -> np.ndarray:
        """Which of ``rows`` miss some image of ``span``, bool [rows]."""
        missing: np.ndarray = (self.hits[list(rows), span] == _UNKNOWN).any(1)
        return missing

    @property
    def finished(self) -> int:
        return int((self.hits != _UNKNOWN).all(1).sum())

    def add(
        self, rows: Sequence[int], start: int, hits: torch.Tensor, redone: torch.Tensor
    ) -> None:
        """Take in what every rank found: ``hits`` uint8 [rows, images], zero where others looked; ``redone`` int64 [rows], of images that
        were unknown before."""
        found, again = (
            self._ranks.all_reduce_sum(hits).cpu().numpy(),
            self._ranks.all_reduce_sum(redone).cpu().numpy(),
        )
        if self._journal is not None:
            self._journal.append(*(
                {
                    "layer": self.rows[row][0], "ratio": self.rows[row][1], "start": start, "n": found.shape[1],
                    "hits": pack_hits(found[place]), "redone": int(again[place]),
                }
                for place, row in enumerate(rows)
            ))  # fmt: skip
        for place, row in enumerate(rows):
            self._set(row, start, found[place], int(again[place]))
