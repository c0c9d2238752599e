from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.commands import QUICK, files, one_line

from tp_vgg.latency.table import MODES, cases_of
from tp_vgg.network.checkpoint import load, save
from tp_vgg.pruning.structured import prune_structured
from tp_vgg.stages.benchmark import _key_parts
from tp_vgg.stages.options import BenchmarkOptions

pytestmark = pytest.mark.usefixtures("brief")
FEW = [
    "--batch-sizes",
    "1,2",
    "--modes",
    "eager,folded,graph",
    "--dtypes",
    "fp32",
    "--trials",
    "9",
    "--threads",
    "1",
]


@pytest.fixture
def pair(make_model, at_home: Path) -> tuple[Path, Path]:
    model = make_model()
    save(model, at_home / "dense.pth")
    prune_structured(model, dict.fromkeys(model.spec.conv_names, 0.5))
    save(model, at_home / "half.pth")
    return at_home / "dense.pth", at_home / "half.pth"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--modes", "eagre"], "--modes: 'eagre' is not one of eager, folded"),
        (["--dtypes", "fp16"], "--dtypes: 'fp16' is not one of fp32, tf32, bf16"),
        (["--batch-sizes", "1,x"], "--batch-sizes: '1,x': give whole numbers"),
        (["--batch-sizes", "0"], "batch-sizes: 0: must be from 1"),
        (["--batch-sizes", "99999999999"], "must be from 1"),
        (["--trials", "2"], "--trials"),
        (["nothing.pth"], "CHECKPOINT: nothing.pth: no such file"),
        (["--profile", "--runtime", "onnxruntime"], "--profile"),
        (["--profile", "--modes", "eager"], "--profile"),
        (["--profile", "--no-probes"], "--profile"),
        (["--dtypes", ""], "--dtypes: ''"),
        (["--batch-sizes", ""], "--batch-sizes"),
        ([], "nothing to time yet"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    call, at_home: Path, args: list[str], message: str
) -> None:
    status, out, err = call("benchmark", "--dataset", "digits", *args)
    assert (status, out) == (2, "")
    assert message in one_line(err)
    assert not files(at_home)


