"""All candidates of one case are prepared, timed in turns, and put into a row per model.

The candidates are the models, a copy of the dense one as an A/A control, and the dense one in eager
mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from tp_vgg.latency.interleave import Throttled, interleave
from tp_vgg.latency.modes import PreparedForward, Unavailable, check_available, prepare
from tp_vgg.latency.schedule import SIMPLE, BenchmarkSettings, arithmetic, why_not
from tp_vgg.latency.table import BenchmarkCase, LatencyRow, Ratio
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.latency.verdicts import verdict
from tp_vgg.network.network import Network
from tp_vgg.stats import quartiles

_CONTROL, _EAGER = "control", "dense in eager mode"
_MODEL = "model "
"""Prefix of a model's name among the candidates of a case, so that no name that a user gives equals
:data:`_CONTROL` or :data:`_EAGER`."""


def measure_case(
    models: Mapping[str, Network],
    case: BenchmarkCase,
    settings: BenchmarkSettings,
    timing_device: TimingDevice,
    tick: Callable[[float], object],
) -> tuple[LatencyRow, ...]:
    """Measure one case; return a row per model, with the reason if the case is not available.

    ``tick`` is called after each block with its fraction of the case.
    """
    try:
        check_available(case, timing_device.cuda)
        with arithmetic(case), torch.inference_mode():
            forwards = _prepare_all(models, case, settings, timing_device)
            return tuple(_rows(models, case, forwards, settings, timing_device, tick))
    except (Unavailable, RuntimeError, MemoryError) as error:
        reason = why_not(error)
        slow = error.slow if isinstance(error, Throttled) else 0
        return tuple(
            LatencyRow(
                name,
                case.mode,
                case.dtype,
                case.batch_size,
                "not available",
                (reason,),
                slow_blocks=slow,
            )
            for name in models
        )


def _prepare_all(
    models: Mapping[str, Network],
    case: BenchmarkCase,
    settings: BenchmarkSettings,
    timing_device: TimingDevice,
) -> dict[str, PreparedForward]:
    """Prepare all candidates of a case: the models, the A/A control, the dense model in eager mode.

    Candidates of the same mode share one input pool.
    """
    reference = next(iter(models.values()))
    candidates = [
        *((_MODEL + name, model, case) for name, model in models.items()),
        (_CONTROL, reference, case),
    ]
    if case.mode != "eager":
        candidates.append((_EAGER, reference, replace(case, mode="eager")))
    pools = {
        its_case: settings.input_pool(reference, its_case, timing_device)
        for its_case in {its_case for _, _, its_case in candidates}
    }
    return {
        name: prepare(model, its_case, pools[its_case], timing_device.cuda, timing_device.threads)
        for name, model, its_case in candidates
    }


def _rows(
    models: Mapping[str, Network],
    case: BenchmarkCase,
    forwards: Mapping[str, PreparedForward],
    settings: BenchmarkSettings,
    timing_device: TimingDevice,
    tick: Callable[[float], object],
) -> Iterator[LatencyRow]:
    """Time the prepared candidates of a case in turns; yield a row for each model."""
    samples = interleave(
        {name: forward.call for name, forward in forwards.items()},
        timing_device.clock,
        settings.trials,
        tick=tick,
    )
    reference, dense = next(iter(models.items()))
    of_dense = samples.seconds[_MODEL + reference]
    control = Ratio.of(of_dense, samples.seconds[_CONTROL])
    eager = samples.seconds.get(_EAGER, of_dense)
    for name, model in models.items():
        forward, seconds = forwards[_MODEL + name], samples.seconds[_MODEL + name]
        low, middle, high = quartiles(seconds)
        ratio = control if name == reference else Ratio.of(of_dense, seconds)
        mac_ratio = dense.spec.macs() / model.spec.macs()
        simple = case.mode in SIMPLE
        peak = (
            timing_device.clock.peak_bytes(forward.call, forward.resident_bytes) if simple else None
        )
        yield LatencyRow(
            model=name, mode=case.mode, dtype=case.dtype, batch_size=case.batch_size,
            verdict="reference" if name == reference else verdict(ratio, control), reasons=(),
            median_ms=1e3 * middle, iqr_ms=1e3 * (high - low),
            speedup=ratio.value, speedup_low=ratio.low, speedup_high=ratio.high,
            over_eager=quartiles([a / b for a, b in zip(eager, seconds, strict=True)])[1],
            mac_ratio=mac_ratio, efficiency=ratio.value / mac_ratio,
            efficiency_low=ratio.low / mac_ratio, efficiency_high=ratio.high / mac_ratio,
            peak_bytes=peak, flushed=forward.flushed, warm=samples.warm,
            slow_blocks=samples.slow, seconds=seconds,
        )  # fmt: skip
