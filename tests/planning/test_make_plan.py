"""Plans from sensitivities and a budget agree with enumeration of whole networks.

The costs of the enumerated networks come from the spec itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import pages
from helpers.made_up_sweeps import SPEC, table
from helpers.networks import SMALL

from tp_vgg.errors import BadInput
from tp_vgg.latency.profile import Staircase, Timed
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning import plan_request as allocate
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.constrained_path import NotFound
from tp_vgg.planning.drop_margin import drop_interval, margin
from tp_vgg.planning.loss_curves import LossCurves
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import Plan, resolve, resolve_sparsity
from tp_vgg.stats import paired_difference


def profile(spec: VGGSpec) -> Staircase:
    """A latency profile whose times step up every 16 channels."""
    points = []
    for i, row in enumerate(row for row in spec.rows if row.kind == "conv"):
        ins = sorted({8, row.in_width}) if i else [row.in_width]
        for before, here in itertools.product(ins, range(8, row.out_width + 1, 8)):
            points.append(
                Timed(row.name, before, here, float(before * -(-here // 16) * row.side**2), 0.1)
            )
    return Staircase("key", spec.to_dict(), "fp32", 64, {"device": "a device"}, tuple(points))


def networks(spec: VGGSpec, round_to: int, fixed: tuple[str, ...] = ()) -> Iterator[VGGSpec]:
    choices = [
        [width] if name in fixed else sorted({*range(round_to, width, round_to), width})
        for name, width in spec.prunable.items()
    ]
    for widths in itertools.product(*choices):
        yield spec.with_widths(dict(zip(spec.prunable, widths, strict=True)))


def predicted(curves: LossCurves, spec: VGGSpec, network: VGGSpec) -> float:
    """The predicted drop: the shares of accuracy above chance that the layers keep multiply."""
    share = 1.0
    for layer in curves.levels:
        level = 1 - network.prunable[layer] / spec.prunable[layer]
        share *= 1 - np.interp(level, curves.levels[layer], curves.drops[layer]) / (
            curves.accuracy - curves.chance
        )
    return (curves.accuracy - curves.chance) * (1 - share)


def chosen(spec: VGGSpec, found: PlanResult, round_to: int = 8) -> VGGSpec:
    return resolve(Plan.of(found.ratios, "plan"), spec, round_to)


BUDGETS = [
    {"macs": 0.5},
    {"params": 0.4},
    {"macs": 0.6, "params": 0.45},
    {"drop": 10.0},
    {"drop": 25.0, "macs": 0.8},
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_no_network_is_better(budget: Mapping[str, float], seed: int) -> None:
    sweep = table(SPEC, seed=seed)
    curves = LossCurves.of(sweep)
    found = make_plan(sweep, budget)
    ours = chosen(SPEC, found)
    assert chosen(SPEC, found, 1) == ours, "the ratios alone say the widths"
    costs: dict[str, Callable[[VGGSpec], float]] = {
        "macs": VGGSpec.macs,
        "params": VGGSpec.params,
        "drop": lambda network: predicted(curves, SPEC, network),
    }
    dense = {"macs": SPEC.macs(), "params": SPEC.params(), "drop": 1}
    within = [
        network
        for network in networks(SPEC, 8, ("classifier.0",))
        if all(network.prunable[name] >= SPEC.prunable[name] * 0.1 for name in SPEC.conv_names)
        and all(
            costs[name](network) <= value * dense[name] + 1e-9 for name, value in budget.items()
        )
    ]
    first = "drop" if "drop" not in budget else "macs" if "macs" in budget else "params"
    assert found.minimised == first
    assert ours in within
    if first == "drop":
        least = found.least_drop
        assert least is not None
        assert least.prediction.drop == pytest.approx(min(map(costs["drop"], within)), abs=1e-9)
    else:
        assert found.least_drop is None
        assert costs[first](ours) == pytest.approx(min(map(costs[first], within)), abs=1e-9)
    said = found.prediction
    assert (said.params, said.macs) == (ours.params(), ours.macs())
    assert said.drop == pytest.approx(predicted(curves, SPEC, ours))
    assert said.macs_share == ours.macs() / SPEC.macs()
    assert found.gap == pytest.approx(0, abs=1e-9)


def kept_most(
    candidates: list[tuple[VGGSpec, float]], n: int
) -> tuple[float, set[tuple[int, int]]]:
    """The smallest drop, and the (MACs, parameters) that are best near it, by enumeration."""
    least = min(drop for _, drop in candidates)
    near = [
        (network.macs(), network.params())
        for network, drop in candidates
        if drop - least <= 0.2 + 1e-9
        and paired_difference(max(drop - least, 0) * n / 100, 0, n)[0] <= 1e-12
    ]
    return least, {max(near)}


@pytest.mark.parametrize("budget", [b for b in BUDGETS if "drop" not in b], ids=str)
@pytest.mark.parametrize("n", [50, 1000, 20_000])
@pytest.mark.parametrize("steep", [1, 0.05, 0], ids=["steep", "shallow", "no drop"])
@pytest.mark.parametrize("seed", range(2))
def test_the_plan_is_the_largest_of_those_that_the_images_cannot_tell_apart(
    budget: Mapping[str, float], n: int, steep: float, seed: int
) -> None:
    sweep = table(SPEC, seed=seed, n=n, steep=steep)
    curves, found = LossCurves.of(sweep), make_plan(sweep, budget)
    dense = {"macs": SPEC.macs(), "params": SPEC.params()}
    within = [
        (network, predicted(curves, SPEC, network))
        for network in networks(SPEC, 8, ("classifier.0",))
        if all(
            getattr(network, name)() <= value * dense[name] + 1e-9 for name, value in budget.items()
        )
    ]
    least, best = kept_most(within, n)
    said = found.least_drop
    assert said is not None
    assert said.prediction.drop == pytest.approx(least, abs=1e-9)
    assert {(found.prediction.macs, found.prediction.params)} == best
    assert chosen(SPEC, found).macs() == found.prediction.macs
    assert said.macs_gap == 0
    assert said.more == pytest.approx(found.prediction.drop - least, abs=1e-9)
    assert said.more <= said.margin + 1e-7 <= 0.2 + 2e-7
    assert said.more_low <= 1e-9 and said.more_low <= said.more <= said.more_high
    assert said.prediction.macs <= found.prediction.macs


@pytest.mark.parametrize("steep", [0.05, 0], ids=["shallow", "no drop"])
@pytest.mark.parametrize("share", [0.95, 0.8, 0.5])
@pytest.mark.parametrize("dense", [0.9, 0.1, 0.05], ids=["trained", "chance", "below"])
def test_a_budget_is_used_up_if_no_drop_is_seen(share: float, dense: float, steep: float) -> None:
    """VGG-11: a plan for 0.95 and one for 0.8 differ by what was asked."""
    spec = VGGSpec.preset("vgg11_bn", "linear")
    kept = make_plan(table(spec, n=143, dense=dense, steep=steep), {"macs": share}).prediction
    assert share - 1e-4 < kept.macs_share <= share
    assert dense > 0.1 or kept.drop == 0
    zeroed = table(spec, "unstructured", n=143, dense=dense, steep=steep)
    kept = make_plan(zeroed, {"macs": share}).prediction
    assert share - 1e-4 < kept.macs_share <= share


@pytest.mark.parametrize("budget", [{"params": 0.6}, {"latency": 0.7}, {"sparsity": 0.6}], ids=str)
def test_so_are_budgets_of_other_costs(budget: Mapping[str, float]) -> None:
    """With no drop, the plan keeps the most MACs that the budget leaves room for."""
    kind: Kind = "unstructured" if "sparsity" in budget else "structured"
    times = profile(SPEC) if "latency" in budget else None
    sweep = table(SPEC, kind, steep=0)
    found = make_plan(sweep, budget, profile=times)
    # The same search with a drop budget that all plans meet, for the least of MACs, is below.
    least = make_plan(sweep, {"macs": 1, "drop": 100, **budget}, profile=times)
    assert least.prediction.macs < found.prediction.macs
    for share in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        try:
            other = make_plan(sweep, {"macs": share, **budget}, profile=times)
        except BadInput:
            continue
        assert other.prediction.macs <= found.prediction.macs + found.least_drop.macs_gap


@pytest.mark.parametrize("n", [1, 10, 143, 1000, 2645, 2646, 5000, 50_000, 10**6])
def test_one_ceiling_holds_both_conditions(n: int) -> None:
    """Intervals of smaller differences include 0 and those of larger ones do not."""
    most = margin(n)
    assert 0 < most <= 0.2
    differences = np.linspace(0, 1, 400)
    lows = [drop_interval(points, n)[0] for points in differences]
    signs = [low <= 0 for low in lows]
    assert signs == sorted(signs, reverse=True), "once above 0, it stays there"
    for points, includes in zip(differences, signs, strict=True):
        if points <= most - 1e-6:
            assert includes
        elif points > most + 1e-6:
            assert points > 0.2 or not includes
    assert most == 0.2 or drop_interval(most + 1e-6, n)[0] > 0


def test_the_interval_is_the_narrowest_of_all_with_the_same_difference() -> None:
    low, high = drop_interval(100 * 7 / 500, 500)
    for gained in (1, 5, 50):
        wider = paired_difference(7 + gained, gained, 500)
        assert 100 * wider[0] < low and high < 100 * wider[1]


def test_a_larger_margin_never_keeps_less() -> None:
    """Fewer images tell less apart: for the same curves, more MACs may be kept."""
    sweep = table(SPEC, n=200_000)
    kept = []
    for n in (200_000, 20_000, 2000):
        scaled = replace(sweep, baseline=replace(sweep.baseline, correct=round(0.9 * n), n=n))
        kept.append(make_plan(scaled, {"macs": 0.6}).prediction.macs)
    assert kept == sorted(kept)


def test_latency_steps_decide() -> None:
    """If time steps every 16 channels, the plan for a latency budget is the best by that table."""
    sweep, times = table(SPEC), profile(SPEC)
    by_point = {(p.layer, p.in_width, p.out_width): p.median_us for p in times.points}
    curves = LossCurves.of(sweep)

    def time(network: VGGSpec) -> float:
        found = 0.0
        for row, full in zip(network.rows, SPEC.rows, strict=True):
            if row.kind == "conv":
                ends = sorted({min(8, full.in_width), full.in_width})
                found += np.interp(
                    row.in_width, ends, [by_point[row.name, end, row.out_width] for end in ends]
                )
        return float(found)

    found = make_plan(sweep, {"latency": 0.7}, profile=times)
    ours = chosen(SPEC, found)
    within = [
        n for n in networks(SPEC, 8, ("classifier.0",)) if time(n) <= 0.7 * time(SPEC) * (1 + 1e-9)
    ]
    assert found.prediction.latency_share == pytest.approx(time(ours) / time(SPEC))
    least, best = kept_most([(n, predicted(curves, SPEC, n)) for n in within], sweep.baseline.n)
    assert found.least_drop is not None
    assert found.least_drop.prediction.drop == pytest.approx(least)
    assert {(ours.macs(), ours.params())} == best
    assert found.profile is not None
    assert found.profile["device"] == "a device"
    other = replace(times, spec=SMALL.to_dict())
    with pytest.raises(BadInput, match="another network"):
        make_plan(sweep, {"latency": 0.5}, profile=other)
    with pytest.raises(BadInput, match="--profile"):
        make_plan(sweep, {"latency": 0.5})
    with pytest.raises(BadInput, match="zeros save no time"):
        make_plan(table(SPEC, "unstructured"), {"sparsity": 0.5}, profile=times)


@pytest.mark.parametrize("round_to", [1, 3, 8, 1000])
def test_widths_are_multiples_and_ratios_say_them_exactly(round_to: int, spec: VGGSpec) -> None:
    found = make_plan(table(spec), {"macs": 0.8 if round_to < 1000 else 1}, round_to=round_to)
    ours = chosen(spec, found, 1)
    assert ours.macs() == found.prediction.macs
    for row in found.layers:
        assert row.after % round_to == 0 or row.after == row.before
        assert ours.prunable[row.layer] == row.after
    assert set(found.ratios) == set(spec.conv_names), "hidden linears were not swept"


def test_a_swept_hidden_linear_is_planned_too() -> None:
    spec = SMALL
    found = make_plan(table(spec, layers=tuple(spec.prunable)), {"params": 0.5}, round_to=2)
    assert set(found.ratios) == set(spec.prunable)
    assert found.prediction.params == chosen(spec, found, 2).params() <= 0.5 * spec.params()


def test_an_unfolded_head_is_priced_as_it_is() -> None:
    spec = replace(SMALL, pool=7)
    found = make_plan(table(spec), {"params": 0.6}, round_to=2)
    assert found.prediction.params == chosen(spec, found, 2).params()


@pytest.mark.parametrize(
    "budget",
    [
        {"sparsity": 0.8},
        {"sparsity": 0.9},
        {"params": 0.3},
        {"macs": 0.3, "sparsity": 0.6},
        {"drop": 5.0},
    ],
    ids=str,
)
def test_sparsities_meet_their_budget(budget: Mapping[str, float]) -> None:
    spec = replace(SPEC, hidden=())
    sweep = table(spec, "unstructured")
    found = make_plan(sweep, budget)
    zeros = resolve_sparsity(Plan.of(found.ratios, "plan"), spec)
    rows = {row.name: row for row in spec.rows}
    assert all(row.before - row.after == zeros[row.layer] for row in found.layers)
    weights = sum(rows[layer].weights for layer in spec.prunable)
    assert found.prediction.sparsity == pytest.approx(sum(zeros.values()) / weights)
    assert found.prediction.params == spec.params() - sum(zeros.values())
    assert found.prediction.macs == spec.macs() - sum(
        count * rows[layer].side ** 2 for layer, count in zeros.items()
    )
    said = found.prediction
    reached = {
        "sparsity": said.sparsity,
        "params": -said.params_share,
        "macs": -said.macs_share,
        "drop": -said.drop,
    }
    assert all(
        reached[name] >= (value if name == "sparsity" else -value) - 1e-12
        for name, value in budget.items()
    )
    uniform = LossCurves.of(sweep)
    if budget == {"sparsity": 0.8}:
        even = sum(float(uniform.loss(uniform.drop(layer, 0.8))) for layer in spec.conv_names)
        assert said.drop <= uniform.drop_of(even)


def test_a_larger_budget_never_loses_more() -> None:
    drops = [
        make_plan(table(SPEC), {"macs": share}).least_drop.prediction.drop
        for share in (0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    ]
    assert drops == sorted(drops, reverse=True)
    assert drops[-1] == 0


@pytest.mark.parametrize("drop", [85, 100])
def test_a_drop_to_chance_is_no_limit(drop: float) -> None:
    """Losses of layers may sum to more than any drop, yet the smallest network is within it."""
    sweep = table(SPEC)
    sweep = replace(
        sweep, points=tuple(replace(p, drop=79.9) if p.ratio >= 0.5 else p for p in sweep.points)
    )
    least = make_plan(sweep, {"drop": drop}).prediction.params
    smallest = min(network.params() for network in networks(SPEC, 8, ("classifier.0",)))
    assert least == smallest
    assert make_plan(sweep, {"drop": 100, "macs": 1}).minimised == "macs"


def test_what_the_search_leaves_open_is_not_called_impossible(monkeypatch) -> None:
    def gives_up(*_args: object) -> None:
        raise NotFound

    monkeypatch.setattr("tp_vgg.planning.plan_request.constrained_shortest_path", gives_up)
    with pytest.raises(
        BadInput,
        match=r"found no plan that meets macs=0\.5, params=0\.5 at once, though there may be one",
    ):
        make_plan(table(SPEC), {"macs": 0.5, "params": 0.5})


def test_what_the_search_leaves_open_gets_more_room(monkeypatch) -> None:
    expected = make_plan(table(SPEC), {"macs": 0.5, "params": 0.5})
    constrained_shortest_path, asked = allocate.constrained_shortest_path, []

    def cramped(*args: Any) -> Any:
        asked.append(args[-1])
        if len(asked) == 1:
            raise NotFound
        return constrained_shortest_path(*args)

    monkeypatch.setattr(allocate, "constrained_shortest_path", cramped)
    assert make_plan(table(SPEC), {"macs": 0.5, "params": 0.5}) == expected
    assert asked == list(allocate.CAPS)


def test_noise_is_smoothed_and_never_a_gain() -> None:
    sweep = table(SPEC)
    up = tuple(replace(p, drop=-1.0) if p.ratio == 0.5 else p for p in sweep.points)
    curves = LossCurves.of(replace(sweep, points=up))
    for layer in SPEC.conv_names:
        assert list(curves.drops[layer]) == sorted(curves.drops[layer])
        assert curves.drops[layer][0] == 0
    assert curves.drop_of(float(curves.loss(12.5))) == pytest.approx(12.5)
    assert np.isfinite(curves.loss(1000.0))


@pytest.mark.parametrize(
    ("budget", "kind", "said"),
    [
        ({}, "structured", "give one"),
        ({"flops": 0.5}, "structured", "not one of macs"),
        ({"macs": 0}, "structured", "macs=0: must be above 0 and at most 1"),
        ({"macs": 1.5}, "structured", "must be above 0 and at most 1"),
        ({"drop": -1}, "structured", "must be from 0 to 100"),
        ({"sparsity": 1}, "unstructured", "must be at least 0 and below 1"),
        ({"macs": float("nan")}, "structured", "must be a number"),
        ({"macs": True}, "structured", "must be a number"),
        ({"sparsity": 0.5}, "structured", "--kind unstructured"),
        ({"latency": 0.5}, "unstructured", "--kind structured"),
        ({"macs": 0.001}, "structured", "what was swept allows macs=0.4174 at best"),
        ({"sparsity": 0.99}, "unstructured", "what was swept allows sparsity="),
        ({"drop": 0.0, "macs": 0.45}, "structured", "at once"),
    ],
)
def test_what_can_t_be_is_refused(budget: dict, kind: Kind, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_plan(table(SPEC, kind), budget)
    assert said in str(caught.value)


def test_widths_that_would_fill_the_memory_are_refused() -> None:
    table = pages.sweep(VGGSpec((8,) * 7 + (65536,), hidden=()))
    with pytest.raises(
        BadInput, match=r"--round-to: features\.25 has 65536 channels; give 16 or more"
    ):
        make_plan(table, {"macs": 0.5}, round_to=8)


def test_travels_as_json() -> None:
    found = make_plan(table(SPEC), {"macs": 0.5}, sweep={"weights": "w", "split": "val"})
    data = found.to_dict()
    assert PlanResult.from_dict(data) == found
    assert data["kind"] == "structured"
    older = {name: value for name, value in data.items() if name != "least_drop"}
    older["prediction"] = {
        name: value
        for name, value in data["prediction"].items()
        if name not in ("drop_low", "drop_high")
    }
    read = PlanResult.from_dict(older)
    assert (read.least_drop, read.prediction.drop_low) == (None, None)
    assert read.ratios == found.ratios
    for change in ({"format": "x"}, {"layers": [{}]}, {"prediction": {}}, {"kind": "other"}):
        with pytest.raises((TypeError, KeyError, ValueError)):
            PlanResult.from_dict({**data, **change})
