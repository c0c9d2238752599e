"""After all timing, probes test if smaller widths would be faster and how busy the GPU was."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from tp_vgg.latency.clock import Clock
from tp_vgg.latency.cuda import CudaCalls
from tp_vgg.latency.interleave import interleave
from tp_vgg.latency.modes import Unavailable, check_available, input_pool, prepare
from tp_vgg.latency.quoted import is_quoted
from tp_vgg.latency.schedule import SIMPLE, BenchmarkSettings, arithmetic, why_not
from tp_vgg.latency.staircase import conv_call, random_images, without_launches
from tp_vgg.latency.table import FEW_TRIALS, BenchmarkCase, LatencyRow, Ratio
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.latency.verdicts import WidthStep, needs_reason
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.memory import release_memory
from tp_vgg.network.families import build_network
from tp_vgg.network.layers import LayerRow
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} probes [{elapsed}]"


def steps_of(
    rows: Sequence[LatencyRow],
    models: Mapping[str, Network],
    settings: BenchmarkSettings,
    timing_device: TimingDevice,
    quiet: bool = True,
) -> dict[tuple[str, BenchmarkCase], tuple[WidthStep, ...]]:
    """Probe smaller widths; return the width steps by model and case.

    A probe takes longer than timing a case. So it is made only for rows that fall short of their
    MAC ratio (:func:`~tp_vgg.latency.verdicts.needs_reason`) and may be quoted
    (:func:`~tp_vgg.latency.quoted.is_quoted`), and for none if ``settings.probes`` is false.
    Networks of equal widths share one probe. Unless ``quiet``, a progress bar counts the probes.
    """
    by_widths: dict[tuple[Spec, BenchmarkCase], tuple[WidthStep, ...]] = {}
    probed = [
        row
        for row in (rows if settings.probes else ())
        if needs_reason(row) and is_quoted(row, rows, next(iter(models)))
    ]
    keys = {(row.model, row.case): (models[row.model].spec, row.case) for row in probed}
    total = len(set(keys.values()))
    options: dict[str, Any] = {"total": total, "leave": False, "bar_format": _BAR}
    with progress_bar("probes" if total else "", unit="probe", quiet=quiet, **options) as bar:
        for (name, case), key in keys.items():
            if key not in by_widths:
                bar.set_description(f"smaller widths of {name}, {case.label}")
                by_widths[key] = _probed(models[name], case, settings, timing_device)
                free_memory_after_case()
                bar.update()
    return {place: by_widths[key] for place, key in keys.items()}


def busy_of(model: Network, case: BenchmarkCase, timing_device: TimingDevice) -> float | None:
    """Measure the fraction of the wall time in which the GPU works, in [0, 1].

    Only eager and folded mode are measured: they are quick to prepare, and in a graph the GPU does
    not wait for launches. ``None`` for other modes, or if the measurement is not possible.
    """
    if case.mode not in SIMPLE:
        return None
    try:
        with arithmetic(case), torch.inference_mode():
            check_available(case, timing_device.cuda)
            pool = input_pool(model.spec.image_size, case, timing_device.device, 0)
            return timing_device.clock.busy(
                prepare(model, case, pool, timing_device.cuda, timing_device.threads).call
            )
    except (Unavailable, RuntimeError, MemoryError) as error:
        why_not(error)
        return None


def free_memory_after_case() -> None:
    """Free the memory of the networks of a finished case, and what torch.compile cached of them."""
    # The reset imports the compiler, which may warn about its own modules.
    with warnings.catch_warnings(action="ignore"):
        torch.compiler.reset()
    release_memory()


def _probed(
    model: Network, case: BenchmarkCase, settings: BenchmarkSettings, timing_device: TimingDevice
) -> tuple[WidthStep, ...]:
    """Probe one model in one case; return no step if the case can't be measured."""

    def ready(network: Network) -> Call:
        return prepare(
            network,
            case,
            settings.input_pool(network, case, timing_device),
            timing_device.cuda,
            timing_device.threads,
        ).call

    try:
        with arithmetic(case):
            if case.mode in SIMPLE:
                return tuple(
                    probe_layers(
                        model.spec,
                        case,
                        timing_device.device,
                        timing_device.quick,
                        cuda=timing_device.cuda,
                    )
                )
            return tuple(probe_network(model.spec, ready, timing_device.clock))
    except (Unavailable, RuntimeError, MemoryError) as error:
        why_not(error)
        return ()


