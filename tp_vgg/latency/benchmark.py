"""What a pruned network's forward pass takes, beside the dense one's: measured in turns, with an A/A control, and explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tp_vgg.errors import BadInput
from tp_vgg.latency.interleave import Throttled, interleave
from tp_vgg.latency.modes import PreparedForward, Unavailable, check_available, prepare
from tp_vgg.latency.probes import busy_of, free_memory_after_case, steps_of
from tp_vgg.latency.schedule import SIMPLE, BenchmarkSettings, arithmetic, why_not
from tp_vgg.latency.table import (
    BATCH_SIZES,
    MODES,
    BenchmarkCase,
    Latency,
    LatencyRow,
    Ratio,
    cases_of,
)
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.latency.traffic import Memory
from tp_vgg.latency.verdicts import ZEROS, explain, verdict
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.precision import fp32_flags
from tp_vgg.network.count import layer_sparsity
from tp_vgg.network.network import Network
from tp_vgg.stats import quartiles

_CONTROL, _EAGER = "control", "dense in eager mode"
_MODEL = "model "
"""Before a model's name among the sides of a case, so that no name that a user gives meets the other two."""
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} cases [{elapsed}]"


def measure_latency(
    models: Mapping[str, Network],
    *,
    modes: Sequence[str] = MODES,
    dtypes: Sequence[str] = ("fp32", "bf16"),
    batch_sizes: Sequence[int] = BATCH_SIZES,
    trials: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    probes: bool = True,
    quiet: bool = True,
) -> Latency:
    """Forward-pass times of ``models``, the first of which is the dense one that the others are compared with.

    Each case (mode, dtype, batch) times all models, a copy of the dense one and the dense one in eager mode in the same blocks; see
    :mod:`tp_vgg.latency.interleave`. A case that the device lacks comes back as rows that say why. ``probes``: look, for the rows that
    are quoted and fall short, for slightly smaller widths that would be faster (:func:`tp_vgg.latency.probes.steps_of`). Raises :class:`BadInput` for no models, or for
    networks that do not take the same images, or for a mode, dtype or number that can't be.
    """
    schedule = BenchmarkSettings(cases_of(modes, dtypes, batch_sizes), trials, probes=probes)
    return measure(models, schedule, TimingDevice.of(pick_device(device), threads), quiet=quiet)


def check_models(models: Mapping[str, Network]) -> None:
    """Raise :class:`BadInput` unless there are models, and they take the same images."""
    if not models or len({model.spec.image_size for model in models.values()}) > 1:
        raise BadInput("give one or more models, all for images of one size")


def measure(
    models: Mapping[str, Network],
    schedule: BenchmarkSettings,
    timing_device: TimingDevice,
    *,
    known: Mapping[BenchmarkCase, tuple[LatencyRow, ...]] | None = None,
    done: Callable[[tuple[LatencyRow, ...]], object] = lambda _: None,
    quiet: bool = True,
) -> Latency:
    """:func:`measure_latency` on a ``timing_device``; ``known`` cases are not measured again, and each new one is handed to ``done``."""
    check_models(models)
    known = known or {}
    about = _about_all(models)
    timed = {name: model for name, model in models.items() if "timed_as" not in about[name]}
    conditions = _conditions(schedule, timing_device)
    rows: list[LatencyRow] = []
    with (
        timing_device.at_work(),
        progress_bar(
            "benchmark", unit="case", quiet=quiet, total=len(schedule.cases), bar_format=_BAR
        ) as bar,
    ):
        conditions["bandwidth"] = bandwidth = timing_device.bandwidth()
        for place, case in enumerate(schedule.cases):
            bar.set_description(case.label)
            if case in known:
                rows += known[case]
            else:
                conditions["before_each"][case.label] = timing_device.clock.conditions()
                found = {
                    row.model: row
                    for row in _measure_case(timed, case, schedule, timing_device, bar.update)
                }
                measured = tuple(
                    replace(found[about[name].get("timed_as", name)], model=name) for name in models
                )
                conditions["after"][case.label] = timing_device.clock.conditions()
                free_memory_after_case()
                done(measured)
                rows += measured
            bar.update(place + 1 - bar.n)
        steps = steps_of(rows, models, schedule, timing_device, bar.set_description)
        if (
            timing_device.cuda is not None
        ):  # at the end, so that nothing is timed where a profiler has been attached
            rows = [
                replace(row, busy=busy_of(models[row.model], row.case, timing_device))
                for row in rows
            ]
    return Latency(
        reference=next(iter(models)),
        models=about,
        environment=timing_device.environment,
        conditions=conditions,
        rows=explain(
            rows,
            about,
            Memory(bandwidth, conditions["cache_bytes"]),
            steps,
            cuda=timing_device.cuda is not None,
        ),
    )


