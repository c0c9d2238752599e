"""This module turns a sweep into a chain of options with their costs for the search.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tp_vgg.errors import BadInput
from tp_vgg.latency.profile import Staircase
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.layers import LayerRow
from tp_vgg.network.spec import Spec, conv_names
from tp_vgg.planning.budget import BudgetKind
from tp_vgg.planning.loss_curves import LossCurves
from tp_vgg.planning.multipliers import Solution
from tp_vgg.sensitivity.table import Sensitivity

SPARSITY_STEP = 0.005
"""Distance between the sparsities that a layer may be given."""
MAX_WIDTHS = 4096
"""Most widths that a layer may choose from: costs are held for each pair with the next layer's."""


@dataclass(frozen=True)
class Problem:
    """A problem holds the options of each layer and their costs.

    :func:`~tp_vgg.planning.constrained_path.constrained_shortest_path` solves it.
    """

    spec: Spec
    curves: LossCurves
    options: tuple[tuple[int, ...], ...]
    """For each row of the spec, the numbers of channels or weights that may be left; rising."""
    chain: tuple[dict[BudgetKind, np.ndarray], ...]
    """For each row, its costs by name, [options of the row before, options of this row].

    ``drop`` is a loss of :class:`~tp_vgg.planning.loss_curves.LossCurves`, ``latency`` is in
    microseconds, and ``sparsity`` counts the weights that are left."""
    dense: dict[BudgetKind, float]
    """Costs of the dense model; ``sparsity`` counts the weights of all prunable layers."""

    def limit(self, name: BudgetKind, value: float) -> float:
        """Return the upper limit on the summed cost for a budget of ``value``.

        It is infinite for a drop to chance level, since the losses of several layers may sum up to
        more than the loss of that drop.
        """
        if name == "drop":
            return float(self.curves.loss(value)) if value < self.curves.most else math.inf
        return (1 - value if name == "sparsity" else value) * self.dense[name]

    def points(self, solution: Solution) -> float:
        """Return the gap of a solution that minimises the loss, in percentage points of drop."""
        return self.curves.drop_of(solution.totals[0]) - self.curves.drop_of(solution.bound)

    def stack(self, *names: BudgetKind) -> list[np.ndarray]:
        """Return the named costs of each row, [names, options before, options of this row]."""
        return [np.stack([costs[name] for name in names]) for costs in self.chain]

    def sums(self, choice: Sequence[int]) -> dict[BudgetKind, float]:
        """Sum each cost over the network for a choice (index of the option of each row)."""
        before = (0, *choice)
        return {
            name: sum(
                float(costs[name][i, j])
                for costs, i, j in zip(self.chain, before, choice, strict=False)
            )
            for name in self.chain[0]
        }


def structured(table: Sensitivity, round_to: int, profile: Staircase | None) -> Problem:
    """Build the problem of choosing the width of each layer.

    With a profile there is a ``latency`` cost too. Raises :class:`BadInput` if the layers form no
    chain, if a layer would have over :data:`MAX_WIDTHS` widths, and if the profile is of another
    network.
    """
    spec, curves = spec_from_dict(table.spec), LossCurves.of(table)
    time = _time_of(profile, spec) if profile is not None else None
    options: list[tuple[int, ...]] = []
    chain = []
    before: tuple[int, ...] = (3,)
    for row in _chain(spec):
        here = _widths(row, curves, round_to)
        drop = (
            curves.loss(curves.drop(row.name, 1 - np.array(here) / row.out_width))
            if row.name in curves.levels
            else [0.0]
        )
        params, macs, _ = row.costs(row.reads * np.array(before)[:, None], np.array(here))
        costs: dict[BudgetKind, np.ndarray] = {
            "drop": np.tile(np.asarray(drop, float), (len(before), 1)),
            "macs": macs.astype(float),
            "params": params.astype(float),
        }
        if time is not None:
            costs["latency"] = time(row, before, here)
        options.append(here)
        chain.append(costs)
        before = here
    dense: dict[BudgetKind, float] = {"macs": spec.macs(), "params": spec.params()}
    if time is not None:
        dense["latency"] = sum(float(costs["latency"][-1, -1]) for costs in chain)
    return Problem(spec, curves, tuple(options), tuple(chain), dense)


