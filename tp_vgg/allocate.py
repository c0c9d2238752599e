"""make_plan(): sensitivities and a budget in, the best widths (or sparsities) out (no torch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tp_vgg.curves import Curves
from tp_vgg.errors import BadInput
from tp_vgg.latencies import Staircase
from tp_vgg.plans import Allocation, BudgetKind, PlannedLayer, Prediction, read_budget
from tp_vgg.ratios import Plan, resolve, resolve_sparsity
from tp_vgg.records import Sensitivity
from tp_vgg.search import CAP, NotFound, Path, cheapest
from tp_vgg.spec import LayerRow, VGGSpec

GAP = 0.01
"""Percentage points by which a plan may miss the best one; the search gets more room until it does not."""
ROOMS = (CAP, 8 * CAP)
"""Labels a layer that the search may keep, in turn."""
SPARSITY_STEP = 0.005
"""Of the sparsities that a layer can be given."""
MAX_WIDTHS = 4096
"""That a layer may choose from: the search holds a cost for each pair of neighbours'."""


def make_plan(
    table: Sensitivity,
    budget: Mapping[str, float],
    *,
    round_to: int = 8,
    profile: Staircase | None = None,
    sweep: Mapping[str, Any] | None = None,
) -> Allocation:
    """The plan with the smallest predicted drop within ``budget``; with ``drop`` in the budget, the smallest network whose predicted drop
    stays within it.

    ``budget``: any of ``macs``, ``params``, ``latency`` (fractions of the dense network to keep, in (0, 1]), ``drop`` (percentage points)
    and, for a table of zeroed weights, ``sparsity`` (fraction of zeros over the layers that a plan can name); all hold at once. Smallest is
    by the first cost named beside ``drop``, or by parameters. ``round_to``: channels stay multiples of it (or all). ``profile``: the time
    of each conv over its widths (``benchmark --profile``), for ``latency``, which is the sum of these times: interpolated between the
    widths measured, and below the smallest held constant. The head's time is not in it. ``sweep``: what to note of the table's origin.

    A layer that was not swept, and every level above the highest swept, is left alone. Drops are those before fine-tuning; how several
    layers add up is said at :class:`~tp_vgg.curves.Curves`. The search (:func:`~tp_vgg.search.cheapest`) is exact over these numbers: a
    layer's cost depends on its own and its predecessor's width, so a VGG is a chain.
    Raises :class:`BadInput` for a budget that is none, or that nothing swept can meet, and for a ``profile`` with zeroed weights.
    """
    limits = read_budget(budget, table.kind)
    if "latency" in limits and profile is None:
        raise BadInput(
            "--budget latency: needs a profile of this network; run `python -m tp_vgg benchmark --profile` first"
        )
    if profile is not None and table.kind == "unstructured":
        raise BadInput("--profile: zeros save no time on dense kernels; leave it out, or plan with --kind structured")
    if round_to < 1:
        raise BadInput("--round-to: must be 1 or more")
    problem = _structured(table, round_to, profile) if table.kind == "structured" else _unstructured(table)
    costs = [name for name in limits if name != "drop"]
    first = "drop" if "drop" not in limits else costs[0] if costs else "params"
    bounded = [name for name in limits if math.isfinite(problem.limit(name, limits[name]))]
    chain = [np.stack([costs_of[name] for name in (first, *bounded)]) for costs_of in problem.chain]
    ceilings = [problem.limit(name, limits[name]) for name in bounded]
    try:
        found = _search(chain, ceilings, problem, first)
    except NotFound:
        raise Undecided(
            f"--budget: found no plan that meets {_listed(limits)} at once, though there may be one; loosen one"
        ) from None
    if found is None:
        raise BadInput(_unreachable(problem, bounded, limits))
    return problem.allocation(found, limits, first, round_to, table, profile, dict(sweep or {}))


class Undecided(BadInput):
    """The search neither found a plan nor showed that there is none."""


