"""A benchmark is a table with one row for each model, mode, dtype and batch size.

This module does not import torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

from tp_vgg.errors import BadInput, first_of, shown
from tp_vgg.files.schema import typed
from tp_vgg.stats import median_interval, quartiles

LATENCY = "tp_vgg/latency/1"
"""Format name in ``latency.json``."""
Mode = Literal["eager", "folded", "graph", "compile", "folded-graph", "onnxruntime"]
"""How the network is run:

* ``eager``: as it is.
* ``folded``: batch norm folded into the convs, channels_last.
* ``graph``: the operators of eager, captured in a CUDA graph and replayed.
* ``compile``: torch.compile for the exact shape of the input.
* ``folded-graph``: the operators of folded, captured and replayed. For a small network on a GPU
  torch alone has nothing faster.
* ``onnxruntime``: exported to ONNX, and run by ONNX Runtime on the CPU.
"""
MODES: tuple[Mode, ...] = ("eager", "folded", "graph", "compile", "folded-graph")
FOLDED: tuple[Mode, ...] = ("folded", "folded-graph")
GRAPHS: tuple[Mode, ...] = ("graph", "folded-graph")
MAX_BATCH = 1 << 20
MIN_VALUE = 1e-9
"""Smallest time (in any unit) or ratio that is accepted, so that dividing by it stays finite."""
DTYPES = ("fp32", "tf32", "bf16")
BATCH_SIZES = {"cpu": (1, 64), "cuda": (1, 64, 1024)}
"""Batch sizes by default, by the type of the device: on a CPU 1024 takes minutes per case."""
TRIALS = 17
"""Number of blocks by default. The percentile bootstrap interval of the median of 17 values is from
the 5th to the 13th in order, which covers the median in 95.1 % of the cases for any distribution.
(Of 15 values it is 96.5 or 88.2 %, by the luck of the resampling.)"""
FEWEST_TRIALS = 9
"""With fewer blocks the interval covers less than 95 %: 87.5 % with 7, at most 93.8 % with 5."""
FEW_TRIALS = 9
"""Number of blocks by default if blocks take long; the interval of 9 values covers 96.1 %."""
SLOW = 0.75
"""A block does not count if the device's clock was under this fraction of its default rate.
Source: nvbench, throttle detection."""
Verdict = Literal["faster", "no gain", "slower", "reference", "not available"]


@dataclass(frozen=True)
class BenchmarkCase:
    """A case is one mode, dtype and batch size, in which all models are timed and compared.

    Raises :class:`BadInput` for an unknown mode or dtype, or a batch size out of range.
    """

    mode: Mode
    dtype: str
    batch_size: int

    def __post_init__(self) -> None:
        for name, value, known in (
            ("modes", self.mode, get_args(Mode)),
            ("dtypes", self.dtype, DTYPES),
        ):
            if value not in known:
                raise BadInput(f"--{name}: {str(value)[:40]!a} is not one of {', '.join(known)}")
        if type(self.batch_size) is not int or not 1 <= self.batch_size <= MAX_BATCH:
            raise BadInput(
                f"--batch-sizes: {shown(self.batch_size)}: must be from 1 to {MAX_BATCH}"
            )

    @property
    def label(self) -> str:
        """Return the case in words, such as ``eager fp32, batch 64``."""
        return f"{self.mode} {self.dtype}, batch {self.batch_size}"


def cases_of(
    modes: Iterable[str], dtypes: Iterable[str], batch_sizes: Iterable[int]
) -> tuple[BenchmarkCase, ...]:
    """Return the cases of all combinations, ordered by batch size, dtype and mode, each once.

    Raises :class:`BadInput` for an unknown mode or dtype, or a batch size out of range.
    """
    pairs = itertools.product(batch_sizes, dtypes, modes)
    cases = (BenchmarkCase(cast(Mode, mode), dtype, batch) for batch, dtype, mode in pairs)
    return tuple(dict.fromkeys(cases))


@dataclass(frozen=True)
class Ratio:
    """A ratio is the median of paired ratios of times, with its 95 % interval.

    The interval is that of :func:`tp_vgg.stats.median_interval`.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, reference: Sequence[float], other: Sequence[float]) -> Ratio:
        """Return the ratio ``reference`` / ``other``, over 1 if ``other`` is faster.

        Both hold one time per block, of the same blocks in the same order.
        """
        ratios = [a / b for a, b in zip(reference, other, strict=True)]
        return cls(quartiles(ratios)[1], *median_interval(ratios))

    @property
    def includes_one(self) -> bool:
        """Return True if the interval includes 1, so that no difference was shown."""
        return self.low <= 1 <= self.high


