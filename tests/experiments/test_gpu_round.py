"""The GPU round, tested on a CPU.

Every part ends, an interruption keeps the results so far, and the tables say only what was
measured.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import one_line

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "gpu_round.py"
STEPS = 14
"""Number of steps of a dry run."""
KINDS = {
    "machine",
    "ceiling",
    "check",
    "latency",
    "latency table",
    "sweep",
    "naive",
    "step time",
    "run",
    "profile",
    "repair",
}
FILES = {"results.jsonl", "summary.txt", "logs.txt", "files.tar.gz"}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gpu_round(tmp_path: Path) -> Run:
    """Run the script in an empty folder, with digits as the only data."""

    def run(*args: object, script: Path = SCRIPT, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), *map(str, args)], capture_output=True, text=True,
            check=False, cwd=tmp_path, env={**os.environ, **env},
        )  # fmt: skip

    return run


def dry_run(tmp_path: Path) -> subprocess.Popen[str]:
    """Start a dry run on digits, even if there is other data; results go to tmp_path/out."""
    (tmp_path / "nothing").mkdir()
    command = [
        sys.executable,
        SCRIPT,
        "--tiny",
        "--data",
        tmp_path / "nothing",
        "--work",
        tmp_path / "work",
    ]
    env = {**os.environ, "OUT": str(tmp_path / "out"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
    )


def lines_of(out: Path) -> list[dict[str, Any]]:
    """Every line of results.jsonl; each must be a complete JSON object."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_dry_run_ends_every_part(tmp_path: Path, gpu_round: Run) -> None:
    out, process = tmp_path / "out", dry_run(tmp_path)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, ""), (out / "logs.txt").read_text()
    lines = lines_of(out)
    steps = {line["name"]: line["outcome"] for line in lines if line["kind"] == "step"}
    assert set(steps.values()) == {"ok"} and len(steps) == STEPS, steps
    assert not [line for line in lines if "error" in line]
    assert {line["kind"] for line in lines} >= KINDS
    assert {path.name for path in out.iterdir()} == {
        *FILES,
        "dense.pth.0",
        "dense.pth.1",
        "dense.pth.2",
    }
    whole = b"".join((out / f"dense.pth.{number}").read_bytes() for number in range(3))
    assert whole == (tmp_path / "work/runs/dense-s0/vgg11_digits_finetuned.pth").read_bytes()
    with tarfile.open(out / "files.tar.gz") as archive:
        assert "runs/zeros-0.95-1/records/unstructured.json" in archive.getnames()
    tables = gpu_round("--render", out / "results.jsonl").stdout
    assert f"{STEPS} of {STEPS} ended well." in tables
    for row in (
        "| fit |",
        "| 0.6 of the MACs | 1 | ours, seed 0 |",
        "| 95% zeros | 1 | zeros, seed 0 |",
    ):
        assert row in tables


@pytest.mark.slow
def test_a_dry_run_that_is_cut_keeps_what_it_had(tmp_path: Path) -> None:
    out, process, half = tmp_path / "out", dry_run(tmp_path), STEPS // 2
    summary = out / "summary.txt"
    while process.poll() is None and not (
        summary.is_file() and summary.read_text().count(": ok in ") >= half
    ):
        time.sleep(0.1)
    time.sleep(1)  # into the next step
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert one_line(err.lstrip()).startswith("error: interrupted: what was done lies in ")
    steps = [line for line in lines_of(out) if line["kind"] == "step"]
    outcomes = [step["outcome"] for step in steps]
    assert outcomes.count("ok") in (half, half + 1) and outcomes.count("stopped") <= 1
    assert len(outcomes) == STEPS and set(outcomes[half + 2 :]) == {"not run"}
    assert {path.name for path in out.iterdir()} >= FILES
    with tarfile.open(out / "files.tar.gz") as archive:
        assert "runs/dense-s0/records/baseline.json" in archive.getnames()


def test_the_tests_for_a_gpu_are_found_in_every_wing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "experiments")
    from gpu.parts import gpu_test_files

    found = {path.parent.name for path in gpu_test_files(ROOT)}
    assert found >= {"latency", "sensitivity", "training"}