def _chain(spec: Spec) -> tuple[LayerRow, ...]:
    """Return the spec's rows after a check that each one reads only the one before.

    The search needs a cost that depends only on a layer's own width and on that of the layer
    before. Raises :class:`BadInput` for any other network.
    """
    before: str | None = None
    for row in spec.rows:
        if row.source != before or row.group != row.name:
            raise BadInput(
                f"{spec.arch}: {row.name} does not read the layer before it alone;"
                " no plan can be made"
            )
        before = row.name
    return spec.rows


def _widths(row: LayerRow, curves: LossCurves, round_to: int) -> tuple[int, ...]:
    """Return the widths that a layer may be given, rising.

    They are the multiples of ``round_to`` within the levels swept, and the full width.
    """
    full = row.out_width
    if row.name not in curves.levels:
        return (full,)
    if full > MAX_WIDTHS * round_to:
        raise BadInput(
            f"--round-to: {row.name} has {full} channels;"
            f" give {math.ceil(full / MAX_WIDTHS)} or more"
        )
    least = full - round(curves.levels[row.name][-1] * full)
    return (*range(max(math.ceil(least / round_to), 1) * round_to, full, round_to), full)


def _time_of(
    profile: Staircase, spec: Spec
) -> Callable[[LayerRow, Sequence[int], Sequence[int]], np.ndarray]:
    """Return a function that gives the microseconds [in widths, out widths] of a layer.

    They are interpolated linearly in the profile's grid, and constant outside of it. Linear layers
    take 0. Raises :class:`BadInput` if the profile is of another network than ``spec``.
    """
    from scipy.interpolate import RegularGridInterpolator

    if spec_from_dict(profile.spec).macs() != spec.macs() or set(profile.layers) != set(
        conv_names(spec)
    ):
        raise BadInput(
            "--profile: is of another network than the sweep;"
            " run `python -m tp_vgg benchmark --profile` for this network"
        )

    def time(row: LayerRow, before: Sequence[int], here: Sequence[int]) -> np.ndarray:
        if row.kind != "conv":
            return np.zeros((len(before), len(here)))
        ins, outs, grid = profile.grid(row.name)
        widths = np.stack(
            np.meshgrid(
                np.clip(before, ins[0], ins[-1]), np.clip(here, outs[0], outs[-1]), indexing="ij"
            ),
            axis=-1,
        )
        if len(ins) == 1:  # the first conv always reads the image's channels: no grid in that axis
            return np.asarray(np.interp(widths[..., 1], outs, grid[0]))
        return np.asarray(RegularGridInterpolator((ins, outs), grid)(widths))

    return time


def unstructured(table: Sensitivity) -> Problem:
    """Build the problem of choosing each layer's sparsity, in steps of :data:`SPARSITY_STEP`."""
    spec, curves = spec_from_dict(table.spec), LossCurves.of(table)
    options: list[tuple[int, ...]] = []
    chain = []
    for row in spec.rows:
        here: tuple[int, ...] = (row.weights,)
        drop = np.zeros(1)
        if row.name in curves.levels:
            highest = curves.levels[row.name][-1]
            sparsities = [*np.arange(0, highest, SPARSITY_STEP), highest]
            zeros = [round(float(s) * row.weights) for s in sparsities]
            # A budget of a level swept must be in reach, also if the count was rounded down.
            if zeros[-1] < highest * row.weights:
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
    dense: dict[BudgetKind, float] = {
        "macs": spec.macs(),
        "params": spec.params(),
        "sparsity": weights,
    }
    return Problem(spec, curves, tuple(options), tuple(chain), dense)