@dataclass(frozen=True)
class LatencyRow:
    """A row holds the times of one model in one case; ``None`` if the case was not available."""

    model: str
    """Name of the model. In the dense model's row, ``speedup`` is that of a copy of it: the A/A
    control."""
    mode: Mode
    dtype: str
    batch_size: int
    verdict: Verdict
    reasons: tuple[str, ...]
    """Why the speed-up falls short of the MAC ratio, by the rules of
    :mod:`tp_vgg.latency.verdicts`; or why the case is not available."""
    median_ms: float | None = None
    """Median time of one forward pass over the batch, in milliseconds."""
    iqr_ms: float | None = None
    """Interquartile range of the same times, in milliseconds."""
    speedup: float | None = None
    """Median over the blocks of the dense model's time divided by this one's."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    over_eager: float | None = None
    """The speed-up over the dense model in eager mode, timed in the same blocks: the gain from mode
    and pruning together."""
    mac_ratio: float | None = None
    """The dense model's MACs divided by this one's: the speed-up that the arithmetic promises."""
    efficiency: float | None = None
    """Speed-up divided by MAC ratio: 1 if the time falls as the MACs do."""
    efficiency_low: float | None = None
    efficiency_high: float | None = None
    peak_bytes: int | None = None
    """Peak memory of the weights, the input and the activations in one forward pass. On CUDA it is
    the allocator's peak. On the CPU it counts the tensors that are alive at once, without what
    kernels use internally."""
    busy: float | None = None
    """Fraction of the wall time in which the GPU works, in eager and folded mode; ``None`` in other
    modes, on the CPU, or if the profiler sees no kernel."""
    flushed: int = 0
    """Number of denormal weights set to zero before timing. Dead channels cause them; a CPU is slow
    on them."""
    warm: bool = True
    """True if the times became stable during the warm-up."""
    slow_blocks: int = 0
    """Number of blocks of this case that do not count because the device's clock was too low
    (:data:`SLOW`)."""
    seconds: tuple[float, ...] = ()
    """Time of one forward pass in seconds, one value per block."""

    def __repr__(self) -> str:
        about = f"<LatencyRow {shown(self.model)}: {self.case.label}: "
        if self.median_ms is None or self.speedup is None:
            return f"{about}{self.verdict}: {'; '.join(self.reasons)[:120]}>"
        return (
            f"{about}{self.median_ms:.3g} ms, speed-up {self.speedup:.2f} "
            f"[{self.speedup_low:.2f}, {self.speedup_high:.2f}]: {self.verdict}>"
        )

    @property
    def case(self) -> BenchmarkCase:
        """Return the mode, dtype and batch size of the row."""
        return BenchmarkCase(self.mode, self.dtype, self.batch_size)

    def _check(self) -> None:
        """Raise ``ValueError`` unless the row has all numbers, or none of them but a reason."""
        numbers = [getattr(self, name) for name in _MEASURED]
        measured = all(value is not None for value in numbers)
        if measured is (self.verdict == "not available") or not (measured or self.reasons):
            raise ValueError(f"{self.verdict!r} of {numbers}")
        if measured and not (
            all(
                value is not None and value >= (0 if name == "iqr_ms" else MIN_VALUE)
                for name, value in zip(_MEASURED, numbers, strict=True)
            )
            and self.speedup_low <= self.speedup <= self.speedup_high  # type: ignore[operator]
        ):
            raise ValueError("times or ratios out of range")
        if self.slow_blocks < 0:
            raise ValueError("a negative number of blocks")
        _ = self.case  # raises BadInput, a ValueError, for an unknown case

    def metrics(self, device: str) -> dict[str, Any]:
        """Return the row's entry in ``metrics.json``: all fields but model and times.

        ``device`` is the device's name; ``n`` in the entry is the number of blocks.
        """
        left_out = ("model", "seconds")
        return {
            "device": device,
            **{k: v for k, v in asdict(self).items() if k not in left_out},
            "n": len(self.seconds),
        }


@dataclass(frozen=True)
class Latency:
    """A latency table is a finished benchmark, as ``latency.json`` holds it."""

    reference: str
    """Name of the dense model."""
    models: dict[str, dict[str, Any]]
    """The facts of each model, by name: ``spec``, ``macs``, ``params`` and ``density`` (the
    fraction of the weights that are not zero). A model from a file has ``checkpoint`` and
    ``sha256`` too; ``timed_as`` names the model of equal widths that was timed in its place, if
    there is one."""
    environment: dict[str, str | int | None]
    conditions: dict[str, Any]
    """The conditions of the measurement:

    * ``before``: clock rates, power and temperature of the device before the first case;
    * ``before_each``, ``after``: the same right before and right after each case, by its label;
    * ``flags``: the settings of fp32 arithmetic for each dtype;
    * ``bandwidth``: bytes per second of a large copy, reads and writes counted;
    * ``cache_bytes``: size of the last-level cache;
    * ``hot``: true if one input was reused, which stays in the cache;
    * ``probes``: true if faster widths just below the present ones were looked for;
    * ``command``: the command line.
    """
    rows: tuple[LatencyRow, ...]

    def __repr__(self) -> str:
        def values(name: str) -> str:
            return first_of([*dict.fromkeys(str(getattr(row, name)) for row in self.rows)], 4)

        return (
            f"<Latency: {len(self.rows)} rows on {str(self.environment.get('device'))[:40]}; "
            f"models {first_of([*map(shown, self.models)], 2)}; modes {values('mode')}; dtypes "
            f"{values('dtype')}; batch sizes {values('batch_size')}>"
        )

    def of_model(self, sha256: str) -> tuple[LatencyRow, ...]:
        """Return the rows of the checkpoint file with this SHA-256."""
        names = {name for name, about in self.models.items() if about.get("sha256") == sha256}
        return tuple(row for row in self.rows if row.model in names)

    def headline(self) -> BenchmarkCase | None:
        """Return the case to quote if only one is shown; ``None`` if no case was measured.

        It is the dense model's fastest case at the batch size of :func:`quoted_batch`.
        """
        batch = quoted_batch(self.rows, self.reference)
        rows = [row for row in self.rows if row.model == self.reference and row.batch_size == batch]
        timed = [row for row in rows if row.median_ms is not None]
        return min(timed, key=lambda row: row.median_ms or 0.0).case if timed else None

    @property
    def slow_blocks(self) -> int:
        """Return the number of blocks that do not count because the clock was too low."""
        return sum({row.case: row.slow_blocks for row in self.rows}.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the table as ``latency.json`` holds it: dicts, lists, strings and numbers."""
        return {"format": LATENCY, **asdict(self), "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Latency:
        """Rebuild a table from what :meth:`to_dict` returned.

        Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else.
        """
        if data["format"] != LATENCY:
            raise ValueError("not a table of this version")
        table = typed(cls, data, more=True)
        for row in table.rows:
            row._check()
        if {table.reference, *(row.model for row in table.rows)} - set(table.models):
            raise ValueError("rows of models that are not listed")
        if any(not isinstance(table.environment[name], str) for name in ("device", "cpu")):
            raise TypeError("the environment does not name the device and the CPU")
        table.environment["threads"]
        return table


def quoted_batch(rows: Iterable[LatencyRow], reference: str) -> int | None:
    """Return the batch size to quote if only one is shown; ``None`` if none was timed.

    It is 64, or else the largest at which the dense model (``reference``) was timed.
    """
    batches = {
        row.batch_size for row in rows if row.model == reference and row.median_ms is not None
    }
    return 64 if 64 in batches else max(batches, default=None)


_MEASURED = (
    "median_ms", "iqr_ms", "speedup", "speedup_low", "speedup_high", "over_eager",
    "mac_ratio", "efficiency", "efficiency_low", "efficiency_high",
)  # fmt: skip


def latency_row(data: Mapping[str, Any]) -> LatencyRow:
    """Rebuild a row from its ``asdict``.

    Raises ``TypeError``, ``KeyError`` or ``ValueError`` if it is not a row, or not a whole one.
    """
    row = typed(LatencyRow, data)
    row._check()
    return row