@dataclass(frozen=True)
class _Problem:
    """The choices of each layer and what they cost, as :func:`~tp_vgg.search.cheapest` takes them."""

    spec: VGGSpec
    curves: Curves
    options: tuple[tuple[int, ...], ...]
    """By row of the spec: channels or weights that are left."""
    chain: tuple[dict[BudgetKind, np.ndarray], ...]
    """By row: each cost [options of the row before, options of this one]. ``drop`` is in units of loss, ``sparsity`` counts the weights left."""
    dense: dict[BudgetKind, float]
    """Each cost of the whole dense network; ``sparsity``: the weights of the layers that a plan can name."""

    def limit(self, name: BudgetKind, value: float) -> float:
        """A budget as the most that its cost may sum up to; infinite for a drop to chance, where losses still sum up further."""
        if name == "drop":
            return float(self.curves.loss(value)) if value < self.curves.most else math.inf
        return (1 - value if name == "sparsity" else value) * self.dense[name]

    def points(self, found: Path) -> float:
        """The gap of a path that minimises loss, as percentage points."""
        return self.curves.drop_of(found.totals[0]) - self.curves.drop_of(found.bound)

    def sums(self, choice: Sequence[int]) -> dict[BudgetKind, float]:
        before = (0, *choice)
        return {
            name: sum(float(costs[name][i, j]) for costs, i, j in zip(self.chain, before, choice, strict=False))
            for name in self.chain[0]
        }

    def allocation(
        self,
        found: Path,
        budget: dict[BudgetKind, float],
        first: BudgetKind,
        round_to: int,
        table: Sensitivity,
        profile: Staircase | None,
        sweep: dict[str, Any],
    ) -> Allocation:
        left = {
            row.name: options[i] for row, options, i in zip(self.spec.rows, self.options, found.choice, strict=True)
        }
        full = _sizes(self.spec, table)
        layers = tuple(
            PlannedLayer(
                layer,
                _shortest(full[layer] - left[layer], full[layer]),
                full[layer],
                left[layer],
                float(self.curves.drop(layer, 1 - left[layer] / full[layer])),
            )
            for layer in table.layers
        )
        _check_resolves(layers, self.spec, table)
        sums = self.sums(found.choice)
        drop = self.curves.drop_of(sums["drop"])
        prediction = Prediction(
            drop=drop,
            accuracy=self.curves.accuracy - drop,
            params=round(sums["params"]),
            macs=round(sums["macs"]),
            params_share=sums["params"] / self.dense["params"],
            macs_share=sums["macs"] / self.dense["macs"],
            sparsity=1 - sums["sparsity"] / self.dense["sparsity"] if "sparsity" in sums else 0.0,
            latency_share=sums["latency"] / self.dense["latency"] if "latency" in sums else None,
        )
        return Allocation(
            kind=table.kind,
            budget=budget,
            minimised=first,
            round_to=round_to,
            importance=table.importance,
            layers=layers,
            prediction=prediction,
            gap=self.points(found) if first == "drop" else found.gap,
            recalibrated=table.recalibrated,
            sweep={"key": table.key, "n": table.baseline.n, "accuracy": table.baseline.accuracy, **sweep},
            profile=None if profile is None else _about(profile, self.dense["latency"]),
        )


def _search(chain: list[np.ndarray], ceilings: list[float], problem: _Problem, first: BudgetKind) -> Path | None:
    """The best path; with more room where the gap would be over :data:`GAP` (for costs, a thousandth)."""
    found = None
    for room in ROOMS:
        try:
            found = cheapest(chain, ceilings, room)
        except NotFound:
            if room == ROOMS[-1]:
                raise
            continue
        if found is None or (problem.points(found) <= GAP if first == "drop" else found.gap <= 1e-3 * found.totals[0]):
            break
    return found


def _about(profile: Staircase, dense_us: float) -> dict[str, Any]:
    return {
        "key": profile.key,
        "device": profile.environment["device"],
        "dtype": profile.dtype,
        "batch_size": profile.batch_size,
        "dense_us": dense_us,
    }


def _sizes(spec: VGGSpec, table: Sensitivity) -> dict[str, int]:
    return spec.prunable if table.kind == "structured" else {row.name: row.weights for row in spec.rows}


def _structured(table: Sensitivity, round_to: int, profile: Staircase | None) -> _Problem:
    spec, curves = VGGSpec.from_dict(table.spec), Curves.of(table)
    time = _time_of(profile, spec) if profile is not None else None
    options: list[tuple[int, ...]] = []
    chain = []
    before: tuple[int, ...] = (3,)
    full_before = 3
    for row in spec.rows:
        here = _widths(row, curves, round_to)
        drop = (
            curves.loss(curves.drop(row.name, 1 - np.array(here) / row.out_width))
            if row.name in curves.levels
            else [0.0]
        )
        reads = row.in_width // full_before  # of a flattened map, each channel's elements
        params, macs, _ = row.costs(reads * np.array(before)[:, None], np.array(here))
        costs: dict[BudgetKind, np.ndarray] = {
            "drop": np.tile(np.asarray(drop, float), (len(before), 1)),
            "macs": macs.astype(float),
            "params": params.astype(float),
        }
        if time is not None:
            costs["latency"] = time(row, before, here)
        options.append(here)
        chain.append(costs)
        before, full_before = here, row.out_width
    dense: dict[BudgetKind, float] = {"macs": spec.macs(), "params": spec.params()}
    if time is not None:
        dense["latency"] = sum(float(costs["latency"][-1, -1]) for costs in chain)
    return _Problem(spec, curves, tuple(options), tuple(chain), dense)


def _widths(row: LayerRow, curves: Curves, round_to: int) -> tuple[int, ...]:
    """The widths that a layer may be given, rising: multiples of ``round_to`` within the swept levels, and all of it."""
    full = row.out_width
    if row.name not in curves.levels:
        return (full,)
    if full > MAX_WIDTHS * round_to:
        raise BadInput(f"--round-to: {row.name} has {full} channels; give {math.ceil(full / MAX_WIDTHS)} or more")
    least = full - round(curves.levels[row.name][-1] * full)
    return (*range(max(math.ceil(least / round_to), 1) * round_to, full, round_to), full)


