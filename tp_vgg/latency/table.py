"""The table of a benchmark: one row a model, mode, dtype and batch (no torch)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tp_vgg.errors import BadInput
from tp_vgg.files.schema import typed
from tp_vgg.stats import median_interval, quartiles

LATENCY = "tp_vgg/latency/1"
"""Format of ``latency.json``."""
Mode = Literal["eager", "folded", "graph", "compile", "folded-graph", "onnxruntime"]
"""How the network is run. ``folded``: batch norm folded, channels_last. ``graph``: a CUDA graph replayed. ``compile``: torch.compile for the
very shape. ``folded-graph``: both of the first two, the best that torch alone does for a small network on a GPU. ``onnxruntime``: another runtime."""
MODES: tuple[Mode, ...] = ("eager", "folded", "graph", "compile", "folded-graph")
FOLDED: tuple[Mode, ...] = ("folded", "folded-graph")
GRAPHS: tuple[Mode, ...] = ("graph", "folded-graph")
MAX_BATCH = 1 << 20
MIN_MS = 1e-9
"""Of a time or a ratio of times: what is divided by it stays a number."""
DTYPES = ("fp32", "tf32", "bf16")
BATCH_SIZES = (1, 64, 1024)
TRIALS = 17
"""Blocks by default: the percentile bootstrap of the median of 17 is the 5th to 13th of them in order, which covers in 95.1 % of the
cases whatever the distribution (of 15: 96.5 or 88.2 %, by the luck of the resampling)."""
FEWEST_TRIALS = 9
"""Below that the interval falls short of 95 %: of 7 it is 87.5 %, of 5 at most 93.8 %."""
FEW_TRIALS = 9
"""Blocks by default where they take long; by the same reckoning 96.1 %."""
SLOW = 0.75
"""A block does not count where the device's clock was under this share of its default rate. Source: nvbench, throttle detection."""
Verdict = Literal["faster", "no gain", "slower", "reference", "not available"]


@dataclass(frozen=True)
class BenchmarkCase:
    """What is compared in one place: the same mode, dtype and batch for every model. Raises :class:`BadInput` for what does not exist."""

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
            raise BadInput(f"--batch-sizes: {self.batch_size!r}: must be from 1 to {MAX_BATCH}")

    @property
    def label(self) -> str:
        return f"{self.mode} {self.dtype}, batch {self.batch_size}"


def cases_of(
    modes: Iterable[str], dtypes: Iterable[str], batch_sizes: Iterable[int]
) -> tuple[BenchmarkCase, ...]:
    """All combinations, by batch, dtype and mode, each once. Raises :class:`BadInput`."""
    pairs = itertools.product(batch_sizes, dtypes, modes)
    return tuple(dict.fromkeys(BenchmarkCase(mode, dtype, batch) for batch, dtype, mode in pairs))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios and its 95 % interval (:func:`tp_vgg.stats.median_interval`)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, reference: Sequence[float], other: Sequence[float]) -> Ratio:
        """How many times less than ``reference`` the ``other`` took; one time a block each, in the same order."""
        ratios = [a / b for a, b in zip(reference, other, strict=True)]
        return cls(quartiles(ratios)[1], *median_interval(ratios))

    @property
    def includes_one(self) -> bool:
        return self.low <= 1 <= self.high


