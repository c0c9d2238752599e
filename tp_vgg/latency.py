"""What a pruned network's forward pass takes, beside the dense one's: measured in turns, with an A/A control, and explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tp_vgg.bench import Bench
from tp_vgg.clocks import Call
from tp_vgg.device import fp32_arithmetic, fp32_flags, pick_device, release_memory
from tp_vgg.errors import BadInput, out_of_memory
from tp_vgg.interleave import interleave
from tp_vgg.latencies import BATCH_SIZES, FEWEST_TRIALS, MODES, Cell, Latency, LatencyRow, Ratio, cells_of
from tp_vgg.model import VGG
from tp_vgg.modes import Pass, Ring, Unavailable, check_available, prepare, ring_of
from tp_vgg.spec import VGGSpec
from tp_vgg.staircase import probe_layers, probe_network
from tp_vgg.stats import quartiles
from tp_vgg.unstructured import layer_sparsity
from tp_vgg.verdicts import ZEROS, Step, explain, needs_reason, verdict

_CONTROL, _EAGER = "control", "dense in eager mode"
_MODEL = "model "
"""Before a model's name among the sides of a cell, so that no name that a user gives meets the other two."""
_SIMPLE = ("eager", "folded")
"""Modes that run a network's own operators one by one."""
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} cells [{elapsed}]"


@dataclass(frozen=True)
class Schedule:
    """What to measure."""

    cells: tuple[Cell, ...]
    trials: int | None = None
    """Blocks; ``None`` for what :func:`~tp_vgg.interleave.interleave` does."""
    hot: bool = False
    """Every pass on one input, which stays in the cache, instead of a ring larger than it."""

    def ring(self, model: VGG, cell: Cell, bench: Bench) -> Ring:
        """The inputs of a cell."""
        size = 0 if self.hot else 2 * bench.clock.cache_bytes()
        return ring_of(model.spec.image_size, cell, bench.device, size)

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
    about = _about_all(models)
    timed = {name: model for name, model in models.items() if "timed_as" not in about[name]}
    conditions: dict[str, Any] = {
        "hot": schedule.hot, "flags": {cell.dtype: _flags(cell) for cell in schedule.cells}, "before": bench.clock.conditions(), "after": {},
    }  # fmt: skip
    rows: list[LatencyRow] = []
    with bench.at_work(), tqdm(total=len(schedule.cells), unit="cell", disable=quiet or None, bar_format=_BAR) as bar:
        conditions["bandwidth"] = bandwidth = bench.bandwidth()
        for place, cell in enumerate(schedule.cells):
            bar.set_description(cell.label)
            if cell in known:
                rows += known[cell]
            else:
                found = {row.model: row for row in _measure_cell(timed, cell, schedule, bench, bar.update)}
                measured = tuple(replace(found[about[name].get("timed_as", name)], model=name) for name in models)
                conditions["after"][cell.label] = bench.clock.conditions()
                _let_go()
                done(measured)
                rows += measured
            bar.update(place + 1 - bar.n)
        of_widths: dict[tuple[VGGSpec, Cell], tuple[Step, ...]] = {}
        steps = {}
        for row in filter(needs_reason, rows):
            asked = models[row.model].spec, row.cell
            if asked not in of_widths:
                bar.set_description(f"steps of {row.model}, {row.cell.label}")
                of_widths[asked] = _probed(models[row.model], row.cell, schedule, bench)
                _let_go()
            steps[row.model, row.cell] = of_widths[asked]
        if bench.cuda is not None:  # at the end, so that nothing is timed where a profiler has been attached
            rows = [replace(row, busy=_busy(models[row.model], row.cell, bench)) for row in rows]
    return Latency(
        reference=next(iter(models)),
        models=about,
        environment=bench.environment,
        conditions=conditions,
        rows=explain(rows, about, bandwidth, steps),
    )


def _measure_cell(
    models: Mapping[str, VGG], cell: Cell, schedule: Schedule, bench: Bench, tick: Callable[[float], object]
) -> tuple[LatencyRow, ...]:
    try:
        check_available(cell, bench.cuda)
        with _arithmetic(cell), torch.inference_mode():
            passes = _passes(models, cell, schedule, bench)
            return tuple(_rows(models, cell, passes, schedule, bench, tick))
    except (Unavailable, RuntimeError, MemoryError) as error:
        why = _why_not(error)
        return tuple(
            LatencyRow(name, cell.mode, cell.dtype, cell.batch_size, "not available", (why,)) for name in models
        )