POLITE = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('kept')"
"""A step that saves its work when it is interrupted."""


def test_a_step_is_stopped_as_by_ctrl_c_when_its_time_box_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "experiments")
    from gpu import runner
    from gpu.setting import Setting

    monkeypatch.setattr(runner, "SHORTEST", 0.5)
    setting = Setting(str(ROOT), str(tmp_path), str(tmp_path), "cpu", tiny=True, data=None)
    r = runner.Round(setting, ROOT / "experiments", end=time.time() + 60)
    assert r.step("polite", [sys.executable, "-c", POLITE], 1.5) == -1
    assert r.step("wrong", [sys.executable, "-c", "raise SystemExit(3)"], 30) == 3
    r.cut_short(signal.SIGTERM)
    assert r.step("late", [sys.executable, "-c", POLITE], 30) is None
    assert [line["outcome"] for line in lines_of(tmp_path)] == [
        "stopped",
        "exit status 3",
        "not run",
    ]
    assert (tmp_path / "logs" / "polite.txt").read_text() == "kept\n"
    assert (r.failed, r.ended) == (["wrong"], 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--only", "tests,speed"],
            "--only: 'speed' is not one of tests, latency, sweeps, training, profile, repair",
        ),
        (["--minutes", "0"], "--minutes"),
        (["--minutes", "nan", "--tiny"], "NaN is not a number"),
        (["--device", "nonsense", "--tiny"], "--device: 'nonsense' is not one of"),
        (["--device", "cuda:99", "--tiny"], "--device: cuda:99: this machine has"),
        (["--render", "none.jsonl"], "none.jsonl"),
        (["--data", "."], "--data: no folder with cifar10-jpeg.tar.xz"),
        (["--prepare", "kit", "--tiny", "--data", "."], "--prepare: cifar10-jpeg.tar.xz"),
        (["--tiny", "there"], "there: files are given with --render"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(
    tmp_path: Path, gpu_round: Run, options: list[str], said: str
) -> None:
    (tmp_path / "there").touch()
    done = gpu_round(*options)
    assert done.returncode == 2
    assert said in one_line(done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def row(model: str, verdict: str, speedup: float, macs: float, **more: Any) -> dict[str, Any]:
    """A row of a latency table as the round records it."""
    return {
        "model": model, "mode": "folded-graph", "dtype": "bf16", "batch_size": 1024,
        "verdict": verdict, "reasons": [], "median_ms": 2 / speedup, "speedup": speedup,
        "speedup_low": speedup - 0.01, "speedup_high": speedup + 0.01, "over_eager": 2 * speedup,
        "mac_ratio": macs, "efficiency": speedup / macs, "efficiency_low": speedup / macs - 0.01,
        "efficiency_high": speedup / macs + 0.01, "slow_blocks": 2, **more,
    }  # fmt: skip


def recorded() -> list[dict[str, Any]]:
    """Lines that a short round might have recorded."""
    dense, half = row("dense", "reference", 1.0, 1.0), row("half_macs.json", "faster", 1.8, 2.0)
    test = {"correct": 9000, "n": 10000, "accuracy": 90.0, "low": 89.4, "high": 90.57}
    common = {"macs": 76e6, "params": 4e6, "test": test}
    conditions = {
        "before": {"clock": "1980 MHz"},
        "before_each": {},
        "after": {"a": {"clock": "1965 MHz"}},
    }
    return [
        {"kind": "round", "commit": "abc"}, {"kind": "round", "commit": "abc-dirty"},
        {"kind": "device", "gpu": "Some GPU", "l2_mib": 50},
        {"kind": "test", "name": "tests/test_x.py::test_a", "outcome": "passed"},
        {"kind": "test", "name": "tests/test_x.py::test_b", "outcome": "failed"},
        {"kind": "check", "name": "graph", "holds": True},
        {"kind": "latency", "group": "bf16", "cell": "x",
         "rows": [dense, row("half_macs.json", "no gain", 1.0, 2.0)]},
        {"kind": "latency table", "group": "bf16", "conditions": conditions, "rows": [dense, half]},
        {"kind": "sweep", "name": "structured fp32", "sweep_kind": "structured",
         "precision": "fp32", "images": 10000, "points": 72,
         "cold": 2.0, "warm": 0.5, "redone": 0.0},
        {"kind": "naive", "name": "structured", "sweep_kind": "structured", "timed": 8,
         "points": 72, "largest_difference": 1,
         "whole": {"host loader": 50.0, "on the device": 25.0}},
        {"kind": "step time", "name": "fit", "variant": "fit", "batch": 512, "images": 45000,
         "ms_a_step": 2.5, "seconds_an_epoch": 0.22},
        {"kind": "run", "name": "dense, seed 1", "model": "baseline", **common},
        {"kind": "run", "name": "0.5 of the MACs", "arm": "ours", "seed": 0, "epochs": 60,
         "one_shot": None, **common},
        {"kind": "run", "name": "98% zeros", "model": "unstructured", "nonzero": 2e5, "epochs": 5,
         **common},
        {"kind": "profile", "name": "bf16, batch 64",
         "at_full_input_us": {"features.0": [[32, 5.0], [33, 10.0], [64, 10.0]]}},
        {"kind": "repair", "name": "zeros=0.95", "case": "zeros=0.95", "cold": 3.5,
         "seconds": 1.25, "epoch": 0.9, "peak_bytes": 2e9, "dense": 87.0, "removed": 10.0,
         "repaired": 84.5},
        {"kind": "step", "name": "lab", "outcome": "ok"},
        {"kind": "step", "name": "profiles", "outcome": "stopped"},
    ]  # fmt: skip


def test_the_tables_hold_what_was_measured_and_say_what_was_not(
    tmp_path: Path, gpu_round: Run
) -> None:
    path = tmp_path / "results.jsonl"
    lines = [json.dumps({"time": place, **line}) for place, line in enumerate(recorded())]
    path.write_text("\n".join([*lines, '{"kind": "half a li']))
    done = gpu_round("--render", path)
    assert (done.returncode, done.stderr) == (0, "")
    for said in (
        "- commit: abc, abc-dirty\n- gpu: Some GPU\n- l2_mib: 50",
        "gpu tests: 1 failed, 1 passed\n- tests/test_x.py::test_b: failed\n- check graph: holds",
        "| 1024 | folded-graph | bf16 | dense | 2.0000 | 1.000 [0.990, 1.010] (A/A control) "
        "| 1.00 | - | 2.00 | reference |",
        "| 1024 | folded-graph | bf16 | half_macs.json | 1.1111 | 1.800 [1.790, 1.810] "
        "| 2.00 | 0.90 [0.89, 0.91] | 3.60 | faster |",
        "| 64 | graph | fp32 | (all) | not measured |",
        "\n| folded-graph | 1.800 [1.790, 1.810] | 2.00 | 0.90 [0.89, 0.91] |",
        "\n| eager | not measured | not measured | not measured |",
        "- clock: 1965 MHz, 1980 MHz\n- blocks thrown away because the clock was low: 2",
        "| structured | fp32 | 72 × 10,000 | 2.000 | 0.500 | 0.0% | - "
        "| 50.0 (100.0×) | 25.0 (50.0×) |",
        "| unstructured | bf16 | not measured |",
        "structured: the loop was timed on 8 of 72 points",
        "| fit | 512 | 2.500 | 0.220 | 45,000 |",
        "| 1 | 90.00 [89.40, 90.57] | not measured | not measured |",
        "| 2 | not measured |",
        "| 0.5 of the MACs | 60 | ours, seed 0 | 76.00 | 4.00 | not measured "
        "| 90.00 [89.40, 90.57] |",
        "| 98% zeros | 5 | zeros, seed 0 | 76.00 | 0.20 | not measured | 90.00 [89.40, 90.57] |",
        "| bf16, batch 64 | features.0 | 64 | 10.0 | 0.50 (32) | 2.00 (32 → 33) |",
        "| zeros=0.95 | 3.50 | 1.25 | 0.90 | 2.00 | 87.00 | 10.00 | 84.50 |",
        "1 of 2 ended well.\n- profiles: stopped",
    ):
        assert said in done.stdout, said


def test_of_nothing_the_tables_say_that_nothing_was_measured(
    tmp_path: Path, gpu_round: Run
) -> None:
    (tmp_path / "results.jsonl").write_text('{"kind": "round", "tiny": false}\n')
    done = gpu_round("--render", "results.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    titles = re.findall(r"^## .*", done.stdout, re.MULTILINE)
    assert len(titles) == 12
    assert all("not measured" in section for section in done.stdout.split("## ")[1:])
    figures = re.sub(r"^\| (1|64|1024|[0-2]) \|", "", done.stdout, flags=re.MULTILINE)
    assert not re.search(r"\d\.\d", figures)


FAKE_PIP = """
import pathlib, sys, zipfile
options = sys.argv[1:]
folder = pathlib.Path(options[options.index("-d") + 1])
(folder.parent / "asked.txt").write_text("\\n".join(options))
for name in ("click-9.0", "torch_pruning-1.6.1", "nvidia_ml_py-13.0"):
    zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w").close()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout of the project's code; small stand-ins for the data and pip lie beside it."""
    root = tmp_path / "checkout"
    shutil.copytree(
        ROOT / "experiments", root / "experiments", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "tp_vgg", root / "tp_vgg", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", root)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    (tmp_path / "images").mkdir()
    for name in ("cifar10-jpeg.tar.xz", "vgg11_bn_linear_cifar10-jpeg.pth"):
        (tmp_path / "images" / name).write_bytes(name.encode())
    (tmp_path / "fake" / "pip").mkdir(parents=True)
    (tmp_path / "fake" / "pip" / "__init__.py").touch()
    (tmp_path / "fake" / "pip" / "__main__.py").write_text(FAKE_PIP)
    return root


def test_prepare_makes_a_kit_that_git_ignores(
    tmp_path: Path, checkout: Path, gpu_round: Run
) -> None:
    script = checkout / "experiments" / "gpu_round.py"

    def prepare(where: Path) -> subprocess.CompletedProcess[str]:
        return gpu_round(
            "--prepare", where, "--data", "images", script=script, PYTHONPATH=str(tmp_path / "fake")
        )

    for _ in range(2):  # the second replaces the first
        done = prepare(checkout / ".kit")
        assert done.returncode == 0, done.stderr
    kit = checkout / ".kit"
    assert (kit / "gpu_round.py").read_bytes() == SCRIPT.read_bytes()
    assert {p.name for p in (kit / "gpu").iterdir()} == {
        p.name for p in (SCRIPT.parent / "gpu").glob("*.py")
    }
    assert {path.name for path in (kit / "data").iterdir()} == {
        path.name for path in (tmp_path / "images").iterdir()
    }
    assert len(list((kit / "wheels").iterdir())) == 3
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout
    assert (kit / ".made-by-gpu_round").read_text() == head[:12]
    asked = (kit / "asked.txt").read_text().splitlines()
    assert asked[0] == "download" and asked[asked.index("--python-version") + 1] == "3.12"
    assert [re.split("[<>=]", text)[0] for text in asked[-3:]] == [
        "torch-pruning",
        "click",
        "nvidia-ml-py",
    ]
    assert (
        "python3 .kit/gpu_round.py --minutes 9" in done.stdout
        and "python .kit/gpu_round.py --tiny" in done.stdout
    )
    assert (checkout / ".git/info/exclude").read_text().splitlines().count("/.kit/") == 1
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    assert (
        b".kit" not in subprocess.run(status, cwd=checkout, capture_output=True, check=True).stdout
    )
    assert gpu_round("--help", script=kit / "gpu_round.py").returncode == 0


def test_prepare_writes_over_nothing_of_others(
    tmp_path: Path, checkout: Path, gpu_round: Run
) -> None:
    script = checkout / "experiments" / "gpu_round.py"
    for where, said in (
        (tmp_path / "outside", "must lie inside the checkout"),
        (checkout / "experiments", "is there and is no earlier kit"),
        (checkout / "setup.cfg", "is there and is no earlier kit"),
    ):
        done = gpu_round(
            "--prepare", where, "--data", "images", script=script, PYTHONPATH=str(tmp_path / "fake")
        )
        assert done.returncode == 2
        assert said in one_line(done.stderr)
    assert not (tmp_path / "outside").exists() and script.is_file()


def test_prepare_refuses_what_is_too_much_to_carry(
    tmp_path: Path, checkout: Path, gpu_round: Run
) -> None:
    with (tmp_path / "images" / "cifar10-jpeg.tar.xz").open("wb") as file:
        file.truncate(61 << 20)
    script = checkout / "experiments" / "gpu_round.py"
    done = gpu_round(
        "--prepare",
        checkout / "kit",
        "--data",
        "images",
        script=script,
        PYTHONPATH=str(tmp_path / "fake"),
    )
    assert done.returncode == 1
    assert "60 at most" in one_line(done.stderr)


def test_where_no_data_is_given_cifar10_is_downloaded_and_the_dense_model_trained_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_round as script
    from gpu.runner import Round
    from gpu.setting import Setting

    steps: list[list[str]] = []

    def step(self: Round, name: str, command: list[str], box: float) -> int:
        steps.append([name, *command])
        return 0

    monkeypatch.setattr(Round, "step", step)
    setting = Setting(str(ROOT), str(tmp_path), str(tmp_path), "cuda", tiny=False, data=None)
    r = Round(setting, SCRIPT.parent, time.time() + 600, ("sweeps",))
    script.run_round(r)
    assert [name for name, *_ in steps] == [
        "facts", "dense, seed 0", "structured sweep by the command line",
        "unstructured sweep by the command line", "sweeps",
    ]  # fmt: skip
    train, sweep = steps[1], steps[2]
    for command in (train, sweep):
        assert command[command.index("--dataset") + 1] == "cifar10"
    trained = Path(train[train.index("--out") + 1]) / "vgg11_cifar10_finetuned.pth"
    assert sweep[sweep.index("--checkpoint") + 1] == str(trained) == str(setting.dense)


def test_a_job_that_fails_keeps_none_of_the_others_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from gpu.runner import Round
    from gpu.setting import Setting

    (tmp_path / "out").mkdir()
    places = (str(ROOT), str(tmp_path), str(tmp_path / "out"))
    r = Round(Setting(*places, "cpu", False, None), tmp_path, time.time() + 60, ())
    done: list[int] = []

    def job(i: int) -> None:
        if i == 1:
            raise OSError("no more files")
        done.append(i)

    r.together([functools.partial(job, i) for i in range(6)], at_once=2)
    assert sorted(done) == [0, 2, 3, 4, 5] and len(r.failed) == 1
    assert "OSError: no more files" in (tmp_path / "out" / "summary.txt").read_text()


def test_what_is_no_round_is_refused_and_a_damaged_line_spoils_its_own_table_alone(
    tmp_path: Path, gpu_round: Run
) -> None:
    for text in ("", "{broken", "[1, 2]\n", '{"a": 1}\n'):
        (tmp_path / "x.jsonl").write_text(text)
        done = gpu_round("--render", "x.jsonl")
        assert (done.returncode, done.stdout) == (2, "")
        assert "x.jsonl: holds no results of a round" in one_line(done.stderr)
    lines = [
        {"kind": "step", "name": "x"},
        {"kind": "test", "name": "x"},
        {"kind": "ceiling", "name": "s", "value": "x"},
        {"kind": "profile", "name": "s", "at_full_input_us": {"features.0": []}},
        {
            "kind": "run",
            "name": "dense, seed 1",
            "model": "baseline",
            "test": {"accuracy": 88.0, "low": 87.0, "high": 89.0},
        },
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = gpu_round("--render", "x.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not shown: a line of the results is damaged") == 4
    assert "88.00 [87.00, 89.00]" in done.stdout


def test_the_tables_of_the_docs_are_those_of_the_kept_rounds(gpu_round: Run) -> None:
    rounds = sorted((ROOT / "docs" / "gpu").glob("*.jsonl"))
    assert rounds
    done = gpu_round("--render", *rounds)
    assert done.returncode == 0, done.stderr
    assert (ROOT / "docs" / "gpu.md").read_text().endswith(done.stdout)
