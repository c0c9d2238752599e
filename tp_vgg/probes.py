"""What is asked of cells after all timing, to explain it: would slightly smaller widths be faster, and how busy was the GPU?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch

from tp_vgg.bench import Bench
from tp_vgg.cuda_graph import Call
from tp_vgg.device import release_memory
from tp_vgg.latencies import Cell, LatencyRow
from tp_vgg.model import VGG
from tp_vgg.modes import Unavailable, check_available, prepare, ring_of
from tp_vgg.quoted import is_quoted
from tp_vgg.schedule import SIMPLE, Schedule, arithmetic, why_not
from tp_vgg.spec import VGGSpec
from tp_vgg.staircase import probe_layers, probe_network
from tp_vgg.verdicts import Step, needs_reason


def steps_of(
    rows: Sequence[LatencyRow],
    models: Mapping[str, VGG],
    schedule: Schedule,
    bench: Bench,
    note: Callable[[str], object] = lambda _: None,
) -> dict[tuple[str, Cell], tuple[Step, ...]]:
    """By model and cell, the steps that were probed; networks of the same widths share them.

    A probe takes longer than timing a cell. It is made only for rows that fall short of their MACs and that are quoted
    (:func:`~tp_vgg.quoted.is_quoted`), and for none where the schedule says so. ``note`` is told what is under way.
    """
    of_widths: dict[tuple[VGGSpec, Cell], tuple[Step, ...]] = {}
    steps = {}
    for row in rows if schedule.probes else ():
        if needs_reason(row) and is_quoted(row, rows, next(iter(models))):
            asked = models[row.model].spec, row.cell
            if asked not in of_widths:
                note(f"steps of {row.model}, {row.cell.label}")
                of_widths[asked] = _probed(models[row.model], row.cell, schedule, bench)
                let_go()
            steps[row.model, row.cell] = of_widths[asked]
    return steps


def busy_of(model: VGG, cell: Cell, bench: Bench) -> float | None:
    """Share of the wall time in which the GPU works, of the modes that are made ready in no time; a graph has no launches to wait for."""
    if cell.mode not in SIMPLE:
        return None
    try:
        with arithmetic(cell), torch.inference_mode():
            check_available(cell, bench.cuda)
            ring = ring_of(model.spec.image_size, cell, bench.device, 0)
            return bench.clock.busy(prepare(model, cell, ring, bench.cuda, bench.threads).call)
    except (Unavailable, RuntimeError, MemoryError) as error:
        why_not(error)
        return None


def let_go() -> None:
    """After a cell, whose networks nothing refers to any more."""
    with warnings.catch_warnings(action="ignore"):  # it imports the compiler, which may warn of its own parts
        torch.compiler.reset()
    release_memory()


def _probed(model: VGG, cell: Cell, schedule: Schedule, bench: Bench) -> tuple[Step, ...]:
    def ready(network: VGG) -> Call:
        return prepare(network, cell, schedule.ring(network, cell, bench), bench.cuda, bench.threads).call

    try:
        with arithmetic(cell):
            if cell.mode in SIMPLE:
                return tuple(probe_layers(model.spec, cell, bench.device, bench.quick, cuda=bench.cuda))
            return tuple(probe_network(model.spec, ready, bench.clock))
    except (Unavailable, RuntimeError, MemoryError) as error:
        why_not(error)
        return ()
