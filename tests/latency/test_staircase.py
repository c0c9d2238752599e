from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch
from helpers.fakes import FakeCuda, ScriptedClock
from helpers.networks import SMALL

from tp_vgg.latency import probes, staircase
from tp_vgg.latency.cuda import CudaClock
from tp_vgg.latency.probes import lower_widths, probe_layers, probe_network
from tp_vgg.latency.staircase import REPEATS, Grid, profile_layer
from tp_vgg.latency.table import BenchmarkCase
from tp_vgg.network.layers import LayerRow
from tp_vgg.network.vgg.spec import VGGSpec

CPU = torch.device("cpu")
CASE = BenchmarkCase("folded", "fp32", 2)


@pytest.mark.parametrize(
    ("width", "lower"),
    [
        (64, ()),
        (65, (64,)),
        (45, (40,)),
        (100, (96,)),
        (97, (96,)),
        (120, (112,)),
        (7, ()),
        (72, (64,)),
    ],
)
def test_lower_widths(width: int, lower: tuple[int, ...]) -> None:
    assert lower_widths(width) == lower


def test_a_grid_covers_every_conv_to_its_full_width() -> None:
    spec = VGGSpec.preset()
    points = Grid().of(spec)
    assert tuple(points) == spec.conv_names
    assert {i for i, _ in points["features.0"]} == {3}
    assert [o for _, o in points["features.0"]] == [8, 16, 24, 32, 40, 48, 56, 64, *range(9, 64, 8)]
    widths = tuple(range(64, 513, 64))
    assert Grid().widths(512) == widths
    full = {(i, o) for i in widths for o in widths}
    assert set(points["features.25"]) == full | {(512, width + 1) for width in widths[:-1]}
    assert Grid().widths(45) == (8, 16, 24, 32, 40, 45)
    assert all(len(set(of)) == len(of) for of in Grid(step=1, points=100).of(SMALL).values())


