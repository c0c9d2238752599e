"""What a sweep asks of a network, and what is known of the answer so far."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

import numpy as np
import torch

from tp_vgg.criteria import CRITERIA, check_importance, check_recalibrate
from tp_vgg.data import Normalisation, Split
from tp_vgg.device import screening_pays
from tp_vgg.errors import BadInput
from tp_vgg.hitmap import pack_hits, unpack_hits
from tp_vgg.model import VGG
from tp_vgg.ranks import Ranks
from tp_vgg.ratios import removals
from tp_vgg.records import LEVELS, SENSITIVITY
from tp_vgg.spec import Kind
from tp_vgg.storage import Journal, fingerprint
from tp_vgg.unstructured import is_masked

PRECISIONS = ("auto", "fp32", "bf16", "screened")
_UNKNOWN = 2


@dataclass(frozen=True)
class Sweep:
    """What is asked of a network, resolved and checked."""

    kind: Kind
    levels: tuple[float, ...]
    removed: Mapping[str, tuple[int, ...]]
    """Channels or weights, by layer and level."""
    importance: str
    seed: int
    precision: str
    """``fp32``, ``bf16`` or ``screened``."""
    recalibrated: bool = False
    """Batch norm behind the pruned layer has statistics of its own at every point."""

    @classmethod
    def of(
        cls,
        model: VGG,
        kind: Kind,
        levels: Sequence[float] = LEVELS,
        layers: Sequence[str] | None = None,
        importance: str = "l1",
        seed: int = 0,
        precision: str = "auto",
        *,
        recalibrate: bool = False,
    ) -> Sweep:
        """Resolved against ``model``; see :func:`sweep` for the arguments and errors. ``precision``: ``auto`` screens in bf16 and
        verifies in fp32 where that is faster (:func:`~tp_vgg.device.screening_pays`), and is fp32 elsewhere."""
        if any(is_masked(module) for module in model.modules()):
            raise BadInput("the model has weight masks; remove them (torch.nn.utils.prune.remove) before a sweep")
        if kind not in get_args(Kind) or precision not in PRECISIONS:
            raise BadInput(
                f"kind {kind!r}, precision {precision!r}: give one of {get_args(Kind)} and one of {PRECISIONS}"
            )
        if isinstance(layers, str):
            raise BadInput(f"layers: {layers!r} is one name; give a list of names")
        levels = tuple(sorted(map(float, levels)))
        removed = removals(kind, model.spec, levels, layers)
        check_importance(importance, model.spec, removed, kind)
        if recalibrate:
            check_recalibrate(model.spec)
        if precision == "auto":
            precision = "screened" if screening_pays(next(model.parameters()).device) else "fp32"
        return cls(kind, levels, removed, importance, seed, precision, recalibrate)

    def key(self, model: VGG, split: Split, sample: Split | None = None) -> str:
        """Fingerprint of everything that the counts depend on; ``sample``: the images for new statistics."""
        state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        shapes = [(name, str(value.dtype), list(value.shape)) for name, value in state.items()]
        images = split.images.permute(0, 2, 3, 1).cpu()
        tensors = [*state.values(), images, split.labels.cpu()]
        if sample is not None:
            tensors.append(sample.images.permute(0, 2, 3, 1).cpu())
        if CRITERIA[self.importance].needs_gradients:
            tensors += [value.grad.cpu() for value in model.parameters() if value.grad is not None]
        about = {
            "device": split.labels.device.type,
            **asdict(self),
            "spec": model.spec.to_dict(),
            "normalisation": asdict(Normalisation.of(model.meta)),
        }
        return fingerprint(
            SENSITIVITY, about, shapes, list(images.shape), *(t.contiguous().numpy().data for t in tensors)
        )

    @property
    def rows(self) -> list[tuple[str | None, float]]:
        """What is counted: the dense model (no layer, 0), then every layer's levels."""
        return [(None, 0.0), *((layer, level) for layer in self.removed for level in self.levels)]


class Tally:
    """Which image each point gets right, as far as it is known: on the disk where there is a journal, the same on every rank."""

    def __init__(self, asked: Sweep, n: int, journal: Journal | None, ranks: Ranks) -> None:
        self.rows = asked.rows
        self.hits = np.full((len(self.rows), n), _UNKNOWN, np.uint8)
        self.redone = np.zeros(len(self.rows), np.int64)
        self._journal, self._ranks = journal, ranks

    @classmethod
    def of(cls, asked: Sweep, n: int, journal: Journal | None, ranks: Ranks) -> Tally:
        counts = cls(asked, n, journal, ranks)
        where = {row: place for place, row in enumerate(counts.rows)}
        for entry in journal.entries if journal else ():
            # A line that is not ours is work to do again.
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                row, start, redone = where[entry["layer"], entry["ratio"]], int(entry["start"]), int(entry["redone"])
                hits = unpack_hits(entry["hits"], int(entry["n"]))
                span = slice(start, start + len(hits))
                new = (counts.hits[row, span] == _UNKNOWN).all()  # nor is one that says it again
                if new and len(hits) == entry["n"] and 0 <= start <= n - len(hits) and 0 <= redone <= len(hits):
                    counts._set(row, start, hits, redone)
        counts.hits, counts.redone = ranks.lead((counts.hits, counts.redone))
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

    def add(self, rows: Sequence[int], start: int, hits: torch.Tensor, redone: torch.Tensor) -> None:
        """Take in what every rank found: ``hits`` uint8 [rows, images], zero where others looked; ``redone`` int64 [rows], of images that
        were unknown before."""
        found, again = self._ranks.add(hits).cpu().numpy(), self._ranks.add(redone).cpu().numpy()
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
