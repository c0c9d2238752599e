"""This module solves the constrained shortest path problem on a chain of choices.

The search is exact: labels with Lagrangian bounds.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tp_vgg.planning.multipliers import SLACK, ChoiceCosts, Solution, Tables, price, solution_of
from tp_vgg.planning.pareto_front import pareto

CAP = 50_000
"""Most labels kept per layer, by default."""
BEAM = 500
"""Labels kept per layer in the first, quick pass; the solution of each pass bounds the next."""
CHUNK = 1 << 20
"""Most pairs of label and option that are evaluated at once, which limits the memory."""


class NotFound(Exception):
    """A NotFound says that the search found no solution and did not prove that there is none.

    The reason is that more labels were needed than ``cap`` allows.
    """


def constrained_shortest_path(
    choice_costs: ChoiceCosts, limits: Sequence[float], cap: int = CAP
) -> Solution | None:
    """Minimise component 0 within the limits; return ``None`` if no solution is within them.

    ``limits[0]`` is the largest allowed sum of component 1, ``limits[1]`` that of component 2, and
    so on. ``cap`` is the number of labels that are kept per layer.

    A label holds the options chosen for the first layers and their summed costs. Labels are
    extended layer by layer. A label is discarded if it can't stay within the limits, if another
    label at the same option is no worse in any component (Pareto dominance), or if its lower bound
    shows that it can't lead to a better solution than the best one known.

    For the bound, the limits are priced with Lagrange multipliers; the cheapest rest of the path at
    these prices is read from a table (dynamic programming). Multipliers alone find only solutions
    on the convex hull. As bounds they lose no solution. They are found with cutting planes. If more
    than ``cap`` labels are left, those with the worst bounds are discarded too, and
    :attr:`Solution.bound` takes them into account.

    With several limits, the search for multipliers may meet no solution within all of them. Then
    one is searched for first: the last limited component is minimised within the other limits.
    Raises :class:`NotFound` if ``cap`` leaves open whether there is a solution.

    Sources: Handler & Zang 1980 (the bound), Kelley 1960 (the cuts).
    """
    upper = np.asarray(limits, float)
    upper = upper + SLACK * np.abs(upper)
    incumbent, tables = price(choice_costs, upper)
    if tables is None:
        return None
    if incumbent is None:
        least_last = constrained_shortest_path(
            [costs[[-1, *range(1, len(upper))]] for costs in choice_costs], limits[:-1], cap
        )
        if least_last is None or least_last.bound > upper[-1]:
            return None
        if least_last.totals[0] > upper[-1]:
            raise NotFound
        incumbent = solution_of(choice_costs, least_last.choice)
    for pass_cap in _caps(cap):
        incumbent, discarded_bound = _walk(choice_costs, upper, tables, incumbent, pass_cap)
        if discarded_bound >= incumbent.totals[0] - _tolerance(incumbent):
            break
    return replace(incumbent, bound=min(discarded_bound, incumbent.totals[0]))


def _caps(cap: int) -> list[int]:
    """Return the cap of each pass: from :data:`BEAM` to ``cap``, growing by a factor of four.

    The solution of a pass with a small cap lets most labels be discarded before they fill more.
    """
    caps = [min(BEAM, cap)]
    while caps[-1] < cap:
        caps.append(4 * caps[-1] if 8 * caps[-1] <= cap else cap)
    return caps


def _tolerance(solution: Solution) -> float:
    return SLACK * abs(solution.totals[0])


def _walk(
    choice_costs: ChoiceCosts, limits: np.ndarray, tables: Tables, incumbent: Solution, cap: int
) -> tuple[Solution, float]:
    """Extend labels through all layers; return the best solution and a bound on the rest.

    The solution is ``incumbent`` or a better one. The bound is the least lower bound of the labels
    that were discarded because more than ``cap`` were left; infinite if there were none.
    """
    components = len(limits) + 1
    totals, options = np.zeros((1, components)), np.zeros(1, int)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    discarded_bound = np.inf
    ceiling = incumbent.totals[0] - _tolerance(incumbent)
    for layer, costs in enumerate(choice_costs):
        parents, chosen, sums, bounds = _extend(
            costs, totals, options, layer, limits, tables, ceiling
        )
        if not len(chosen):
            return incumbent, discarded_bound
        # If the next layer costs the same behind every option, labels at different options compare.
        one_group = (
            layer + 1 == len(choice_costs) or not np.ptp(choice_costs[layer + 1], axis=1).any()
        )
        order = np.lexsort((*sums.T[::-1], *([] if one_group else [chosen])))
        groups = np.zeros(len(chosen), int) if one_group else chosen
        keep = order[pareto(sums[order], groups[order])]
        if len(keep) > cap:
            ranked = keep[np.argsort(bounds[keep], kind="stable")]
            keep = ranked[:cap]
            discarded_bound = min(discarded_bound, float(bounds[ranked[cap]]))
        trail.append((parents[keep], chosen[keep]))
        totals, options = sums[keep], chosen[keep]
    last = int(totals[:, 0].argmin())
    choice, at = [], last
    for parents, chosen in reversed(trail):
        choice.append(int(chosen[at]))
        at = int(parents[at])
    solution = Solution(tuple(choice[::-1]), tuple(totals[last].tolist()), -np.inf)
    return solution, discarded_bound


def _extend(
    costs: np.ndarray,
    totals: np.ndarray,
    options: np.ndarray,
    layer: int,
    limits: np.ndarray,
    tables: Tables,
    ceiling: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Extend each label by each option of the layer; keep the labels that can still pay.

    These can stay within the limits, and their bound is below ``ceiling``. Returns, for each new
    label: the index of the label that it extends [n], its option [n], its sums [n, components] and
    its bound [n].
    """
    count = costs.shape[2]
    labels_per_chunk = max(CHUNK // count, 1)
    chunks = []
    for start in range(0, len(totals), labels_per_chunk):
        parents = np.repeat(np.arange(start, min(start + labels_per_chunk, len(totals))), count)
        chosen = np.tile(np.arange(count), len(parents) // count)
        sums = totals[parents] + costs[:, options[parents], chosen].T
        fits = np.all(sums[:, 1:] + tables.least[layer][:, chosen].T <= limits, axis=1)
        parents, chosen, sums = parents[fits], chosen[fits], sums[fits]
        bounds = tables.bounds(sums, layer, chosen)
        better = bounds < ceiling
        chunks.append((parents[better], chosen[better], sums[better], bounds[better]))
    parents, chosen, sums, bounds = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return parents, chosen, sums, bounds