def test_a_refusal_does_not_import_torch(tp_vgg, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None\n")
    done = tp_vgg("benchmark", "--modes", "x", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith("error: --modes: ")
    done = tp_vgg("export", "x.pth", "--format", "onnx", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and "no such file" in done.stderr


@pytest.mark.usefixtures("undrawn")
def test_checkpoints_are_timed_against_the_dense_one(call, pair) -> None:
    dense, half = pair
    status, out, err = call("benchmark", half, "--checkpoint", dense, "--out", "o", *FEW, "--wide")
    assert status == 0, err
    assert files(Path("o")) == {"latency.json", "plots/latency.png", ".lock"}
    found = json.loads(Path("o/latency.json").read_text())
    assert list(found["models"]) == ["baseline", str(half)]
    assert len(found["rows"]) == 2 * 6
    assert found["environment"]["torch"] and found["environment"]["threads"] == 1
    assert found["conditions"]["before"]["load"]
    lines = out.splitlines()
    assert "1 CPU threads; n = 9 blocks" in lines[0]
    assert sum("not available: CUDA graphs need a CUDA device" in line for line in lines) == 2
    assert sum(line.startswith("baseline ") for line in lines) == 4
    kept = load(half).spec.macs() / load(dense).spec.macs()
    assert sum(f" {kept:.3f}×" in line for line in lines) == 4


def test_the_key_of_a_journal_names_options_as_it_always_did() -> None:
    """An interrupted benchmark of an earlier version is continued."""
    options = BenchmarkOptions(cases_of(("folded",), ("fp32",), (1,)), 9, reuse_input=True)
    assert _key_parts(options) == {
        "cells": ({"mode": "folded", "dtype": "fp32", "batch_size": 1},),
        "trials": 9,
        "threads": None,
        "probes": True,
        "hot": True,
    }


def test_refusals_that_need_the_files(call, pair, at_home: Path) -> None:
    dense, half = pair
    (at_home / "baseline").write_bytes(half.read_bytes())
    before = files(at_home)
    for args, message in (
        ([half, "--arch", "vgg16", "--out", "o"], "holds vgg11_bn, but --arch vgg16"),
        (
            ["baseline", "--checkpoint", dense, "--out", "o"],
            "is what the dense model is called here",
        ),
        (
            [half, "--checkpoint", dense, "--out", "o", "--modes", "graph"],
            "this device has none of them",
        ),
    ):
        status, out, err = call("benchmark", *args)
        assert (status, out) == (2, "")
        assert message in one_line(err)
    assert files(at_home) == before


@pytest.mark.usefixtures("undrawn")
def test_the_first_checkpoint_is_the_reference_where_there_is_no_dense_one(call, pair) -> None:
    dense, half = pair
    status, _, err = call("benchmark", dense, half, "--out", "o", *FEW[:-2], "--modes", "eager")
    assert status == 0, err
    assert f"the others are compared with {dense}" in err
    assert json.loads(Path("o/latency.json").read_text())["reference"] == str(dense)


@pytest.mark.usefixtures("undrawn")
def test_metrics_and_the_table_take_the_latency_of_these_very_files(call, small, plan_file) -> None:
    plan = plan_file({"features.0": 0.5, "features.8": 0.5})
    status, _, err = call(
        "structured", *small, "--ratios", plan, "--finetune-epochs", 0, "--out", "o"
    )
    assert status == 0, err
    status, out, err = call("compare", *small, "--out", "o")
    assert status == 0 and "speed-up" not in out
    status, _, err = call("benchmark", *small, "--out", "o", *FEW)
    assert status == 0, err
    status, out, err = call("compare", *small, "--out", "o")
    assert status == 0, err
    assert "Speed-up: " in out and "A/A " in out
    models = json.loads(Path("o/metrics.json").read_text())["models"]
    rows = models["structured_pruned"]["latency"]
    assert {(row["mode"], row["batch_size"]) for row in rows} == {
        (m, b) for m in ("eager", "folded", "graph") for b in (1, 2)
    }
    wanted = {
        "device",
        "mode",
        "dtype",
        "batch_size",
        "median_ms",
        "iqr_ms",
        "speedup",
        "speedup_low",
        "speedup_high",
        "verdict",
    }
    assert all(wanted <= set(row) for row in rows)
    assert rows[0]["n"] == 9
    status, out, _ = call("compare", *small, "--out", "o", "--format", "csv")
    header, first, second = (line.split(",") for line in out.splitlines())
    assert (
        first[header.index("verdict")] == "reference" and float(second[header.index("speedup")]) > 0
    )
    status, _, err = call(
        "structured", *small, "--ratio", 0.25, "--finetune-epochs", 0, "--out", "o"
    )
    assert status == 0, err
    status, out, _ = call("compare", *small, "--out", "o")
    assert "not measured" in out  # the checkpoint has changed
    assert (
        "latency"
        not in json.loads(Path("o/metrics.json").read_text())["models"]["structured_pruned"]
    )


@pytest.mark.usefixtures("thin", "undrawn")
def test_benchmark_brings_metrics_up_to_date(call, at_home: Path, hashed: Counter[str]) -> None:
    """It hashes each checkpoint once."""
    status, _, err = call(
        "structured", *QUICK, "--ratio", 0.5, "--finetune-epochs", 0, "--out", "o"
    )
    assert status == 0, err
    hashed.clear()
    status, _, err = call("benchmark", *QUICK, "--out", "o", *FEW[:-2], "--modes", "folded")
    assert status == 0, err
    assert hashed == {path.name: 1 for path in Path("o").glob("*.pth")}
    models = json.loads(Path("o/metrics.json").read_text())["models"]
    assert all(len(model["latency"]) == 2 for model in models.values())
    assert set(models) == {"baseline", "structured_pruned"}
    Path("o/latency.json").write_text('{"format": "x"}')
    status, _, err = call("compare", *QUICK, "--out", "o")
    assert status == 0 and "not a benchmark of this version" in err


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_benchmark_goes_on_from_the_next_cell(call, pair, monkeypatch) -> None:
    from tp_vgg.latency import benchmark as latency

    dense, half = pair
    args = ["benchmark", half, "--checkpoint", dense, "--out", "o", *FEW]
    real, measured = latency.measure_case, []

    def interrupted(models, case, *rest):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(case)
        return real(models, case, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(latency, "measure_case", interrupted)
        status, out, err = call(*args)
    assert (status, out) == (130, "")
    assert files(Path("o")) == {"latency.partial.jsonl", ".lock"}
    first = [case.label for case in measured]
    with Path("o/latency.partial.jsonl").open("a") as journal:
        # Lines that no benchmark writes are skipped.
        journal.write('{"rows": [{"model": "x"}]}\n{"cases": 1}\n')

    def counted(models, case, *rest):
        measured.append(case)
        return real(models, case, *rest)

    monkeypatch.setattr(latency, "measure_case", counted)
    status, out, err = call(*args)
    assert status == 0, err
    assert "2 of 6 cases were measured before" in err
    assert [case.label for case in measured[2:]] and not set(first) & {
        case.label for case in measured[2:]
    }
    assert len(measured) == 6
    assert "latency.partial.jsonl" not in files(Path("o"))
    status, _, err = call(*args)
    assert status == 0 and len(measured) == 12  # a finished benchmark is measured anew


@pytest.mark.usefixtures("undrawn")
def test_a_throttled_cell_is_measured_again(call, pair, monkeypatch) -> None:
    """A mode that the device lacks stays unavailable; throttling passes."""
    from tp_vgg.latency import benchmark as latency
    from tp_vgg.latency.table import LatencyRow
    from tp_vgg.stages.benchmark import throttled

    dense, half = pair
    args = ["benchmark", half, "--checkpoint", dense, "--out", "o", *FEW]
    real, measured = latency.measure_case, []

    def hot(models, case, *rest):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(case)
        why = ("throttled: the clock was low",)
        return tuple(
            LatencyRow(
                n, case.mode, case.dtype, case.batch_size, "not available", why, slow_blocks=9
            )
            for n in models
        )

    with monkeypatch.context() as patch:
        patch.setattr(latency, "measure_case", hot)
        assert call(*args)[0] == 130
    again = []
    monkeypatch.setattr(
        latency,
        "measure_case",
        lambda models, case, *rest: (again.append(case), real(models, case, *rest))[1],
    )
    assert call(*args)[0] == 0
    assert set(measured) <= set(again) and len(again) == 6
    lacking = LatencyRow(
        "m", "graph", "fp32", 1, "not available", ("CUDA graphs need a CUDA device",)
    )
    assert not throttled([lacking]) and throttled([lacking, replace(lacking, slow_blocks=9)])


@pytest.mark.usefixtures("undrawn")
def test_probes_are_left_out_where_the_user_says_so(call, pair, monkeypatch) -> None:
    dense, half = pair
    asked: list[bool] = []
    monkeypatch.setattr(
        "tp_vgg.latency.benchmark.steps_of", lambda *given: asked.append(given[2].probes) or {}
    )
    for options in (["--no-probes"], []):
        status, out, err = call(
            "benchmark", half, "--checkpoint", dense, "--out", "o", *FEW, *options
        )
        assert status == 0, err
        assert ("steps at slightly smaller widths were not looked for" in out) is bool(options)
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("device", "modes", "dtypes"),
    [
        ("cpu", {"folded"}, {"fp32"}),
        ("cuda", {"eager", "folded", "folded-graph"}, {"fp32", "bf16"}),
    ],
)
def test_run_measures_what_the_device_is_fast_in(
    device: str, modes: set, dtypes: set, at_home, monkeypatch
) -> None:
    from tp_vgg.network.vgg.spec import VGGSpec
    from tp_vgg.rundir.layout import RunDir
    from tp_vgg.rundir.settings import Settings
    from tp_vgg.stages import run

    settings = Settings(device=device, out=at_home / "o")
    asked = []
    monkeypatch.setattr(run, "pick_device", torch.device)
    monkeypatch.setattr(run, "benchmarked", lambda *_: False)
    monkeypatch.setattr(run, "benchmark", lambda _, options: asked.append(options))
    pipeline = run._Pipeline(settings, run.RunOptions(), VGGSpec.preset(), RunDir.of(settings))
    pipeline.benchmark(settings)
    (options,) = asked
    assert ({case.mode for case in options.cases}, {case.dtype for case in options.cases}) == (
        modes,
        dtypes,
    )
    assert {case.batch_size for case in options.cases} == {1, 64}


def test_the_help_names_every_mode(call) -> None:
    status, out, _ = call("benchmark", "--help")
    assert status == 0
    assert all(f" {mode} (" in out or f" {mode};" in out for mode in MODES)


@pytest.mark.usefixtures("undrawn")
def test_onnxruntime_is_one_more_mode(call, pair) -> None:
    dense, half = pair
    options = ["--batch-sizes", "2", "--modes", "eager", "--dtypes", "fp32", "--trials", "9"]
    status, _, err = call(
        "benchmark", half, "--checkpoint", dense, "--out", "o", *options, "--runtime", "onnxruntime"
    )
    assert status == 0, err
    rows = json.loads(Path("o/latency.json").read_text())["rows"]
    assert [(row["mode"], row["speedup"] is not None) for row in rows] == [("eager", True)] * 2 + [
        ("onnxruntime", True)
    ] * 2
    assert rows[2]["over_eager"] > 0


def test_a_profile_is_journaled_cached_and_drawn(
    call, make_model, at_home: Path, monkeypatch
) -> None:
    from tp_vgg.stages import profile

    save(make_model(), at_home / "dense.pth")
    args = [
        "benchmark",
        "--profile",
        "--checkpoint",
        at_home / "dense.pth",
        "--out",
        "o",
        "--batch-sizes",
        "2",
        "--dtypes",
        "fp32,tf32",
    ]
    real, timed = profile.profile_layer, []

    def interrupted(row, *rest):
        if len(timed) == 3:
            raise KeyboardInterrupt
        timed.append(row.name)
        return real(row, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(profile, "profile_layer", interrupted)
        assert call(*args)[0] == 130

    def counted(row, *rest):
        timed.append(row.name)
        return real(row, *rest)

    monkeypatch.setattr(profile, "profile_layer", counted)
    status, out, err = call(*args)
    assert status == 0, err
    assert "tf32, batch 2: not available" in err
    assert len(timed) == len(set(timed)) == 8
    assert [line.split()[0] for line in out.splitlines()[2:]] == sorted(
        timed, key=lambda n: int(n.split(".")[1])
    )
    (path,) = Path("o/profiles").iterdir()
    table = json.loads(path.read_text())
    assert table["format"] == "tp_vgg/staircase/1" and table["batch_size"] == 2
    assert {p["layer"] for p in table["points"]} == set(timed)
    assert all(p["median_us"] > 0 for p in table["points"])
    assert Path("o/plots/staircase.png").read_bytes().startswith(b"\x89PNG")
    damaged = {**table, "points": table["points"][1:]}
    again, out_again, err = call(*args)
    assert (again, out_again) == (0, out) and "was profiled before" in err and len(timed) == 8
    path.write_text(json.dumps(damaged))
    status, out, err = call(*args)
    assert status == 0 and len(timed) == 16  # a table with a hole is measured anew


def test_a_profile_of_what_the_device_lacks_is_refused(call, at_home: Path) -> None:
    status, _, err = call("benchmark", "--profile", "--out", "o", "--dtypes", "tf32", "-q")
    assert status == 2 and "this device has none of them" in one_line(err)
    assert not files(at_home)


@pytest.mark.parametrize(
    ("form", "end"),
    [("onnx", ".onnx"), ("torch", ".pt2"), ("safetensors", ".safetensors"), ("sparse", ".sparse")],
)
def test_export_writes_beside_the_checkpoint_and_says_what_it_checked(
    call, pair, form: str, end: str
) -> None:
    dense, _ = pair
    status, out, err = call("export", dense, "--format", form)
    assert status == 0, err
    path = dense.with_suffix(end)
    assert path.is_file() and f"{path.name}: {path.stat().st_size:,} bytes" in out
    assert ("last bit" in out) is (form in ("safetensors", "sparse"))


def test_export_refusals(call, pair, at_home: Path) -> None:
    dense, half = pair
    before = files(at_home)
    for args, message in (
        (["nothing.pth", "--format", "onnx"], "no such file"),
        ([dense, "--format", "torch", "--output", dense], "is the checkpoint itself"),
        ([dense, "--format", "torch", "--output", at_home], "is a directory"),
        ([dense, "--format", "torch", "--output", half], "exists; give --force"),
        ([dense, "--format", "sparse", "--output", "m.pth"], "must end in .sparse"),
        ([dense, "--format", "sparse", "--arch", "vgg16"], "holds vgg11_bn, but --arch vgg16"),
    ):
        status, out, err = call("export", *args)
        assert (status, out) == (2, "")
        assert message in one_line(err)
    assert files(at_home) == before


@pytest.mark.parametrize(
    ("device", "options", "sizes"),
    [
        ("cpu", [], {1, 64}),
        ("cuda", [], {1, 64, 1024}),
        ("cpu", ["--batch-sizes", "1024"], {1024}),
        ("cuda", ["--batch-sizes", "2"], {2}),
        ("cpu", ["--profile"], {64}),
        ("cuda", ["--profile"], {64}),
    ],
)
def test_the_default_batch_sizes_are_those_of_the_device(
    call, monkeypatch, device: str, options: list[str], sizes: set[int]
) -> None:
    asked: list[BenchmarkOptions] = []

    def stage(_settings, options, *_):
        asked.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("tp_vgg.stages.benchmark.benchmark", stage)
    monkeypatch.setattr("tp_vgg.stages.profile.profile", stage)
    monkeypatch.setattr("tp_vgg.machine.device.pick_device", torch.device)
    assert call("benchmark", *QUICK, "--device", device, *options)[0] == 130
    assert {case.batch_size for case in asked[0].cases} == sizes


@pytest.mark.usefixtures("undrawn")
def test_a_benchmark_that_was_made_before_is_said_to_be_timed_again(call, pair) -> None:
    dense, half = pair
    args = ["benchmark", half, "--checkpoint", dense, "--out", "o", *FEW]
    status, _, err = call(*args)
    assert (status, "timed before" in err) == (0, False)
    status, _, err = call(*args)
    assert status == 0, err
    assert "o/latency.json: these cases were timed before; they are timed again" in err
    assert "wrote o/plots/latency.png" in err
