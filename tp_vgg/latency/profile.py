"""A staircase profile is a table of the times of every conv at several widths.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tp_vgg.files.schema import typed
from tp_vgg.latency.table import MIN_VALUE, BenchmarkCase
from tp_vgg.network.families import spec_from_dict

STAIRCASE = "tp_vgg/staircase/1"
"""Format name in the file of a staircase profile; also part of the profile's key."""


@dataclass(frozen=True)
class Timed:
    """A timed point is the time of one conv at one pair of widths."""

    layer: str
    in_width: int
    out_width: int
    median_us: float
    """Median time in microseconds of the conv and its ReLU for one batch, with batch norm folded,
    in channels_last."""
    iqr_us: float
    """Interquartile range of the same times, in microseconds."""


@dataclass(frozen=True)
class Staircase:
    """A staircase profile holds the time of every conv on a grid of widths, on one device."""

    key: str
    """Fingerprint of all that the times depend on: device, versions, threads, network, grid,
    trials, dtype and batch size."""
    spec: dict[str, Any]
    dtype: str
    batch_size: int
    environment: dict[str, str | int | None]
    points: tuple[Timed, ...]

    def __repr__(self) -> str:
        return (
            f"<Staircase: {len(self.layers)} convs, {len(self.points)} times, {self.dtype}, batch "
            f"{self.batch_size}, on {str(self.environment.get('device'))[:40]}>"
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the timed convs, in the network's order."""
        return tuple(dict.fromkeys(point.layer for point in self.points))

    def widths(self, layer: str) -> tuple[tuple[int, int], ...]:
        """Return the pairs (input width, output width) at which one conv was timed."""
        return tuple(
            (point.in_width, point.out_width) for point in self.points if point.layer == layer
        )

    def at_full_input(self, layer: str) -> tuple[Timed, ...]:
        """Return the points of one conv with all its input channels, by rising output width."""
        points = [point for point in self.points if point.layer == layer]
        full = max(point.in_width for point in points)
        return tuple(
            sorted((p for p in points if p.in_width == full), key=lambda point: point.out_width)
        )

    def grid(self, layer: str) -> tuple[list[int], list[int], list[list[float]]]:
        """Return the times of one conv as a full grid.

        The result is the input widths, the output widths that were timed at every input width,
        and the median microseconds [input widths, output widths].
        """
        points = {
            (point.in_width, point.out_width): point.median_us
            for point in self.points
            if point.layer == layer
        }
        ins = sorted({i for i, _ in points})
        outs = sorted(o for o in {o for _, o in points} if all((i, o) in points for i in ins))
        return ins, outs, [[points[i, o] for o in outs] for i in ins]

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as its JSON file holds it: dicts, lists, strings and numbers."""
        return {
            "format": STAIRCASE,
            **asdict(self),
            "points": [asdict(point) for point in self.points],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Staircase:
        """Rebuild a profile from what :meth:`to_dict` returned.

        Raises ``TypeError``, ``KeyError`` or ``ValueError`` if ``data`` is not a profile of this
        version with points of every conv of its network.
        """
        if data["format"] != STAIRCASE:
            raise ValueError("not a profile of this version")
        profile = typed(cls, data, more=True)
        full = {row.name: row for row in spec_from_dict(profile.spec).rows if row.kind == "conv"}
        BenchmarkCase("folded", profile.dtype, profile.batch_size)  # raises for an unknown dtype
        for point in profile.points:
            row = full[point.layer]
            if not (
                0 < point.in_width <= row.in_width
                and 0 < point.out_width <= row.out_width
                and point.median_us >= MIN_VALUE
            ):
                raise ValueError("a point has a width or a time out of range")
        if set(profile.layers) != set(full) or not all(profile.grid(layer)[1] for layer in full):
            raise ValueError("points are missing for a conv of the network")
        if not isinstance(profile.environment["device"], str):
            raise TypeError("the environment does not name the device")
        return profile