def staircase_clock(step: int) -> ScriptedClock:
    """A conv's time is its output channels, rounded up to a multiple of ``step``.

    The time of a pair is that of its first conv.
    """
    return ScriptedClock(lambda name, _: -(-int(name) // step) * step * 1e-5)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Calls return their width instead of running; counts chains by their number of convs."""
    built: Counter = Counter()

    def conv_call(convs, images, case):
        built[len(convs)] += 1
        return lambda: str(convs[0][1])

    for user in ("staircase", "probes"):
        monkeypatch.setattr(f"tp_vgg.latency.{user}.conv_call", conv_call)
    return built


def test_a_probe_finds_the_width_that_steps_down(named: Counter) -> None:
    spec = VGGSpec((64, 129, 250, 256, 512, 500, 512, 513))
    steps = {
        step.change.split()[0]: step for step in probe_layers(spec, CASE, CPU, staircase_clock(32))
    }
    assert set(steps) == {spec.conv_names[i] for i in (1, 2, 5, 7)}
    second = steps[spec.conv_names[1]]
    assert second.change == "features.4 at 128 channels instead of 129" and second.is_large
    assert second.gain.value == pytest.approx(160 / 128) and second.mac_ratio == 129 / 128
    third = steps[spec.conv_names[2]]
    # 250 lies just below a step: 248 and 240 cost the same, and 224 saves no more than its share.
    assert not third.is_large
    assert "at 512 channels" in steps[spec.conv_names[7]].change
    assert named[1] > 0 and named[2] > 0  # no conv follows the last one


def test_a_network_is_probed_whole_where_convs_do_not_run_alone() -> None:
    spec = VGGSpec((64, 129, 256, 256, 512, 500, 512, 512))

    def ready(model):
        return lambda: "as it is" if model.spec == spec else str(model.spec.widths)

    clock = ScriptedClock(lambda name, _: 2.0 if name == "as it is" else 1.0)
    (step,) = probe_network(spec, ready, clock)
    assert (
        step.change
        == "features.4 at 128 channels instead of 129, features.18 at 496 channels instead of 500"
    )
    assert step.is_large and step.gain.value == 2
    assert 1 < step.mac_ratio < 1.02
    assert str((64, 128, 256, 256, 512, 496, 512, 512)) in clock.order
    assert not list(probe_network(VGGSpec.preset(), ready, clock))
    # Widths under 16 have no smaller multiple of 16.
    assert not list(probe_network(SMALL, ready, clock))


def test_no_step_where_the_time_is_proportional(named: Counter) -> None:
    spec = VGGSpec((65, 129, 250, 257, 513, 500, 511, 513))
    assert not any(step.is_large for step in probe_layers(spec, CASE, CPU, staircase_clock(1)))


def test_a_profile_times_every_point(named: Counter) -> None:
    row = SMALL.rows[1]
    points = ((8, 4), (8, 12), (4, 12))
    timed = list(profile_layer(row, points, CASE, CPU, staircase_clock(8), trials=3))
    assert [(p.layer, p.in_width, p.out_width) for p in timed] == [
        (row.name, *point) for point in points
    ]
    assert [p.median_us for p in timed] == pytest.approx([80, 160, 160])
    assert all(p.iqr_us == pytest.approx(0) for p in timed)


LAUNCH = 1e-4
"""Seconds of a launch, longer than any of the convs below takes."""


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A conv takes a microsecond per output channel, and its launch takes far longer."""
    cuda = FakeCuda(launch=LAUNCH)
    for user in ("staircase", "probes"):
        monkeypatch.setattr(
            f"tp_vgg.latency.{user}.conv_call", lambda convs, *_: cuda.takes(1e-6 * convs[0][1])
        )
    return cuda


def test_on_cuda_a_profile_counts_no_launches(launched: FakeCuda) -> None:
    points = ((8, 4), (8, 12), (4, 12))
    timed = list(
        profile_layer(SMALL.rows[1], points, CASE, CPU, CudaClock(launched), cuda=launched)
    )
    share = 1e6 * LAUNCH / REPEATS  # a whole replay has only one launch
    assert [p.median_us for p in timed] == pytest.approx([4 + share, 12 + share, 12 + share])
    alone = list(profile_layer(SMALL.rows[1], points, CASE, CPU, CudaClock(launched)))
    assert [p.median_us for p in alone] == pytest.approx([104, 112, 112])


def test_on_cuda_a_probe_counts_no_launches(launched: FakeCuda) -> None:
    spec = VGGSpec((64, 129, 256, 256, 512, 512, 512, 512))
    (step,) = probe_layers(spec, CASE, CPU, CudaClock(launched), cuda=launched)
    assert step.gain.value == pytest.approx((129 + 5) / (128 + 5))


def test_a_replay_is_no_longer_than_a_sample_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer repeats of long convs are captured, down to one."""
    seen: list[int] = []

    class Spied(FakeCuda):
        def capture(self, call, repeats=1, pool=None):
            seen.append(repeats)
            return super().capture(call, repeats, pool)

    for seconds, repeats in ((1e-5, REPEATS), (0.002, 5), (0.3, 1)):
        cuda = Spied()
        monkeypatch.setattr(
            "tp_vgg.latency.staircase.conv_call", lambda *_, c=cuda, s=seconds: c.takes(s)
        )
        (timed,) = profile_layer(SMALL.rows[1], ((8, 4),), CASE, CPU, CudaClock(cuda), cuda=cuda)
        assert timed.median_us == pytest.approx(1e6 * seconds)
        assert seen.pop() == repeats


def test_a_layers_graphs_are_gone_before_the_next_layer(
    launched: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs of a layer share one pool, whose memory is freed with the last reference."""
    graphs: list[weakref.ref] = []
    pools: list[object] = []
    alive: list[int] = []
    real = launched.capture

    def capture(call, repeats, pool):
        made = real(call, repeats, pool)
        graphs.append(weakref.ref(made))
        pools.append(pool)
        return made

    monkeypatch.setattr(launched, "capture", capture)
    monkeypatch.setattr(
        "tp_vgg.latency.staircase.release_memory",
        lambda: alive.append(sum(one() is not None for one in graphs)),
    )
    for row in SMALL.rows[1:3]:
        list(profile_layer(row, ((8, 4), (8, 8)), CASE, CPU, CudaClock(launched), cuda=launched))
    assert alive == [0, 0] and len(graphs) == 4
    assert pools[0] is pools[1] and pools[2] is pools[3] and pools[0] is not pools[2]


def test_the_timed_convs_are_those_of_the_network() -> None:
    """The shapes follow the pair: conv, ReLU, the pool between stages, conv, ReLU."""
    first, second, third = SMALL.rows[1], SMALL.rows[2], SMALL.rows[3]

    def run(row: LayerRow, after: LayerRow | None, case: BenchmarkCase) -> torch.Tensor:
        images = staircase.random_images(row.in_width, row.side, case, CPU)
        found = staircase.conv_call(probes._pair(row, after, 5), images, case)()
        assert isinstance(found, torch.Tensor) and (found >= 0).all()
        return found

    with torch.inference_mode():
        for mode in ("folded", "eager"):
            pooled = run(first, second, BenchmarkCase(mode, "fp32", 2))  # type: ignore[arg-type]
            assert pooled.shape == (2, second.out_width, second.side, second.side)
        assert run(second, third, CASE).shape == (2, third.out_width, third.side, third.side)
        assert run(third, None, CASE).shape == (2, 5, third.side, third.side)
