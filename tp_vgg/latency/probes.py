"""What is asked of cases after all timing, to explain it: would slightly smaller widths be faster, and how busy was the GPU?"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

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
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.memory import release_memory
from tp_vgg.network.families import build_network
from tp_vgg.network.layers import LayerRow
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec


def steps_of(
    rows: Sequence[LatencyRow],
    models: Mapping[str, Network],
    schedule: BenchmarkSettings,
    timing_device: TimingDevice,
    note: Callable[[str], object] = lambda _: None,
) -> dict[tuple[str, BenchmarkCase], tuple[WidthStep, ...]]:
    """By model and case, the steps that were probed; networks of the same widths share them.

    A probe takes longer than timing a case. It is made only for rows that fall short of their MACs and that are quoted
    (:func:`~tp_vgg.latency.quoted.is_quoted`), and for none where the schedule says so. ``note`` is told what is under way.
    """
    of_widths: dict[tuple[Spec, BenchmarkCase], tuple[WidthStep, ...]] = {}
    steps = {}
    for row in rows if schedule.probes else ():
        if needs_reason(row) and is_quoted(row, rows, next(iter(models))):
            asked = models[row.model].spec, row.case
            if asked not in of_widths:
                note(f"steps of {row.model}, {row.case.label}")
                of_widths[asked] = _probed(models[row.model], row.case, schedule, timing_device)
                free_memory_after_case()
            steps[row.model, row.case] = of_widths[asked]
    return steps


def busy_of(model: Network, case: BenchmarkCase, timing_device: TimingDevice) -> float | None:
    """Share of the wall time in which the GPU works, of the modes that are made ready in no time; a graph has no launches to wait for."""
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
    """After a case, whose networks nothing refers to any more."""
    with warnings.catch_warnings(
        action="ignore"
    ):  # it imports the compiler, which may warn of its own parts
        torch.compiler.reset()
    release_memory()


def _probed(
    model: Network, case: BenchmarkCase, schedule: BenchmarkSettings, timing_device: TimingDevice
) -> tuple[WidthStep, ...]:
    def ready(network: Network) -> Call:
        return prepare(
            network,
            case,
            schedule.input_pool(network, case, timing_device),
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
"""Widths at which kernels step: vectors of a CPU, tiles of a tensor core."""
NEAR = 0.85
"""A lower width is just below from this share of the width on."""


def probe_layers(
    spec: Spec,
    case: BenchmarkCase,
    device: torch.device,
    clock: Clock,
    trials: int = FEW_TRIALS,
    cuda: CudaCalls | None = None,
) -> Iterator[WidthStep]:
    """Whether a conv of ``spec`` lies just above a step: its time, with the conv that reads it, at its width and at the multiples
    of 8, 16, 32 and 64 just below, in turns. Yields the best of each layer that has any such width. ``cuda``: as in :func:`~tp_vgg.latency.staircase.profile_layer`."""
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
        found = [
            WidthStep(
                f"{row.name} at {width} channels instead of {row.out_width}",
                row.out_width / width,
                Ratio.of(timed[str(row.out_width)], timed[str(width)]),
                "its time and that of the conv behind it" if after else "its time",
            )
            for width in lower
        ]
        yield max(found, key=lambda step: (step.found, step.gain.low / step.worth))


def probe_network(
    spec: Spec, ready: Callable[[Network], Call], clock: Clock, trials: int = FEW_TRIALS
) -> Iterator[WidthStep]:
    """The same of a whole network, for modes that can't run a conv alone: beside one whose convs have the multiples of 16 below.
    ``ready``: a network to a call. Yields nothing for widths that are such multiples, or under 16."""
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
    """The widths just below ``width`` at which kernels step, rising; none for a width at which they do."""
    below = {width - width % multiple for multiple in MULTIPLES if width % multiple}
    return tuple(sorted(w for w in below if w and w >= NEAR * width))


def _pair(row: LayerRow, after: LayerRow | None, width: int) -> list[tuple[int, int, int, bool]]:
    first = (row.in_width, width, row.side, after is not None and after.side < row.side)
    return [first] if after is None else [first, (width, after.out_width, after.side, False)]