def _why_not(error: Exception) -> str:
    """What a row says of a failure that is not a fault; raises the others."""
    if isinstance(error, Unavailable):
        return str(error)
    if out_of_memory(error):
        return "out of memory"
    raise error


def _let_go() -> None:
    """After a cell, whose networks nothing refers to any more."""
    torch.compiler.reset()
    release_memory()


def _passes(models: Mapping[str, VGG], cell: Cell, schedule: Schedule, bench: Bench) -> dict[str, Pass]:
    reference = next(iter(models.values()))
    wanted = [*((_MODEL + name, model, cell) for name, model in models.items()), (_CONTROL, reference, cell)]
    if cell.mode != "eager":
        wanted.append((_EAGER, reference, replace(cell, mode="eager")))
    rings = {how: schedule.ring(reference, how, bench) for how in {how for _, _, how in wanted}}
    return {name: prepare(model, how, rings[how], bench.cuda, bench.threads) for name, model, how in wanted}


def _rows(
    models: Mapping[str, VGG],
    cell: Cell,
    passes: Mapping[str, Pass],
    schedule: Schedule,
    bench: Bench,
    tick: Callable[[float], object],
) -> Iterator[LatencyRow]:
    samples = interleave({name: made.call for name, made in passes.items()}, bench.clock, schedule.trials, tick=tick)
    reference, dense = next(iter(models.items()))
    of_dense = samples.seconds[_MODEL + reference]
    control = Ratio.of(of_dense, samples.seconds[_CONTROL])
    eager = samples.seconds.get(_EAGER, of_dense)
    for name, model in models.items():
        made, seconds = passes[_MODEL + name], samples.seconds[_MODEL + name]
        low, middle, high = quartiles(seconds)
        ratio = control if name == reference else Ratio.of(of_dense, seconds)
        macs = dense.spec.macs() / model.spec.macs()
        yield LatencyRow(
            model=name, mode=cell.mode, dtype=cell.dtype, batch_size=cell.batch_size,
            verdict="reference" if name == reference else verdict(ratio, control), reasons=(),
            median_ms=1e3 * middle, iqr_ms=1e3 * (high - low),
            speedup=ratio.value, speedup_low=ratio.low, speedup_high=ratio.high,
            over_eager=quartiles([a / b for a, b in zip(eager, seconds, strict=True)])[1],
            mac_ratio=macs, efficiency=ratio.value / macs, efficiency_low=ratio.low / macs, efficiency_high=ratio.high / macs,
            peak_bytes=bench.clock.peak_bytes(made.call, made.held) if cell.mode in _SIMPLE else None,
            flushed=made.flushed, warm=samples.warm, seconds=seconds,
        )  # fmt: skip


def _probed(model: VGG, cell: Cell, schedule: Schedule, bench: Bench) -> tuple[Step, ...]:
    def ready(network: VGG) -> Call:
        return prepare(network, cell, schedule.ring(network, cell, bench), bench.cuda, bench.threads).call

    try:
        with _arithmetic(cell):
            if cell.mode in _SIMPLE:
                return tuple(probe_layers(model.spec, cell, bench.device, bench.quick))
            return tuple(probe_network(model.spec, ready, bench.clock))
    except (Unavailable, RuntimeError, MemoryError) as error:
        _why_not(error)
        return ()


def _busy(model: VGG, cell: Cell, bench: Bench) -> float | None:
    """Of the modes that are made ready in no time; a graph has no launches to wait for."""
    if cell.mode not in _SIMPLE:
        return None
    try:
        with _arithmetic(cell), torch.inference_mode():
            check_available(cell, bench.cuda)
            ring = ring_of(model.spec.image_size, cell, bench.device, 0)
            return bench.clock.busy(prepare(model, cell, ring, bench.cuda, bench.threads).call)
    except (Unavailable, RuntimeError, MemoryError) as error:
        _why_not(error)
        return None


def _about_all(models: Mapping[str, VGG]) -> dict[str, dict[str, Any]]:
    """What the rules and the report need to know of each model. Beside the dense one, networks of the same widths without zeros differ in nothing that
    a dense kernel's time could depend on: the first stands for the others (``timed_as``)."""
    _, *others = models
    found = {name: _about(model) for name, model in models.items()}
    first: dict[str, str] = {}
    for name in others:
        if found[name]["density"] > 1 - ZEROS:
            other = first.setdefault(str(found[name]["spec"]), name)
            found[name] |= {"timed_as": other} if other != name else {}
    return found


def _about(model: VGG) -> dict[str, Any]:
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