def _time_of(profile: Staircase, spec: VGGSpec) -> Callable[[LayerRow, Sequence[int], Sequence[int]], np.ndarray]:
    """Microseconds [in, out] of a conv, by linear interpolation in the profile's grid."""
    from scipy.interpolate import RegularGridInterpolator

    if VGGSpec.from_dict(profile.spec).macs() != spec.macs() or set(profile.layers) != set(spec.conv_names):
        raise BadInput(
            "--profile: is of another network than the sweep; run `python -m tp_vgg benchmark --profile` with these options"
        )

    def time(row: LayerRow, before: Sequence[int], here: Sequence[int]) -> np.ndarray:
        if row.kind != "conv":
            return np.zeros((len(before), len(here)))
        ins, outs, grid = profile.grid(row.name)
        wanted = np.stack(
            np.meshgrid(np.clip(before, ins[0], ins[-1]), np.clip(here, outs[0], outs[-1]), indexing="ij"), axis=-1
        )
        if len(ins) == 1:  # the first conv reads the image's channels, always
            return np.asarray(np.interp(wanted[..., 1], outs, grid[0]))
        return np.asarray(RegularGridInterpolator((ins, outs), grid)(wanted))

    return time


def _unstructured(table: Sensitivity) -> _Problem:
    spec, curves = VGGSpec.from_dict(table.spec), Curves.of(table)
    options: list[tuple[int, ...]] = []
    chain = []
    for row in spec.rows:
        here: tuple[int, ...] = (row.weights,)
        drop = np.zeros(1)
        if row.name in curves.levels:
            highest = curves.levels[row.name][-1]
            sparsities = [*np.arange(0, highest, SPARSITY_STEP), highest]
            zeros = [round(float(s) * row.weights) for s in sparsities]
            if zeros[-1] < highest * row.weights:  # a level swept is a sparsity met, however it rounds
                zeros.append(min(zeros[-1] + 1, row.weights - 1))
            here = tuple(sorted({row.weights - count for count in zeros}))
            drop = curves.loss(curves.drop(row.name, 1 - np.array(here) / row.weights))
        left = np.array(here, float)
        before = len(options[-1]) if options else 1
        costs: dict[BudgetKind, np.ndarray] = {
            "drop": drop,
            "macs": left * row.side**2,
            "params": left + row.params - row.weights,
            "sparsity": left if row.name in spec.prunable else np.zeros(1),
        }
        options.append(here)
        chain.append({name: np.tile(values, (before, 1)) for name, values in costs.items()})
    weights = sum(row.weights for row in spec.rows if row.name in spec.prunable)
    dense: dict[BudgetKind, float] = {"macs": spec.macs(), "params": spec.params(), "sparsity": weights}
    return _Problem(spec, curves, tuple(options), tuple(chain), dense)


def _shortest(removed: int, size: int) -> float:
    """The shortest decimal whose product with ``size`` rounds to ``removed``, well away from a half."""
    for digits in range(1, 18):
        ratio = round(removed / size, digits)
        if abs(ratio * size - removed) < 0.49 and ratio < 1:
            return ratio
    return removed / size


def _check_resolves(layers: Sequence[PlannedLayer], spec: VGGSpec, table: Sensitivity) -> None:
    plan = Plan.of({row.layer: row.ratio for row in layers}, "plan")
    if table.kind == "structured":
        left: Mapping[str, int] = resolve(plan, spec).prunable
    else:
        zeroed, sizes = resolve_sparsity(plan, spec), _sizes(spec, table)
        left = {layer: sizes[layer] - zeros for layer, zeros in zeroed.items()}
    assert all(left[row.layer] == row.after for row in layers), (left, layers)


def _unreachable(problem: _Problem, bounded: list[BudgetKind], limits: Mapping[BudgetKind, float]) -> str:
    """Why no plan meets the budgets: the first that none meets by itself, with the least that one can; or all of them together."""
    for name in bounded:
        least = cheapest([costs[name][None] for costs in problem.chain], [])
        assert least is not None
        if least.totals[0] <= problem.limit(name, limits[name]):
            continue
        share = math.ceil(1e4 * least.totals[0] / problem.dense[name]) / 1e4
        reach = f"sparsity={1 - share:.4g}" if name == "sparsity" else f"{name}={share:.4g}"
        finer = "" if "sparsity" in problem.dense else ", or give a smaller --round-to"
        fix = f"sweep higher --levels or more --layers{finer}"
        return f"--budget {name}={limits[name]:g}: what was swept allows {reach} at best; {fix}"
    return f"--budget: no plan meets {_listed(limits)} at once; loosen one"


def _listed(limits: Mapping[BudgetKind, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in limits.items())
