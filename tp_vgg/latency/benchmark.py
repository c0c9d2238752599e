"""The benchmark times the forward passes of pruned networks and of the dense one.

They are timed in turns, with a copy of the dense network as an A/A control. Fixed rules explain the
result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.checks import (
    mapping,
    plain_number,
    sequence,
    text,
    true_or_false,
    whole_number,
)
from tp_vgg.latency.probes import busy_of, free_memory_after_case, steps_of
from tp_vgg.latency.schedule import BenchmarkSettings, arithmetic
from tp_vgg.latency.table import (
    BATCH_SIZES,
    FEWEST_TRIALS,
    MODES,
    BenchmarkCase,
    Latency,
    LatencyRow,
    cases_of,
)
from tp_vgg.latency.timed_case import measure_case
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.latency.traffic import Memory
from tp_vgg.latency.verdicts import ZEROS, explain
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.precision import fp32_flags
from tp_vgg.network.count import layer_sparsity
from tp_vgg.network.doors import check_built, network_of, unmasked_network
from tp_vgg.network.masks import has_masks
from tp_vgg.network.network import Network
from tp_vgg.network.plain_copy import plain_copy

MOST_TRIALS, MOST_THREADS = 100_000, 4096
"""Largest numbers that are taken for meant."""
_BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} cases [{elapsed}]"


def measure_latency(
    models: Mapping[str, Network],
    *,
    modes: Sequence[str] = MODES,
    dtypes: Sequence[str] = ("fp32", "bf16"),
    batch_sizes: Sequence[int] | None = None,
    trials: int | None = None,
    device: str | torch.device = "auto",
    threads: int | None = None,
    probes: bool = True,
    quiet: bool = True,
) -> Latency:
    """Measure the forward-pass times of ``models``, and compare all with the first, the dense one.

    Each case (mode, dtype and batch size) times in the same blocks all models, a copy of the dense
    one (the A/A control), and the dense one in eager mode; see :mod:`tp_vgg.latency.interleave`.
    The rows of a case that the device can't run say why. ``trials`` is the number of blocks per
    case, ``threads`` that of CPU threads; ``None`` stands for the defaults, for ``batch_sizes``
    those of the device (:data:`~tp_vgg.latency.table.BATCH_SIZES`). With ``probes``, rows that are
    quoted and fall short of their MAC ratio are tested for slightly smaller widths that are faster
    (:func:`tp_vgg.latency.probes.steps_of`).

    A model with weight masks is timed as a copy with the masks' zeros. Raises :class:`BadInput` if
    there are no models or they take images of different sizes, for a model that its spec does not
    describe, and for an unknown mode, dtype or device, or a number out of range.
    """
    chosen_device = pick_device(device)
    cases = cases_of(
        sequence("modes", modes, "['eager']", text("modes")),
        sequence("dtypes", dtypes, "['fp32']", text("dtypes")),
        BATCH_SIZES[chosen_device.type]
        if batch_sizes is None
        else sequence("batch_sizes", batch_sizes, "[1, 64]", plain_number),
    )
    blocks = plain_number(trials)
    if blocks is not None and (type(blocks) is not int or blocks > MOST_TRIALS):
        whole_number("trials", blocks, FEWEST_TRIALS, MOST_TRIALS)
    cores = None if threads is None else whole_number("threads", threads, 1, MOST_THREADS)
    true_or_false("probes", probes)
    true_or_false("quiet", quiet)
    settings = BenchmarkSettings(cases, blocks, probes=probes)
    networks = _checked_models(models)
    return measure(networks, settings, TimingDevice.of(chosen_device, cores), quiet=quiet)


def _checked_models(models: Mapping[str, Network]) -> dict[str, Network]:
    """Return ``models``; of those with weight masks, copies with the masks' zeros.

    Raises :class:`BadInput` for anything that is not a network with the modules of its spec.
    """
    must = "models: must map names to networks, such as {'dense': model}"
    networks: dict[str, Network] = {}
    for name, model in mapping(must, models).items():
        text("models: the names")(name)
        where = f"models: {name[:80]}"
        network = network_of(model, where)
        if has_masks(network):
            network = cast(Network, plain_copy(network))
        networks[name] = unmasked_network(network, where, dtype="any")
    check_models(networks)
    for name, network in networks.items():
        check_built(network, f"models: {name[:80]}")
    return networks


def check_models(models: Mapping[str, Network]) -> None:
    """Raise :class:`BadInput` if there are no models, or they take images of different sizes."""
    if not models or len({model.spec.image_size for model in models.values()}) > 1:
        raise BadInput("give one or more models, all for images of one size")


def measure(
    models: Mapping[str, Network],
    settings: BenchmarkSettings,
    timing_device: TimingDevice,
    *,
    known: Mapping[BenchmarkCase, tuple[LatencyRow, ...]] | None = None,
    case_done: Callable[[tuple[LatencyRow, ...]], object] = lambda _: None,
    quiet: bool = True,
) -> Latency:
    """Measure ``models`` on ``timing_device``, as :func:`measure_latency` does.

    Cases in ``known`` are not measured again; their rows are taken over. ``case_done`` is called
    with the rows of each case that was measured, one row per model. Raises :class:`BadInput` as
    :func:`check_models` does.
    """
    check_models(models)
    known = known or {}
    facts = _all_facts(models)
    timed = {name: model for name, model in models.items() if "timed_as" not in facts[name]}
    conditions = _conditions(settings, timing_device)
    rows: list[LatencyRow] = []
    with (
        timing_device.at_work(),
        progress_bar(
            "benchmark", unit="case", quiet=quiet, total=len(settings.cases), bar_format=_BAR
        ) as bar,
    ):
        conditions["bandwidth"] = bandwidth = timing_device.bandwidth()
        number = 0

        def part_done(share: float) -> None:
            # Shares are rounded: their sum may be a little over 1, and tqdm would warn.
            bar.update(min(share, number - bar.n))

        for number, case in enumerate(settings.cases, 1):
            bar.set_description(case.label)
            if case in known:
                rows += known[case]
            else:
                conditions["before_each"][case.label] = timing_device.clock.conditions()
                by_model = {
                    row.model: row
                    for row in measure_case(timed, case, settings, timing_device, part_done)
                }
                measured = tuple(
                    replace(by_model[facts[name].get("timed_as", name)], model=name)
                    for name in models
                )
                conditions["after"][case.label] = timing_device.clock.conditions()
                free_memory_after_case()
                case_done(measured)
                rows += measured
            bar.update(number - bar.n)
        bar.close()
        steps = steps_of(rows, models, settings, timing_device, quiet)
        # Last, so that nothing is timed after a profiler was attached.
        if timing_device.cuda is not None:
            rows = [
                replace(row, busy=busy_of(models[row.model], row.case, timing_device))
                for row in rows
            ]
    return Latency(
        reference=next(iter(models)),
        models=facts,
        environment=timing_device.environment,
        conditions=conditions,
        rows=explain(
            rows,
            facts,
            Memory(bandwidth, conditions["cache_bytes"]),
            steps,
            cuda=timing_device.cuda is not None,
        ),
    )


def _conditions(settings: BenchmarkSettings, timing_device: TimingDevice) -> dict[str, Any]:
    """Return the conditions known before anything is timed; see :attr:`Latency.conditions`."""
    return {
        "hot": settings.reuse_input,
        "probes": settings.probes,
        "flags": {case.dtype: _flags(case) for case in settings.cases},
        "cache_bytes": timing_device.clock.cache_bytes(),
        "before": timing_device.clock.conditions(),
        "before_each": {},
        "after": {},
    }


def _all_facts(models: Mapping[str, Network]) -> dict[str, dict[str, Any]]:
    """Return the facts of each model that the rules and the report need (:attr:`Latency.models`).

    Apart from the dense model, networks of equal widths without zeros differ in nothing that the
    time of a dense kernel depends on. So only the first of them is timed; the others name it in
    ``timed_as``.
    """
    _, *others = models
    facts = {name: _facts(model) for name, model in models.items()}
    first: dict[str, str] = {}
    for name in others:
        if facts[name]["density"] > 1 - ZEROS:
            timed = first.setdefault(str(facts[name]["spec"]), name)
            facts[name] |= {"timed_as": timed} if timed != name else {}
    return facts


def _facts(model: Network) -> dict[str, Any]:
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
