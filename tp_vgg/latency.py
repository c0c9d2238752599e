"""What a pruned network's forward pass takes, beside the dense one's: measured in turns, with an A/A control, and explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from tp_vgg.clocks import Call, Clock, CpuClock, CudaCalls, CudaClock, TorchCuda
from tp_vgg.device import environment, fp32_arithmetic, fp32_flags, pick_device, release_memory, versions
from tp_vgg.errors import BadInput, out_of_memory
from tp_vgg.interleave import interleave
from tp_vgg.latencies import BATCH_SIZES, FEWEST_TRIALS, MODES, Cell, Latency, LatencyRow, Ratio, cells_of
from tp_vgg.model import VGG
from tp_vgg.modes import Pass, Unavailable, check_available, prepare
from tp_vgg.staircase import POINT_SECONDS, probe_layers, probe_network
from tp_vgg.stats import quartiles
from tp_vgg.unstructured import layer_sparsity
from tp_vgg.verdicts import Step, explain, needs_reason, verdict

CONTROL = "dense, a copy of it"
_EAGER = "dense, eager"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} cells [{elapsed}]"


@dataclass(frozen=True)
class Bench:
    """A device and how things are timed on it."""

    device: torch.device
    clock: Clock
    quick: Clock
    """The same with shorter samples, for single convs."""
    cuda: CudaCalls | None
    threads: int

    @classmethod
    def of(cls, device: torch.device, threads: int | None = None) -> Bench:
        """``threads``: of the CPU; torch's default where ``None``."""
        threads = threads or torch.get_num_threads()
        if device.type == "cuda":
            cuda = TorchCuda(device)
            return cls(device, CudaClock(cuda), CudaClock(cuda, POINT_SECONDS), cuda, threads)
        return cls(device, CpuClock(threads), CpuClock(threads, POINT_SECONDS), None, threads)

    def bandwidth(self) -> float:
        """Bytes per second of a copy far larger than the caches, read and write counted; the best of five."""
        source = torch.zeros(max(4 * self.clock.cache_bytes(), 64 << 20), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.numel() / min(self.clock.sample(lambda: target.copy_(source)) for _ in range(5))


@dataclass(frozen=True)
class Schedule:
    """What to measure."""

    cells: tuple[Cell, ...]
    trials: int | None = None
    """Blocks; ``None`` for what :func:`~tp_vgg.interleave.interleave` does."""
    hot: bool = False
    """Every pass on one input, which stays in the cache, instead of a ring larger than it."""

    def ring(self, bench: Bench) -> int:
        """Bytes that the inputs rotate over."""
        return 0 if self.hot else 2 * bench.clock.cache_bytes()

    def __post_init__(self) -> None:
        if not self.cells or (self.trials is not None and self.trials < FEWEST_TRIALS):
            raise BadInput(f"give one or more cells, and {FEWEST_TRIALS} trials or more")


def measure_latency(
    models: Mapping[str, VGG],
    *,
    modes: Sequence[str] = MODES,
    dtypes: Sequence[str] = ("fp32", "bf16"),
    batch_sizes: Sequence[int] = BATCH_SIZES,
    trials: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = True,
) -> Latency:
    """Forward-pass times of ``models``, the first of which is the dense one that the others are compared with.

    Each cell (mode, dtype, batch) times all models, a copy of the dense one and the dense one in eager mode in the same blocks; see
    :mod:`tp_vgg.interleave`. A cell that the device lacks comes back as rows that say why. Raises :class:`BadInput` for no models, or for
    networks that do not take the same images, or for a mode, dtype or number that can't be.
    """
    schedule = Schedule(cells_of(modes, dtypes, batch_sizes), trials)
    return measure(models, schedule, Bench.of(pick_device(device), threads), quiet=quiet)


def check_models(models: Mapping[str, VGG]) -> None:
    """Raise :class:`BadInput` unless there are models, and they take the same images."""
    if not models or len({model.spec.image_size for model in models.values()}) > 1:
        raise BadInput("give one or more models, all for images of one size")


def measure(
    models: Mapping[str, VGG],
    schedule: Schedule,
    bench: Bench,
    *,
    known: Mapping[Cell, tuple[LatencyRow, ...]] | None = None,
    done: Callable[[tuple[LatencyRow, ...]], object] = lambda _: None,
    quiet: bool = True,
) -> Latency:
    """:func:`measure_latency` on a ``bench``; ``known`` cells are not measured again, and each new one is handed to ``done``."""
    from tqdm import tqdm

    check_models(models)
    known = known or {}
    reference = next(iter(models))
    about = {name: _about(model) for name, model in models.items()}
    before, bandwidth = bench.clock.conditions(), bench.bandwidth()
    rows: list[LatencyRow] = []
    with _threads(bench), tqdm(total=len(schedule.cells), unit="cell", disable=quiet or None, bar_format=_BAR) as bar:
        for place, cell in enumerate(schedule.cells):
            bar.set_description(cell.label)
            if cell in known:
                rows += known[cell]
            else:
                measured = _measure_cell(models, cell, schedule, bench, bar.update)
                done(measured)
                rows += measured
            bar.update(place + 1 - bar.n)
        steps = {}
        for row in rows:
            if needs_reason(row) and about[row.model]["macs"] < about[reference]["macs"]:
                bar.set_description(f"steps of {row.model}, {row.cell.label}")
                steps[row.model, row.cell] = _probed(models[row.model], row.cell, schedule, bench)
    return Latency(
        reference=reference,
        models=about,
        environment={**environment(bench.device), **versions(("onnxruntime",)), "threads": bench.threads},
        conditions={
            "hot": schedule.hot,
            "bandwidth": bandwidth,
            "flags": {cell.dtype: _flags(cell) for cell in schedule.cells},
            "before": before,
            "after": bench.clock.conditions(),
        },
        rows=explain(rows, about, bandwidth, steps),
    )


def _measure_cell(
    models: Mapping[str, VGG], cell: Cell, schedule: Schedule, bench: Bench, tick: Callable[[float], object]
) -> tuple[LatencyRow, ...]:
    try:
        check_available(cell, bench.cuda)
        with _arithmetic(cell):
            passes = _passes(models, cell, schedule, bench)
            with torch.inference_mode():
                return tuple(_rows(models, cell, passes, schedule, bench, tick))
    except (Unavailable, RuntimeError, MemoryError) as error:
        if not isinstance(error, Unavailable) and not out_of_memory(error):
            raise
        why = str(error) if isinstance(error, Unavailable) else "out of memory"
        return tuple(
            LatencyRow(name, cell.mode, cell.dtype, cell.batch_size, "not available", (why,)) for name in models
        )
    finally:
        torch.compiler.reset()
        release_memory()


def _passes(models: Mapping[str, VGG], cell: Cell, schedule: Schedule, bench: Bench) -> dict[str, Pass]:
    reference = next(iter(models.values()))
    wanted = [*((name, model, cell) for name, model in models.items()), (CONTROL, reference, cell)]
    if cell.mode != "eager":
        wanted.append((_EAGER, reference, replace(cell, mode="eager")))
    with torch.inference_mode():
        return {
            name: prepare(model, how, bench.device, schedule.ring(bench), bench.cuda, bench.threads)
            for name, model, how in wanted
        }


def _rows(
    models: Mapping[str, VGG],
    cell: Cell,
    passes: Mapping[str, Pass],
    schedule: Schedule,
    bench: Bench,
    tick: Callable[[float], object],
) -> Iterator[LatencyRow]:
    samples = interleave({name: made.call for name, made in passes.items()}, bench.clock, schedule.trials, tick=tick)
    reference = next(iter(models))
    seconds = samples.seconds
    control = Ratio.of(seconds[reference], seconds[CONTROL])
    eager = seconds.get(_EAGER, seconds[reference])
    for name, model in models.items():
        low, middle, high = quartiles(seconds[name])
        ratio = control if name == reference else Ratio.of(seconds[reference], seconds[name])
        macs = models[reference].spec.macs() / model.spec.macs()
        call, held = passes[name].call, passes[name].held
        yield LatencyRow(
            model=name, mode=cell.mode, dtype=cell.dtype, batch_size=cell.batch_size,
            verdict="reference" if name == reference else verdict(ratio, control), reasons=(),
            median_ms=1e3 * middle, iqr_ms=1e3 * (high - low),
            speedup=ratio.value, speedup_low=ratio.low, speedup_high=ratio.high,
            over_eager=quartiles([a / b for a, b in zip(eager, seconds[name], strict=True)])[1],
            mac_ratio=macs, efficiency=ratio.value / macs, efficiency_low=ratio.low / macs, efficiency_high=ratio.high / macs,
            peak_bytes=bench.clock.peak_bytes(call, held) if cell.mode in ("eager", "folded") else None,
            busy=bench.clock.busy(call), flushed=passes[name].flushed, warm=samples.warm, seconds=seconds[name],
        )  # fmt: skip


def _probed(model: VGG, cell: Cell, schedule: Schedule, bench: Bench) -> tuple[Step, ...]:
    def ready(network: VGG) -> Call:
        return prepare(network, cell, bench.device, schedule.ring(bench), bench.cuda, bench.threads).call

    try:
        with _arithmetic(cell):
            if cell.mode in ("eager", "folded"):
                return tuple(probe_layers(model.spec, cell, bench.device, bench.quick))
            return tuple(probe_network(model.spec, ready, bench.clock))
    except Unavailable:
        return ()
    finally:
        torch.compiler.reset()


def _about(model: VGG) -> dict[str, Any]:
    """What the rules and the report need to know of a model."""
    zeros = layer_sparsity(model)
    kept = sum((1 - zeros[row.name]) * row.weights for row in model.spec.rows)
    return {
        "spec": model.spec.to_dict(),
        "macs": model.spec.macs(),
        "params": model.spec.params(),
        "density": kept / sum(row.weights for row in model.spec.rows),
    }


def _arithmetic(cell: Cell) -> Any:
    return fp32_arithmetic(tf32=cell.dtype == "tf32", deterministic=False)


def _flags(cell: Cell) -> dict[str, Any]:
    with _arithmetic(cell):
        return fp32_flags()


@contextmanager
def _threads(bench: Bench) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(bench.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