def _conditions(schedule: BenchmarkSettings, timing_device: TimingDevice) -> dict[str, Any]:
    """What is known before anything is measured; see :class:`Latency`."""
    return {
        "hot": schedule.reuse_input,
        "probes": schedule.probes,
        "flags": {case.dtype: _flags(case) for case in schedule.cases},
        "cache_bytes": timing_device.clock.cache_bytes(),
        "before": timing_device.clock.conditions(),
        "before_each": {},
        "after": {},
    }


def _measure_case(
    models: Mapping[str, Network],
    case: BenchmarkCase,
    schedule: BenchmarkSettings,
    timing_device: TimingDevice,
    tick: Callable[[float], object],
) -> tuple[LatencyRow, ...]:
    try:
        check_available(case, timing_device.cuda)
        with arithmetic(case), torch.inference_mode():
            passes = _passes(models, case, schedule, timing_device)
            return tuple(_rows(models, case, passes, schedule, timing_device, tick))
    except (Unavailable, RuntimeError, MemoryError) as error:
        why, slow = why_not(error), error.slow if isinstance(error, Throttled) else 0
        return tuple(
            LatencyRow(
                name,
                case.mode,
                case.dtype,
                case.batch_size,
                "not available",
                (why,),
                slow_blocks=slow,
            )
            for name in models
        )


def _passes(
    models: Mapping[str, Network],
    case: BenchmarkCase,
    schedule: BenchmarkSettings,
    timing_device: TimingDevice,
) -> dict[str, PreparedForward]:
    reference = next(iter(models.values()))
    wanted = [
        *((_MODEL + name, model, case) for name, model in models.items()),
        (_CONTROL, reference, case),
    ]
    if case.mode != "eager":
        wanted.append((_EAGER, reference, replace(case, mode="eager")))
    rings = {
        how: schedule.input_pool(reference, how, timing_device)
        for how in {how for _, _, how in wanted}
    }
    return {
        name: prepare(model, how, rings[how], timing_device.cuda, timing_device.threads)
        for name, model, how in wanted
    }


def _rows(
    models: Mapping[str, Network],
    case: BenchmarkCase,
    passes: Mapping[str, PreparedForward],
    schedule: BenchmarkSettings,
    timing_device: TimingDevice,
    tick: Callable[[float], object],
) -> Iterator[LatencyRow]:
    samples = interleave(
        {name: made.call for name, made in passes.items()},
        timing_device.clock,
        schedule.trials,
        tick=tick,
    )
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
            model=name, mode=case.mode, dtype=case.dtype, batch_size=case.batch_size,
            verdict="reference" if name == reference else verdict(ratio, control), reasons=(),
            median_ms=1e3 * middle, iqr_ms=1e3 * (high - low),
            speedup=ratio.value, speedup_low=ratio.low, speedup_high=ratio.high,
            over_eager=quartiles([a / b for a, b in zip(eager, seconds, strict=True)])[1],
            mac_ratio=macs, efficiency=ratio.value / macs, efficiency_low=ratio.low / macs, efficiency_high=ratio.high / macs,
            peak_bytes=timing_device.clock.peak_bytes(made.call, made.held) if case.mode in SIMPLE else None,
            flushed=made.flushed, warm=samples.warm, slow_blocks=samples.slow, seconds=seconds,
        )  # fmt: skip


def _about_all(models: Mapping[str, Network]) -> dict[str, dict[str, Any]]:
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


def _about(model: Network) -> dict[str, Any]:
    zeros = layer_sparsity(model)
    kept = sum((1 - zeros[row.name]) * row.weights for row in model.spec.rows)
    return {
        "spec": model.spec.to_dict(),
        "macs": model.spec.macs(),
        "params": model.spec.params(),
        "density": kept / sum(row.weights for row in model.spec.rows),
    }


def _flags(case: BenchmarkCase) -> dict[str, Any]:
    with arithmetic(case):
        return fp32_flags()
