"""The table of a staircase profile: seconds of every conv over its widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tp_vgg.files.schema import typed
from tp_vgg.latency.table import MIN_MS, BenchmarkCase
from tp_vgg.network.families import spec_from_dict

STAIRCASE = "tp_vgg/staircase/1"
"""Format of a staircase profile, and part of its key."""


@dataclass(frozen=True)
class Timed:
    """One conv of a staircase profile."""

    layer: str
    in_width: int
    out_width: int
    median_us: float
    """Of the conv with its ReLU, batch norm folded, channels_last, over the batch."""
    iqr_us: float


@dataclass(frozen=True)
class Staircase:
    """The time of every conv over a grid of widths, on one device."""

    key: str
    """Fingerprint of the device, versions, threads, network, grid, dtype and batch."""
    spec: dict[str, Any]
    dtype: str
    batch_size: int
    environment: dict[str, str | int | None]
    points: tuple[Timed, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(point.layer for point in self.points))

    def widths(self, layer: str) -> tuple[tuple[int, int], ...]:
        """(in, out) of one conv's points."""
        return tuple(
            (point.in_width, point.out_width) for point in self.points if point.layer == layer
        )

    def at_full_input(self, layer: str) -> tuple[Timed, ...]:
        """The points of one conv with all its input channels, by rising width."""
        points = [point for point in self.points if point.layer == layer]
        full = max(point.in_width for point in points)
        return tuple(
            sorted((p for p in points if p.in_width == full), key=lambda point: point.out_width)
        )

    def grid(self, layer: str) -> tuple[list[int], list[int], list[list[float]]]:
        """Input widths, the output widths that all of them have, and the microseconds [in, out] of one conv."""
        points = {
            (point.in_width, point.out_width): point.median_us
            for point in self.points
            if point.layer == layer
        }
        ins = sorted({i for i, _ in points})
        outs = sorted(o for o in {o for _, o in points} if all((i, o) in points for i in ins))
        return ins, outs, [[points[i, o] for o in outs] for i in ins]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, as the profile's file holds it."""
        return {
            "format": STAIRCASE,
            **asdict(self),
            "points": [asdict(point) for point in self.points],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Staircase:
        """The inverse of :meth:`to_dict`. Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else."""
        if data["format"] != STAIRCASE:
            raise ValueError("not a profile of this version")
        found = typed(cls, data, more=True)
        full = {row.name: row for row in spec_from_dict(found.spec).rows if row.kind == "conv"}
        BenchmarkCase("folded", found.dtype, found.batch_size)
        for point in found.points:
            row = full[point.layer]
            if not (
                0 < point.in_width <= row.in_width
                and 0 < point.out_width <= row.out_width
                and point.median_us >= MIN_MS
            ):
                raise ValueError("points that no profile can have")
        if set(found.layers) != set(full) or not all(found.grid(layer)[1] for layer in full):
            raise ValueError("not all convs of the network")
        if not isinstance(found.environment["device"], str):
            raise TypeError("not what a profile says of its device")
        return found
