from __future__ import annotations

from dataclasses import replace

import pytest

from tp_vgg.latency.table import LatencyRow, Ratio
from tp_vgg.latency.traffic import Memory, bytes_moved
from tp_vgg.latency.verdicts import UNEXPLAINED, WidthStep, explain, verdict
from tp_vgg.network.vgg.spec import VGGSpec

DENSE = VGGSpec.preset(head="linear")
HALF = DENSE.with_widths({name: width // 2 for name, width in DENSE.prunable.items()})
QUIET = Ratio(1.0, 0.99, 1.01)
MODELS = {
    "dense": {"spec": DENSE.to_dict(), "macs": DENSE.macs(), "density": 1.0},
    "half": {"spec": HALF.to_dict(), "macs": HALF.macs(), "density": 1.0},
    "masked": {"spec": DENSE.to_dict(), "macs": DENSE.macs(), "density": 0.05},
}


def row(model: str = "half", **changes: object) -> LatencyRow:
    """A row whose speed-up is far below its MAC ratio, so that a reason is due."""
    base = LatencyRow(
        model, "eager", "fp32", 64, "faster", (), median_ms=10.0, iqr_ms=0.1, speedup=1.2,
        speedup_low=1.1, speedup_high=1.3, over_eager=1.2, mac_ratio=3.9, efficiency=0.31,
        efficiency_low=0.28, efficiency_high=0.33,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


REFERENCE = row("dense", verdict="reference", speedup=1.0, mac_ratio=1.0, efficiency=1.0)


FAST = Memory(1e15)


def reasons(*rows: LatencyRow, memory: Memory = FAST, steps: dict | None = None) -> tuple[str, ...]:
    """The reasons of the last row."""
    return explain([REFERENCE, *rows], MODELS, memory, steps or {})[-1].reasons


@pytest.mark.parametrize(
    ("ratio", "control", "found"),
    [
        (Ratio(1.5, 1.4, 1.6), QUIET, "faster"),
        (Ratio(1.02, 0.99, 1.05), QUIET, "no gain"),
        (Ratio(0.9, 0.85, 0.95), QUIET, "slower"),
        # The control was off by as much.
        (Ratio(1.04, 1.02, 1.06), Ratio(1.05, 1.03, 1.07), "no gain"),
        (Ratio(1.2, 1.1, 1.3), Ratio(1.05, 1.03, 1.07), "faster"),
        (Ratio(0.97, 0.96, 0.98), Ratio(0.96, 0.94, 0.98), "no gain"),
    ],
)
def test_the_verdict_follows_from_the_interval_and_the_control(
    ratio: Ratio, control: Ratio, found: str
) -> None:
    assert verdict(ratio, control) == found


def test_a_full_gain_needs_no_reason() -> None:
    assert reasons(row(efficiency=0.95)) == ()
    assert reasons(row()) == ("no rule explains it",)


def test_masks_save_nothing() -> None:
    masked = row("masked", verdict="no gain", mac_ratio=1.0, efficiency=1.0, speedup=1.0)
    assert reasons(masked) == ("masks save nothing: dense kernels multiply its 95.0% zeros too",)
    both = {**MODELS, "half": {**MODELS["half"], "density": 0.5}}
    found = explain([REFERENCE, row(efficiency=0.95)], both, FAST, {})[-1].reasons
    assert found == ("masks save nothing: dense kernels multiply its 50.0% zeros too",)


def test_odd_widths_in_bf16_on_tensor_cores() -> None:
    """The rule holds on a GPU, in bf16, for a network with too small a speed-up."""
    odd = DENSE.with_widths({"features.4": 90, "features.8": 179, "features.25": 360})
    models = {**MODELS, "half": {"spec": odd.to_dict(), "macs": odd.macs(), "density": 1.0}}

    def found(changed: LatencyRow, cuda: bool = True) -> tuple[str, ...]:
        return explain([REFERENCE, changed], models, FAST, {}, cuda=cuda)[-1].reasons

    (reason,) = found(row(dtype="bf16"))
    assert reason.startswith(
        "odd widths: 2 of 8 convs have a number of channels that is no multiple of 8"
    )
    assert reason.endswith("prune with --round-to 8 or 16")
    assert (
        found(row(dtype="bf16"), cuda=False) == found(row(dtype="fp32")) == ("no rule explains it",)
    )
    assert found(row(dtype="bf16", efficiency=0.95)) == ()


def test_what_promised_nothing_owes_no_reason() -> None:
    """A copy of the dense model, or one with few more zeros, needs no reason."""
    copy = {**MODELS, "masked": {**MODELS["dense"], "density": 0.999}}
    assert (
        explain(
            [REFERENCE, row("masked", verdict="no gain", mac_ratio=1.0, speedup=1.0)],
            copy,
            Memory(1e9),
            {},
        )[-1].reasons
        == ()
    )


def test_launch_bound_by_a_gpu_that_waits_or_by_a_graph_that_does_not() -> None:
    assert reasons(row(busy=0.4)) == ("launch-bound: the GPU works 40% of the time",)
    assert reasons(row(busy=0.6)) == ("no rule explains it",)
    graph = row(mode="graph", median_ms=4.0)
    assert reasons(graph, row()) == ("launch-bound: a CUDA graph of it is 2.5× as fast as eager",)
    assert reasons(row(mode="graph", median_ms=6.0), row()) == ("no rule explains it",)
    # A graph does not wait for launches.
    assert reasons(row(), graph) == ("no rule explains it",)
    assert reasons(replace(graph, batch_size=1), row()) == ("no rule explains it",)
    # This graph is of the eager network, not of the folded one.
    assert reasons(graph, row(mode="folded")) == ("no rule explains it",)
    folded = row(mode="folded-graph", median_ms=4.0)
    assert reasons(folded, row(mode="folded")) == (
        "launch-bound: a CUDA graph of it is 2.5× as fast as folded",
    )
    assert reasons(folded, row()) == ("no rule explains it",)


@pytest.mark.parametrize("mode", ["eager", "folded", "compile"])
def test_memory_bound_where_moving_what_no_cache_holds_takes_half_the_time(mode) -> None:
    seconds = row().median_ms / 1000  # type: ignore[operator]
    for share, found in (
        (0.6, "memory-bound: moving what the cache does not hold is 60% of its time"),
        (0.4, "no rule explains it"),
    ):
        for cache in (0, 1 << 20):
            memory = Memory(bytes_moved(HALF, mode, 64, 4, cache) / (share * seconds), cache)
            assert reasons(row(mode=mode), memory=memory) == (found,)
    half = Memory(bytes_moved(HALF, mode, 64, 4) / (0.6 * seconds))
    assert reasons(row(mode=mode, dtype="bf16"), memory=half) == ("no rule explains it",)


def test_on_a_gpu_the_bias_of_a_conv_is_moved_too() -> None:
    seconds = row().median_ms / 1000  # type: ignore[operator]
    there = Memory(bytes_moved(HALF, "folded", 64, 4, cuda=True) / (0.55 * seconds))
    for cuda, found in (
        (True, "memory-bound: moving what the cache does not hold is 55% of its time"),
        (False, UNEXPLAINED),
    ):
        assert explain([REFERENCE, row(mode="folded")], MODELS, there, {}, cuda=cuda)[
            -1
        ].reasons == (found,)


def test_what_the_cache_holds_is_no_reason() -> None:
    """A bandwidth that is the bottleneck with a small cache is none if everything fits."""
    seconds = row().median_ms / 1000  # type: ignore[operator]
    bandwidth = bytes_moved(HALF, "eager", 64, 4) / (0.6 * seconds)
    assert reasons(row(), memory=Memory(bandwidth))[0].startswith("memory-bound")
    assert reasons(row(), memory=Memory(bandwidth, 1 << 30)) == ("no rule explains it",)


def test_a_step_is_named_with_the_width_that_goes_down() -> None:
    steep = WidthStep(
        "features.4 at 64 channels instead of 65", 65 / 64, Ratio(1.25, 1.2, 1.3), "its time"
    )
    # Little more than the step in MACs.
    flat = WidthStep("features.8", 136 / 128, Ratio(1.13, 1.12, 1.14), "its time")
    small = WidthStep("features.8", 513 / 512, Ratio(1.03, 1.02, 1.04), "its time")
    vague = WidthStep("features.11", 65 / 64, Ratio(1.25, 0.9, 1.6), "its time")
    assert [step.is_large for step in (steep, flat, small, vague)] == [True, False, False, False]
    found = reasons(row(), steps={("half", row().case): [steep, flat, vague]})
    assert found == (
        "staircase: features.4 at 64 channels instead of 65 "
        "would take 20% off its time for 2% fewer MACs",
    )


def test_a_control_that_is_off_is_said() -> None:
    for speedup, found in (
        (1.05, ("not quiet: the A/A control of this case is 1.050",)),
        (0.98, ()),
    ):
        assert (
            explain([replace(REFERENCE, speedup=speedup)], MODELS, Memory(1e9), {})[0].reasons
            == found
        )
    cold = explain([replace(REFERENCE, warm=False)], MODELS, Memory(1e9), {})[0]
    assert cold.reasons == ("not warm: times still fell after the longest warm-up",)


def test_what_is_not_available_keeps_its_reason() -> None:
    missing = LatencyRow(
        "half", "graph", "fp32", 64, "not available", ("CUDA graphs need a CUDA device",)
    )
    assert reasons(missing) == missing.reasons