@dataclass(frozen=True)
class LatencyRow:
    """One model in one case. The numbers are ``None`` where the case was not available."""

    model: str
    """The reference's row is its copy timed against it: the A/A control."""
    mode: Mode
    dtype: str
    batch_size: int
    verdict: Verdict
    reasons: tuple[str, ...]
    """Why it is not faster by its MAC ratio, by the rules of :mod:`tp_vgg.latency.verdicts`; or why it is not available."""
    median_ms: float | None = None
    """Of one forward pass over the batch."""
    iqr_ms: float | None = None
    speedup: float | None = None
    """Median over the blocks of the dense model's time ÷ this one's."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    over_eager: float | None = None
    """The same against the dense model in eager mode, timed in the same blocks: what mode and pruning give together."""
    mac_ratio: float | None = None
    """The dense model's MACs ÷ this one's: the speed-up that the arithmetic promises."""
    efficiency: float | None = None
    """Speed-up ÷ MAC ratio."""
    efficiency_low: float | None = None
    efficiency_high: float | None = None
    peak_bytes: int | None = None
    """Of weights, input and activations in one pass: the allocator's peak on CUDA; on the CPU the tensors alive at once, without what
    kernels use inside."""
    busy: float | None = None
    """Share of the wall time in which the GPU works, in eager and folded mode; ``None`` on the CPU, or where the profiler sees nothing."""
    flushed: int = 0
    """Denormal weights set to zero before timing: a CPU is slow on them, and dead channels make them."""
    warm: bool = True
    """Whether the warm-up became stable."""
    slow_blocks: int = 0
    """Blocks of this case that do not count, since the device's clock was too low (:data:`SLOW`)."""
    seconds: tuple[float, ...] = ()
    """Of one pass, a value a block."""

    @property
    def case(self) -> BenchmarkCase:
        return BenchmarkCase(self.mode, self.dtype, self.batch_size)

    def _check(self) -> None:
        """Whole, or without any figure and with the reason; ``ValueError``."""
        numbers = [getattr(self, name) for name in _MEASURED]
        measured = all(value is not None for value in numbers)
        if measured is (self.verdict == "not available") or not (measured or self.reasons):
            raise ValueError(f"{self.verdict!r} of {numbers}")
        if measured and not (
            all(
                value is not None and value >= (0 if name == "iqr_ms" else MIN_MS)
                for name, value in zip(_MEASURED, numbers, strict=True)
            )
            and self.speedup_low <= self.speedup <= self.speedup_high  # type: ignore[operator]
        ):
            raise ValueError("times that no clock gives")
        if self.slow_blocks < 0:
            raise ValueError("fewer blocks than none")
        _ = self.case  # which has checks of its own

    def metrics(self, device: str) -> dict[str, Any]:
        """The entry in ``metrics.json`` (the contract's names, and what explains them)."""
        left_out = ("model", "seconds")
        return {
            "device": device,
            **{k: v for k, v in asdict(self).items() if k not in left_out},
            "n": len(self.seconds),
        }


@dataclass(frozen=True)
class Latency:
    """A finished benchmark."""

    reference: str
    """Name of the dense model."""
    models: dict[str, dict[str, Any]]
    """By name: ``spec``, ``macs``, ``params``, ``density`` (share of weights that are not zero), of a file ``checkpoint`` and ``sha256``, and where
    another of the same widths was timed in its place ``timed_as``."""
    environment: dict[str, str | int | None]
    conditions: dict[str, Any]
    """Clocks, power and temperature of the device ``before`` all of this session, and right before (``before_each``) and right ``after`` each
    case of it; the ``flags`` of each dtype, the ``bandwidth`` (bytes per second of a large copy, read and write counted) and the ``cache_bytes``
    that the rules reckon with, whether the input stayed in the cache (``hot``), whether steps at smaller widths were looked for (``probes``), and the ``command``."""
    rows: tuple[LatencyRow, ...]

    def of_model(self, sha256: str) -> tuple[LatencyRow, ...]:
        """The rows of the checkpoint with these bytes."""
        names = {name for name, about in self.models.items() if about.get("sha256") == sha256}
        return tuple(row for row in self.rows if row.model in names)

    def headline(self) -> BenchmarkCase | None:
        """The case to quote where there is room for one: batch 64, or else the largest measured, as the dense model is fastest."""
        batch = quoted_batch(self.rows, self.reference)
        rows = [row for row in self.rows if row.model == self.reference and row.batch_size == batch]
        timed = [row for row in rows if row.median_ms is not None]
        return min(timed, key=lambda row: row.median_ms or 0.0).case if timed else None

    @property
    def slow_blocks(self) -> int:
        """Blocks of all cases that do not count, since the device's clock was too low."""
        return sum({row.case: row.slow_blocks for row in self.rows}.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, as ``latency.json`` holds it."""
        return {"format": LATENCY, **asdict(self), "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Latency:
        """The inverse of :meth:`to_dict`. Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else."""
        if data["format"] != LATENCY:
            raise ValueError("not a table of this version")
        found = typed(cls, data, more=True)
        for row in found.rows:
            row._check()
        if {found.reference, *(row.model for row in found.rows)} - set(found.models):
            raise ValueError("rows of models that are not listed")
        if any(not isinstance(found.environment[name], str) for name in ("device", "cpu")):
            raise TypeError("not what a benchmark says of its device")
        found.environment["threads"]
        return found


def quoted_batch(rows: Iterable[LatencyRow], reference: str) -> int | None:
    """The batch size to quote where there is room for one: 64, or else the largest at which the dense model (``reference``) was timed."""
    batches = {
        row.batch_size for row in rows if row.model == reference and row.median_ms is not None
    }
    return 64 if 64 in batches else max(batches, default=None)


_MEASURED = (
    "median_ms", "iqr_ms", "speedup", "speedup_low", "speedup_high", "over_eager", "mac_ratio", "efficiency", "efficiency_low",
    "efficiency_high",
)  # fmt: skip


def latency_row(data: Mapping[str, Any]) -> LatencyRow:
    """A row from its ``asdict``, whole or without any figure. Raises ``TypeError`` or ``ValueError`` for anything else."""
    row = typed(LatencyRow, data)
    row._check()
    return row
