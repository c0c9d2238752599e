from __future__ import annotations

import copy
import itertools
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.fakes import DEFAULT_MHZ, NEEDS_CUDA, CudaOnCpu

import tp_vgg
from tp_vgg.errors import BadInput
from tp_vgg.latency.benchmark import measure, measure_latency
from tp_vgg.latency.clock import CpuClock
from tp_vgg.latency.cuda import CudaClock
from tp_vgg.latency.probes import steps_of
from tp_vgg.latency.schedule import BenchmarkSettings
from tp_vgg.latency.table import BenchmarkCase, Latency, LatencyRow, cases_of
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.pruning.structured import prune_structured
from tp_vgg.pruning.unstructured import prune_unstructured
from tp_vgg.report.latency_tables import render_benchmark

CPU = torch.device("cpu")
FAST = 1e-4
"""Seconds per sample in tests that do not judge times."""


@pytest.fixture
def models(make_model) -> dict[str, Any]:
    dense = make_model()
    narrow, masked = copy.deepcopy(dense), copy.deepcopy(dense)
    prune_structured(narrow, dict.fromkeys(dense.spec.conv_names[:4], 0.5))
    prune_unstructured(masked, 0.9, scope="global")
    return {"dense": dense, "narrow": narrow, "masked": masked}


@pytest.fixture
def cpu() -> TimingDevice:
    return TimingDevice(CPU, CpuClock(1, FAST), CpuClock(1, FAST), None, 1)


@pytest.fixture
def gpu() -> TimingDevice:
    """The whole CUDA path except for the device."""
    cuda = CudaOnCpu(busy=0.3)
    return TimingDevice(CPU, CudaClock(cuda, FAST), CudaClock(cuda, FAST), cuda, 1)


def test_a_table_has_a_row_for_every_model_and_case(models, cpu: TimingDevice) -> None:
    settings = BenchmarkSettings(cases_of(["eager", "folded", "graph"], ["fp32"], [1, 2]), 9)
    found = measure(models, settings, cpu)
    assert [(row.case, row.model) for row in found.rows] == [
        (case, name) for case in settings.cases for name in models
    ]
    assert found.reference == "dense"
    for row in found.rows:
        if row.mode == "graph":
            assert (row.verdict, row.reasons, row.speedup) == (
                "not available",
                ("CUDA graphs need a CUDA device",),
                None,
            )
            continue
        assert len(row.seconds) == 9
        assert row.speedup_low <= row.speedup <= row.speedup_high  # type: ignore[operator]
        assert row.efficiency == pytest.approx(row.speedup / row.mac_ratio)
        assert (row.verdict == "reference") is (row.model == "dense")
        assert row.median_ms == pytest.approx(1e3 * sorted(row.seconds)[4])
    ratios = {row.model: row.mac_ratio for row in found.rows if row.mode == "eager"}
    macs = models["dense"].spec.macs() / models["narrow"].spec.macs()
    assert ratios == {"dense": 1, "narrow": macs, "masked": 1} and macs > 1.5
    assert any(
        "masks save nothing" in reason
        for row in found.rows
        if row.model == "masked"
        for reason in row.reasons
    )
    assert found.models["masked"]["density"] == pytest.approx(0.1, abs=0.05)


def test_networks_of_the_same_widths_are_timed_once_and_say_so(models, cpu: TimingDevice) -> None:
    models = {
        **models,
        "tuned": copy.deepcopy(models["narrow"]),
        "again": copy.deepcopy(models["dense"]),
    }
    found = measure(models, BenchmarkSettings(cases_of(["eager"], ["fp32"], [1]), 9), cpu)
    rows = {row.model: row for row in found.rows}
    assert list(rows) == list(models)
    assert replace(rows["tuned"], model="narrow") == rows["narrow"]
    assert {name: about.get("timed_as") for name, about in found.models.items()} == {
        "dense": None, "narrow": None, "masked": None, "tuned": "narrow", "again": None,
    }  # fmt: skip
    assert rows["again"].seconds != rows["dense"].seconds != rows["masked"].seconds


