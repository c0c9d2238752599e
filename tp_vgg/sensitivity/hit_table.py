"""A hit table collects a sweep's results: for each point and image, right, wrong or unknown."""

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
    """A hit table says, for each point of a sweep and image, whether the prediction was right.

    An entry is unknown until it is evaluated. Results are written to the journal if there is one.
    The table is the same on every rank.
    """

    def __init__(self, sweep: ResolvedSweep, n: int, journal: Journal | None, ranks: Ranks) -> None:
        self.rows = sweep.rows
        """(layer, level) of each row: the dense model first, then every point."""
        self.hits = np.full((len(self.rows), n), _UNKNOWN, np.uint8)
        """``uint8 [rows, n]``: 1 if the prediction was right, 0 if wrong, 2 if unknown."""
        self.redone = np.zeros(len(self.rows), np.int64)
        """``int64 [rows]``: images that were evaluated again in fp32."""
        self._journal, self._ranks = journal, ranks

    @classmethod
    def of(cls, sweep: ResolvedSweep, n: int, journal: Journal | None, ranks: Ranks) -> HitTable:
        """Return the table of ``sweep`` over ``n`` images, with what the journal already knows.

        A journal entry that does not fit the sweep, or repeats a known result, is ignored; its
        images are evaluated again if they are still unknown.
        """
        table = cls(sweep, n, journal, ranks)
        row_of = {point: row for row, point in enumerate(table.rows)}
        for entry in journal.entries if journal else ():
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                row, start, redone = (
                    row_of[entry["layer"], entry["ratio"]],
                    int(entry["start"]),
                    int(entry["redone"]),
                )
                hits = unpack_hits(entry["hits"], int(entry["n"]))
                span = slice(start, start + len(hits))
                new = (table.hits[row, span] == _UNKNOWN).all()
                if (
                    new
                    and len(hits) == entry["n"]
                    and 0 <= start <= n - len(hits)
                    and 0 <= redone <= len(hits)
                ):
                    table._set(row, start, hits, redone)
        table.hits, table.redone = ranks.broadcast((table.hits, table.redone))
        return table

    def _set(self, row: int, start: int, hits: np.ndarray, redone: int) -> None:
        self.hits[row, start : start + len(hits)] = hits
        self.redone[row] += redone

    def unknown(self, rows: Sequence[int], span: slice) -> np.ndarray:
        """Return bool ``[rows]``: True for each of ``rows`` with an unknown image in ``span``."""
        missing: np.ndarray = (self.hits[list(rows), span] == _UNKNOWN).any(1)
        return missing

    def missing(self, rows: Sequence[int], span: slice) -> int:
        """Return the number of unknown entries: of these rows, at the images in ``span``."""
        return int((self.hits[list(rows), span] == _UNKNOWN).sum())

    @property
    def points(self) -> float:
        """Return the number of known points; one of which some images are known is a fraction."""
        return float((self.hits != _UNKNOWN).mean(1).sum())

    @property
    def finished(self) -> int:
        """Return the number of rows in which every image is known."""
        return int((self.hits != _UNKNOWN).all(1).sum())

    def add(
        self, rows: Sequence[int], start: int, hits: torch.Tensor, redone: torch.Tensor
    ) -> None:
        """Sum the results of all ranks, write them to the journal, then add them to the table.

        ``hits``: uint8 ``[rows, images]`` for the images from ``start`` on; zero for images that
        another rank evaluates. ``redone``: int64 ``[rows]``, counting only images that were
        unknown. Both tensors are overwritten with the sums.
        """
        all_hits, all_redone = (
            self._ranks.all_reduce_sum(hits).cpu().numpy(),
            self._ranks.all_reduce_sum(redone).cpu().numpy(),
        )
        if self._journal is not None:
            self._journal.append(
                *(
                    {
                        "layer": self.rows[row][0],
                        "ratio": self.rows[row][1],
                        "start": start,
                        "n": all_hits.shape[1],
                        "hits": pack_hits(all_hits[place]),
                        "redone": int(all_redone[place]),
                    }
                    for place, row in enumerate(rows)
                )
            )
        for place, row in enumerate(rows):
            self._set(row, start, all_hits[place], int(all_redone[place]))