MULTIPLES = (8, 16, 32, 64)
"""The time of a kernel steps at multiples of these widths: CPU vectors, tensor core tiles."""
NEAR = 0.85
"""Smaller widths are probed down to this fraction of the present width."""


def probe_layers(
    spec: Spec,
    case: BenchmarkCase,
    device: torch.device,
    clock: Clock,
    trials: int = FEW_TRIALS,
    cuda: CudaCalls | None = None,
) -> Iterator[WidthStep]:
    """Time each conv of ``spec`` at its width and at slightly smaller ones; yield its best step.

    The smaller widths are the multiples of 8, 16, 32 and 64 just below (:func:`lower_widths`). A
    conv is timed together with the conv that reads it, at all widths in the same blocks. A layer
    without such a width is left out. ``cuda`` is as in
    :func:`~tp_vgg.latency.staircase.profile_layer`.
    """
    convs = [row for row in spec.rows if row.kind == "conv"]
    for row, after in itertools.pairwise([*convs, None]):
        assert row is not None
        lower = lower_widths(row.out_width)
        if not lower:
            continue
        images = random_images(row.in_width, row.side, case, device)
        calls = {
            width: conv_call(_pair(row, after, width), images, case)
            for width in (row.out_width, *lower)
        }
        timed = without_launches(
            {str(w): call for w, call in calls.items()}, clock, cuda, trials, warm_up=(1, 3)
        )
        steps = [
            WidthStep(
                f"{row.name} at {width} channels instead of {row.out_width}",
                row.out_width / width,
                Ratio.of(timed[str(row.out_width)], timed[str(width)]),
                "its time and that of the conv behind it" if after else "its time",
            )
            for width in lower
        ]
        yield max(steps, key=lambda step: (step.is_large, step.gain.low / step.mac_ratio))


def probe_network(
    spec: Spec, ready: Callable[[Network], Call], clock: Clock, trials: int = FEW_TRIALS
) -> Iterator[WidthStep]:
    """Time a network of ``spec`` and one whose convs have the next multiples of 16 below.

    This is for modes that can't run a conv alone. ``ready`` turns a network into a call that runs
    it. Yields one step, or none if all widths are multiples of 16 or one is below 16.
    """
    lower = {
        row.name: row.out_width - row.out_width % 16 for row in spec.rows if row.kind == "conv"
    }
    changed = {name: width for name, width in lower.items() if width != spec.prunable[name]}
    if not changed or not all(changed.values()):
        return
    target = spec.with_widths(changed)
    with torch.inference_mode():
        candidates = {
            "as it is": ready(build_network(spec).eval()),
            "lower": ready(build_network(target).eval()),
        }
        timed = interleave(candidates, clock, trials).seconds
    names = ", ".join(
        f"{name} at {width} channels instead of {spec.prunable[name]}"
        for name, width in changed.items()
    )
    yield WidthStep(
        names,
        spec.macs() / target.macs(),
        Ratio.of(timed["as it is"], timed["lower"]),
        "the network's time",
    )


def lower_widths(width: int) -> tuple[int, ...]:
    """Return the widths just below ``width`` at which its kernels may step, rising.

    For each of 8, 16, 32 and 64 that does not divide ``width``, that is the largest multiple below.
    Widths under :data:`NEAR` of it are left out.
    """
    below = {width - width % multiple for multiple in MULTIPLES if width % multiple}
    return tuple(sorted(w for w in below if w and w >= NEAR * width))


def _pair(row: LayerRow, after: LayerRow | None, width: int) -> list[tuple[int, int, int, bool]]:
    """Return ``row`` at ``width`` output channels and the conv that reads it, for conv_call."""
    first = (row.in_width, width, row.side, after is not None and after.side < row.side)
    return [first] if after is None else [first, (width, after.out_width, after.side, False)]