def test_a_table_survives_json(models, cpu: TimingDevice) -> None:
    found = measure(models, BenchmarkSettings(cases_of(["eager", "graph"], ["fp32"], [1]), 9), cpu)
    assert Latency.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    with pytest.raises(ValueError, match="version"):
        Latency.from_dict({**found.to_dict(), "format": "x"})
    with pytest.raises(ValueError, match="not listed"):
        Latency.from_dict({**found.to_dict(), "models": {}})


@pytest.mark.parametrize(
    "change",
    [
        {"speedup": "1"}, {"median_ms": None}, {"mode": "x"}, {"dtype": "fp8"}, {"verdict": "fast"},
        {"reasons": [1]}, {"batch_size": 0}, {"slow_blocks": -1}, {"more": 1},
        {"speedup": float("nan")}, {"seconds": "abc"}, {"verdict": "not available"},
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused(change: dict[str, Any]) -> None:
    row = {
        "model": "dense", "mode": "eager", "dtype": "fp32", "batch_size": 1, "verdict": "reference",
        "reasons": [], "median_ms": 1.0, "iqr_ms": 0.1, "speedup": 1.0, "speedup_low": 0.9,
        "speedup_high": 1.1, "over_eager": 1.0, "mac_ratio": 1.0, "efficiency": 1.0,
        "efficiency_low": 0.9, "efficiency_high": 1.1,
    }  # fmt: skip
    table = {
        "format": "tp_vgg/latency/1",
        "reference": "dense",
        "models": {"dense": {}},
        "environment": {"device": "cpu", "cpu": "a CPU", "threads": 1},
        "conditions": {},
    }
    assert Latency.from_dict({**table, "rows": [row]}).headline() == BenchmarkCase(
        "eager", "fp32", 1
    )
    for bad in (
        {**table, "rows": [{**row, **change}]},
        {**table, "rows": [row], "models": []},
        {**table, "rows": [row], "reference": "x"},
    ):
        with pytest.raises((TypeError, KeyError, ValueError)):
            Latency.from_dict(bad)


def test_memory_is_weights_input_and_activations(models, cpu: TimingDevice) -> None:
    found = measure(models, BenchmarkSettings(cases_of(["eager", "folded"], ["fp32"], [4]), 9), cpu)
    peak = {(row.mode, row.model): row.peak_bytes for row in found.rows}
    dense = models["dense"]
    weights = sum(value.nbytes for value in dense.state_dict().values())
    images, first = 4 * 3 * 32 * 32 * 4, 4 * dense.spec.widths[0] * 32 * 32 * 4
    assert peak["eager", "dense"] == weights + images + 2 * first
    assert peak["eager", "masked"] == peak["eager", "dense"]
    assert peak["folded", "narrow"] < peak["folded", "dense"] < peak["eager", "dense"]


def test_the_cuda_path_on_a_device_that_is_not_there(models, gpu: TimingDevice) -> None:
    """Graphs are captured, and busy time explains rows.

    Memory is read from the allocator and the conditions from the device.
    """
    found = measure(
        models,
        BenchmarkSettings(cases_of(["eager", "folded", "graph", "onnxruntime"], ["fp32"], [2]), 9),
        gpu,
    )
    rows = {(row.mode, row.model): row for row in found.rows}
    assert all(row.speedup for (mode, _), row in rows.items() if mode != "onnxruntime")
    assert rows["onnxruntime", "dense"].verdict == "not available"
    assert all((row.busy is not None) is (row.mode in ("eager", "folded")) for row in found.rows)
    assert all(row.busy == pytest.approx(0.3) for row in found.rows if row.busy is not None)
    narrow = [
        row
        for row in found.rows
        if row.model == "narrow" and row.busy is not None and row.efficiency < 0.9
    ]  # type: ignore[operator]
    assert all(any("launch-bound" in reason for reason in row.reasons) for row in narrow)
    assert found.conditions["before"] == {"pstate": "P0"}
    assert found.conditions["before_each"]["graph fp32, batch 2"] == {"pstate": "P0"}
    assert found.conditions["after"]["graph fp32, batch 2"] == {"pstate": "P0"}
    assert (
        rows["eager", "dense"].peak_bytes
        == 1000 + sum(v.nbytes for v in models["dense"].state_dict().values()) + 2 * 3 * 32 * 32 * 4
    )
    # One capture for each of the three models and the control.
    assert gpu.cuda is not None and gpu.cuda.log.count("capture") == 4  # type: ignore[attr-defined]
    reasons = rows["eager", "masked"].reasons
    assert any("masks" in reason for reason in reasons)


def test_finished_cases_are_not_measured_again(models, cpu: TimingDevice) -> None:
    settings = BenchmarkSettings(cases_of(["eager", "folded"], ["fp32"], [1]), 9)
    done: list[tuple[LatencyRow, ...]] = []
    first = measure(models, settings, cpu, case_done=done.append)
    assert [rows[0].case for rows in done] == list(settings.cases)
    again: list[tuple[LatencyRow, ...]] = []
    second = measure(
        models, settings, cpu, known={done[0][0].case: done[0]}, case_done=again.append
    )
    assert [rows[0].case for rows in again] == [settings.cases[1]]
    assert [row.seconds for row in second.rows[:3]] == [row.seconds for row in first.rows[:3]]


def test_no_memory_is_a_row_and_not_a_crash(models, cpu: TimingDevice, monkeypatch) -> None:
    def full(*_args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tp_vgg.latency.timed_case.prepare", full)
    found = measure(models, BenchmarkSettings(cases_of(["eager"], ["fp32"], [1]), 9), cpu)
    assert {(row.verdict, row.reasons) for row in found.rows} == {
        ("not available", ("out of memory",))
    }
    assert found.headline() is None


def test_a_compiler_that_fails_says_why_in_its_row(models, cpu: TimingDevice, monkeypatch) -> None:
    """torch.compile's error names only the backend; the row gives the error behind it."""

    def backend(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler here\nand a long story")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    found = measure(
        {"dense": models["dense"]}, BenchmarkSettings(cases_of(["compile"], ["fp32"], [1]), 9), cpu
    )
    assert found.rows[0].verdict == "not available"
    assert found.rows[0].reasons == ("torch.compile failed (RuntimeError: no C++ compiler here)",)


def test_a_compiler_that_warns_is_timed(models, cpu: TimingDevice, monkeypatch) -> None:
    """Inductor warns of TF32 in its first pass, and of its own parts on import."""

    def compiling(call: Any, **_: Any) -> Any:
        warnings.warn("a part of the compiler is old", DeprecationWarning, stacklevel=1)
        passes: list[int] = []

        def compiled(images: torch.Tensor) -> Any:
            if not passes:
                warnings.warn(
                    "TensorFloat32 tensor cores are not enabled", UserWarning, stacklevel=1
                )
            passes.append(1)
            return call(images)

        return compiled

    monkeypatch.setattr(torch, "compile", compiling)
    with warnings.catch_warnings(action="error"):
        found = measure(models, BenchmarkSettings(cases_of(["compile"], ["fp32"], [1]), 9), cpu)
    assert all(row.speedup for row in found.rows)


def test_a_model_may_have_any_name(models, cpu: TimingDevice) -> None:
    odd = {"dense in eager mode": models["dense"], "control": models["narrow"]}
    found = measure(odd, BenchmarkSettings(cases_of(["folded"], ["fp32"], [1]), 9), cpu)
    assert [(row.model, row.mac_ratio == 1) for row in found.rows] == [
        ("dense in eager mode", True),
        ("control", False),
    ]


def test_a_probe_without_memory_costs_nothing(models, cpu: TimingDevice, monkeypatch) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("tp_vgg.latency.probes.probe_layers", full)
    monkeypatch.setattr("tp_vgg.latency.probes.needs_reason", lambda row: row.model == "narrow")
    found = measure(models, BenchmarkSettings(cases_of(["eager"], ["fp32"], [1]), 9), cpu)
    assert all(row.speedup for row in found.rows)


@pytest.fixture
def probed(monkeypatch) -> list[tuple[int, str]]:
    """List (first width, mode) of each probe instead of running it; all pruned rows need one."""
    seen: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "tp_vgg.latency.probes._probed",
        lambda model, case, *_: seen.append((model.spec.widths[0], case.label)) or (),
    )
    monkeypatch.setattr("tp_vgg.latency.probes.needs_reason", lambda row: row.model != "dense")
    return seen


def test_only_cases_that_are_quoted_are_probed(models, cpu: TimingDevice, probed) -> None:
    """At batch 64, in each dtype: the dense model's fastest mode and the model's own."""
    found = measure(models, BenchmarkSettings(cases_of(["eager"], ["fp32"], [1]), 9), cpu)
    (dense, narrow, _) = found.rows
    times = {
        ("eager", "fp32"): (3.0, 1.0), ("folded", "fp32"): (2.0, 2.0),
        ("graph", "fp32"): (4.0, 3.0), ("eager", "bf16"): (2.0, 1.0),
        ("folded", "bf16"): (1.0, 0.5),
    }  # fmt: skip
    rows = [
        replace(row, mode=mode, dtype=dtype, batch_size=batch, median_ms=ms / batch)
        for (mode, dtype), both in times.items()
        for batch in (1, 64, 1024)
        for row, ms in zip((dense, narrow), both, strict=True)
    ]
    probed.clear()
    two = {name: models[name] for name in ("dense", "narrow")}
    steps = steps_of(rows, two, BenchmarkSettings((dense.case,)), cpu)
    wanted = ["eager fp32, batch 64", "folded fp32, batch 64", "folded bf16, batch 64"]
    assert [label for _, label in probed] == wanted
    assert [(name, case.label) for name, case in steps] == [("narrow", label) for label in wanted]


def test_probes_can_be_left_out(models, cpu: TimingDevice, probed) -> None:
    cases = cases_of(["eager"], ["fp32"], [1])
    measure(models, BenchmarkSettings(cases, 9, probes=False), cpu)
    assert not probed
    measure(models, BenchmarkSettings(cases, 9), cpu)
    assert len(probed) == 2
    measure_latency(
        models,
        modes=["eager"],
        dtypes=["fp32"],
        batch_sizes=[1],
        trials=9,
        device="cpu",
        probes=False,
    )
    assert len(probed) == 2


def throttled_device(mhz: Callable[[float], float]) -> TimingDevice:
    cuda = CudaOnCpu(busy=0.3, mhz=mhz)
    return TimingDevice(CPU, CudaClock(cuda, FAST), CudaClock(cuda, FAST), cuda, 1)


def test_a_gpu_that_throttles_is_told_of(models, monkeypatch) -> None:
    """Once the clock is low around two blocks, once it stays low."""
    monkeypatch.setattr("tp_vgg.latency.interleave.PAUSE_SECONDS", 0.0)
    asked = itertools.count()
    some = throttled_device(lambda _: 1000.0 if next(asked) in (2, 3, 4) else DEFAULT_MHZ)
    settings = BenchmarkSettings(cases_of(["eager", "folded"], ["fp32"], [1]), 9, probes=False)
    found = measure(models, settings, some)
    assert all(row.speedup and len(row.seconds) == 9 for row in found.rows)
    assert {row.case.mode: row.slow_blocks for row in found.rows} == {"eager": 2, "folded": 0}
    assert (
        "2 blocks thrown away, in which the clock was under 75% of its default rate"
        in render_benchmark(found)
    )
    low = measure(models, settings, throttled_device(lambda _: 1000.0))
    assert {
        (row.verdict, row.reasons[0].partition(":")[0], row.slow_blocks) for row in low.rows
    } == {("not available", "throttled", 18)}
    assert "36 blocks thrown away" in render_benchmark(
        low
    ) and "throttled: the clock was under 75%" in render_benchmark(low)
    assert "thrown away" not in render_benchmark(
        measure(models, settings, throttled_device(lambda _: DEFAULT_MHZ))
    )
    assert Latency.from_dict(json.loads(json.dumps(low.to_dict()))) == low


def test_a_table_of_before_has_no_slow_blocks(models, cpu: TimingDevice) -> None:
    found = measure(models, BenchmarkSettings(cases_of(["eager"], ["fp32"], [1]), 9), cpu)
    old = found.to_dict()
    for row in old["rows"]:
        del row["slow_blocks"]
    for name in ("before_each", "cache_bytes"):
        del old["conditions"][name]
    assert Latency.from_dict(old).rows == found.rows


def test_the_headline_is_batch_64_where_the_dense_model_is_fastest(
    models, cpu: TimingDevice
) -> None:
    found = measure(models, BenchmarkSettings(cases_of(["eager"], ["fp32"], [1, 2]), 9), cpu)
    assert found.headline() == BenchmarkCase("eager", "fp32", 2)
    rows = tuple(replace(row, batch_size=64, mode="folded", median_ms=1e-9) for row in found.rows)
    assert replace(found, rows=found.rows + rows).headline() == BenchmarkCase("folded", "fp32", 64)


def test_threads_are_put_back_and_bad_input_is_refused(models) -> None:
    before = torch.get_num_threads()
    found = measure_latency(
        {"dense": models["dense"]},
        modes=["eager"],
        dtypes=["fp32"],
        batch_sizes=[1],
        trials=9,
        device="cpu",
        threads=1,
    )
    assert found.environment["threads"] == 1 and found.conditions["before"]["threads"] == 1
    assert torch.get_num_threads() == before
    for wrong, message in (
        ({"modes": ["eagre"]}, "--modes: 'eagre' is not one of eager, folded"),
        ({"dtypes": ["fp16"]}, "--dtypes: 'fp16'"),
        ({"batch_sizes": [0]}, "batch-sizes: 0: must be from 1"),
        ({"batch_sizes": ["1"]}, "batch-sizes: '1'"),
        ({"batch_sizes": [True]}, "batch-sizes: True"),
        ({"threads": 0}, "threads: 0"),
        ({"threads": -1}, "threads: -1"),
        ({"trials": 1}, "9 trials or more"),
        ({"modes": []}, "one or more cases"),
    ):
        with pytest.raises(BadInput, match=message):
            measure_latency({"dense": models["dense"]}, **wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="one or more models"):
        measure_latency({})


def test_it_is_public() -> None:
    assert tp_vgg.measure_latency is measure_latency


@pytest.mark.gpu
@NEEDS_CUDA
def test_every_mode_on_a_real_gpu(models) -> None:
    modes = ["eager", "folded", "graph", "folded-graph"]
    found = measure_latency(models, modes=modes, batch_sizes=[64], trials=9, device="cuda")
    assert {row.verdict for row in found.rows} <= {"reference", "faster", "no gain", "slower"}
    assert all(row.busy is None or 0 < row.busy <= 1 for row in found.rows)
    assert any(row.busy for row in found.rows if row.mode == "eager")
    assert all(row.peak_bytes for row in found.rows if row.mode == "eager")
    assert found.conditions["before"]["driver_version"]


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_compiled_network_on_a_real_gpu(models) -> None:
    """A separate test, because compilation takes most of a minute."""
    case = {"modes": ["compile"], "dtypes": ["fp32"], "batch_sizes": [64]}
    found = measure_latency(models, **case, trials=9, device="cuda", probes=False)
    assert all(row.median_ms for row in found.rows), [row.reasons for row in found.rows]


@pytest.mark.parametrize(
    ("device", "sizes"), [("cpu", {1, 64}), ("cuda", {1, 64, 1024}), ("auto", None)]
)
def test_without_batch_sizes_they_are_those_of_the_device(
    models, monkeypatch, device: str, sizes: set[int] | None
) -> None:
    """On a CPU 1024 takes minutes per case, and is timed only if asked for."""
    asked = []
    monkeypatch.setattr("tp_vgg.latency.benchmark.measure", lambda *given, **_: asked.append(given))
    monkeypatch.setattr(
        "tp_vgg.latency.benchmark.pick_device",
        lambda name: torch.device(name.replace("auto", "cpu")),
    )
    monkeypatch.setattr("tp_vgg.latency.benchmark.TimingDevice.of", lambda *_: None)
    measure_latency(models, device=device)
    measure_latency(models, device=device, batch_sizes=[1024])
    default, given = ({case.batch_size for case in one[1].cases} for one in asked)
    assert default == (sizes or {1, 64}) and given == {1024}
