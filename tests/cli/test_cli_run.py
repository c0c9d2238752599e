"""`run` and `report` on the command line: the whole pipeline, its reruns, and kills in between."""

from __future__ import annotations

import html
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import files, one_line

from tp_vgg.errors import BadInput
from tp_vgg.latency.table import FEWEST_TRIALS, cases_of
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning.constrained_path import NotFound
from tp_vgg.stages import run as pipeline
from tp_vgg.stages.options import BenchmarkOptions
from tp_vgg.stages.run_budget import RunOptions, check_attainable

QUICKLY = BenchmarkOptions(cases_of(("folded",), ("fp32",), (1,)), FEWEST_TRIALS)
ARGS = ["--out", "o", "--finetune-epochs", "1", "--round-to", "1"]
LEFT = {
    "history.csv", "latency.json", "metrics.json", "plan.json", "ratios.json", "sparsity.json",
    "report.html", "structured_history.csv", "structured_sensitivity.csv",
    "structured_sensitivity_results.pth", "unstructured_pruned_vgg11.pth",
    "unstructured_sensitivity.csv", "unstructured_sensitivity_results.pth",
    "vgg11_digits_finetuned.pth", "vgg11_digits_structured_pruned.pth",
    "vgg11_digits_structured_pruned_finetuned.pth", "plots/latency.png",
    "plots/structured_features.0.png", "plots/structured_sensitivity.png",
    "plots/structured_sensitivity_cost.png", "plots/unstructured_features.0.png",
    "plots/unstructured_sensitivity.png", "plots/unstructured_sensitivity_cost.png",
}  # fmt: skip


@pytest.fixture
def quickly(brief: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BENCHMARK", QUICKLY)
    monkeypatch.setattr(pipeline, "MIN_IMAGES", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
def test_everything_once_and_only_once(call, small, at_home: Path) -> None:
    status, out, err = call("run", *small, *ARGS)
    assert status == 0, err
    found = files(at_home / "o")
    # Not left behind here, because the baseline was given and not trained.
    given = {"history.csv", "vgg11_digits_finetuned.pth"}
    assert found >= LEFT - given
    assert not [name for name in found if "partial" in name]
    assert [row.split()[0] for row in out.splitlines()[2:6]] == [
        "baseline",
        "unstructured",
        "structured_pruned",
        "structured_finetuned",
    ]
    assert re.findall(r"^\[(\d+)/11\]", err, re.MULTILINE) == [str(i) for i in range(1, 12)]
    assert " to go" in err
    heading, size, accuracy, timing, page_line = out.splitlines()[-5:]
    assert heading == "structured_finetuned against baseline"
    assert size.startswith("Smaller: ")
    assert "guesses" in accuracy or "ccura" in accuracy
    assert re.match(r"(Faster|No faster|Slower): \d", timing)
    assert page_line == "Page: o/report.html"
    assert "unstructured: fine-tuned for 1 epoch\n" in out
    drawn = re.findall(r"^wrote (o/plots/.*)$", err, re.MULTILINE)
    assert sorted(drawn) == sorted(f"o/{name}" for name in found if name.startswith("plots/"))
    page = (at_home / "o" / "report.html").read_text()
    assert len(page) < 3e6
    assert "python -m tp_vgg run --dataset digits" in page
    assert "structured plan (macs=0.5), predicted → realised" in page

    kept = {
        name: (at_home / "o" / name).stat().st_mtime_ns
        for name in found
        if name not in ("metrics.json", ".lock")
    }
    metrics = (at_home / "o" / "metrics.json").read_text()
    status, again, err = call("run", *small, *ARGS)
    assert status == 0, err
    assert again == out
    assert err == "all 11 steps were done before; nothing was computed again\n"
    assert (at_home / "o" / "metrics.json").read_text() == metrics
    assert {name: (at_home / "o" / name).stat().st_mtime_ns for name in kept} == kept

    status, _, err = call("run", *small, *ARGS[:-1], "4")
    assert status == 0, err
    changed = {name for name in kept if (at_home / "o" / name).stat().st_mtime_ns != kept[name]}
    assert {
        "ratios.json",
        "latency.json",
        "report.html",
        "vgg11_digits_structured_pruned.pth",
    } <= changed
    assert not {name for name in changed if "sensitivity" in name or "features.0" in name}

    # The unstructured model of a former version was not fine-tuned; it alone is made anew.
    masked = ["unstructured", *small, "--ratios", "o/sparsity.json", "--out", "o"]
    status, table, err = call(*masked, "--force")
    assert status == 0, err
    assert "unstructured: not fine-tuned\n" in table
    pruned = (at_home / "o/vgg11_digits_structured_pruned.pth").stat().st_mtime_ns
    status, _, err = call("run", *small, *ARGS[:-1], "4")
    assert status == 0, err
    begun = re.findall(r"^\[(\d+)/11\]", err, re.MULTILINE)
    assert begun[0] == "5"
    assert set(begun) <= {"5", "10", "11"}, "it may be the same file as before, bit for bit"
    assert f"{11 - len(begun)} of 11 steps were done before" in err
    assert (at_home / "o/vgg11_digits_structured_pruned.pth").stat().st_mtime_ns == pruned

    (at_home / "o" / "ratios.json").write_text('{"features.0": 0.25}')
    before = {name: (at_home / "o" / name).read_bytes() for name in files(at_home / "o")}
    status, out, err = call("run", *small, *ARGS)
    assert status == 2
    assert "ratios.json: is not a plan that `plan` wrote" in one_line(err)
    assert {name: (at_home / "o" / name).read_bytes() for name in files(at_home / "o")} == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--budget", "macs"], "--budget: 'macs': give NAME=VALUE"),
        (["--budget", "macs=2"], "--budget macs=2: must be above 0"),
        (
            ["--budget", "macs=0.001"],
            "--budget macs=0.001: unstructured pruning would have to remove more than 0.9 of a",
        ),
        (
            ["--budget", "sparsity=0.95"],
            "--budget sparsity=0.95: unstructured pruning would have to remove more than 0.9",
        ),
        (["--device", "foo"], "--device: 'foo' is not one of"),
        (["--round-to", "0"], "--round-to"),
        (["--arch", "vgg12"], "'vgg12' is not one of"),
        (["--checkpoint", "none.pth"], "none.pth: no such file"),
    ],
)
def test_what_can_be_refused_is_refused_before_any_work(
    args: list[str], said: str, call, at_home: Path
) -> None:
    status, out, err = call("run", "--dataset", "digits", *args)
    assert (status, out) == (2, "")
    assert re.search(said, one_line(err))
    assert files(at_home) == set()


def test_one_process_only(call, at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    status, _, err = call("run", "--dataset", "digits")
    assert status == 2
    assert "run: is one process" in one_line(err)
    assert files(at_home) == set()


def test_a_budget_is_shared_out_by_what_each_kind_can_meet() -> None:
    both = RunOptions({"macs": 0.4, "latency": 0.5, "sparsity": 0.8})
    assert both.of("structured") == {"macs": 0.4, "latency": 0.5}
    assert both.of("unstructured") == {"macs": 0.4, "sparsity": 0.8}
    assert RunOptions({"latency": 0.5}).of("unstructured") == {"macs": 0.5}


def test_what_no_sweep_allows_is_known_before() -> None:
    with pytest.raises(BadInput, match=r"params=0\.0001"):
        check_attainable(VGGSpec.preset(), "structured", RunOptions({"params": 0.0001}))
    check_attainable(VGGSpec.preset(), "structured", RunOptions({"params": 0.1}))


def test_a_budget_that_the_search_leaves_open_is_not_refused_before_the_sweep(monkeypatch) -> None:
    def gives_up(*_args: object) -> None:
        raise NotFound

    monkeypatch.setattr("tp_vgg.planning.plan_request.constrained_shortest_path", gives_up)
    check_attainable(VGGSpec.preset(), "structured", RunOptions({"params": 0.5, "macs": 0.5}))


@pytest.mark.usefixtures("brief", "undrawn")
def test_a_time_that_no_width_meets_is_known_before_training(call, small, at_home: Path) -> None:
    """Thin convs take the same time at any width."""
    status, out, err = call("run", *small, *ARGS, "--budget", "latency=0.01", "-q")
    assert (status, out) == (2, "")
    assert (
        "--budget latency=0.01: structured pruning would have to remove more than 0.9 of a layer"
        in one_line(err)
    )
    assert not [name for name in files(at_home / "o") if name.endswith((".pth", ".csv"))]


def test_a_report_needs_something_to_report(call, at_home: Path) -> None:
    status, _, err = call("report", "--dataset", "digits")
    assert status == 2
    assert "nothing to compare yet" in one_line(err)
    assert files(at_home) == set()


def test_a_report_of_one_model_and_damaged_files(call, small, at_home: Path) -> None:
    """Missing and damaged files are left out; the rest is shown."""
    assert (
        call("structured", *small, "--ratio", "0.5", "--finetune-epochs", "0", "--out", "o")[0] == 0
    )
    for name in ("records/structured_sensitivity.json", "plan.json", "history.csv"):
        (at_home / "o" / name).write_text("{")
    status, out, err = call("report", *small, "--out", "o")
    assert status == 0, err
    assert out.startswith("o/report.html: ")
    page = (at_home / "o" / "report.html").read_text()
    assert "Time: not measured" in page
    assert "structured_pruned" in page
    assert "no structured sweep in this run" in page
    line = re.search(r"<pre>(python -m tp_vgg structured --ratios .*)</pre>", page)
    assert line is not None
    (at_home / "ratios.json").write_text('{"features.0": 0.5}')
    status, out, err = call(*shlex.split(html.unescape(line[1]))[3:], "--dry-run")
    assert status == 0, err
    record = json.loads((at_home / "o" / "records" / "given_baseline.json").read_text())
    assert f"{record['params']:,}" in out


@pytest.mark.usefixtures("undrawn")
def test_a_report_of_a_tag_shows_the_sweep_that_it_shares(call, small, at_home: Path) -> None:
    sweep = [
        "sensitivity",
        *small,
        "--kind",
        "structured",
        "--levels",
        "0.5",
        "--layers",
        "features.4",
        "--out",
        "o",
    ]
    assert call(*sweep)[0] == 0
    assert (
        call(
            "structured",
            *small,
            "--ratio",
            "0.5",
            "--finetune-epochs",
            "0",
            "--out",
            "o",
            "--tag",
            "t",
        )[0]
        == 0
    )
    status, _, err = call("report", *small, "--out", "o", "--tag", "t")
    assert status == 0, err
    page = (at_home / "o" / "t" / "report.html").read_text()
    assert "Structured sensitivity" in page
    assert "--kind structured" in page


@pytest.mark.usefixtures("thin")
def test_a_baseline_measured_on_other_images_gets_a_record_beside_its_own(
    call, at_home: Path
) -> None:
    train = [
        "--dataset",
        "digits",
        "--head",
        "linear",
        "--limit-train",
        "40",
        "--limit-val",
        "20",
        "--out",
        "o",
    ]
    assert call("train", *train, "--limit-test", "20", "--epochs", "1")[0] == 0
    before = json.loads((at_home / "o" / "records" / "baseline.json").read_text())
    status, _, err = call(
        "structured",
        *train,
        "--limit-test",
        "30",
        "--ratio",
        "0.5",
        "--finetune-epochs",
        "0",
        "--seed",
        "3",
    )
    assert status == 0, err
    assert "is kept, trained for 1 epochs with seed 0" in err
    assert json.loads((at_home / "o" / "records" / "baseline.json").read_text()) == before
    (beside,) = (at_home / "o" / "records").glob("baseline-*.json")
    after = json.loads(beside.read_text())
    assert (before["test"]["n"], after["test"]["n"]) == (20, 30)
    assert after["command"] == before["command"]
    assert " train " in after["command"]


@pytest.mark.usefixtures("quickly")
def test_tensorboard_gets_scalars_and_figures(call, small, at_home: Path) -> None:
    pytest.importorskip("tensorboard")
    args = [
        "--ratio",
        "0.5",
        "--finetune-epochs",
        "2",
        "--out",
        "o",
        "--show",
        "features.0",
        "--tensorboard",
    ]
    status, _, err = call("structured", *small, *args)
    assert status == 0, err
    probe = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = {}
for name in ("figures", "vgg11_digits_structured_pruned_finetuned"):
    events = EventAccumulator(f"o/tensorboard/{name}").Reload()
    found.update(
        {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    )
    found.update({tag: len(events.Images(tag)) for tag in events.Tags()["images"]})
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=at_home, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    steps = {"loss/train", "accuracy/train", "accuracy/val", "rate"}
    assert {tag: found[tag] for tag in steps} == {tag: [1, 2] for tag in steps}
    assert found["structured_features.0"] == 1


def test_without_tensorboard_it_is_refused(
    call, at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    status, _, err = call("train", "--dataset", "digits", "--tensorboard")
    assert status == 2
    assert "tensorboard is not installed; pip install tensorboard" in one_line(err)


DRIVER = """
import sys
from tp_vgg.cli import main
from tp_vgg.latency.table import cases_of
from tp_vgg.stages import run
from tp_vgg.stages.options import BenchmarkOptions
run.BENCHMARK = BenchmarkOptions(cases_of(("folded",), ("fp32",), (1,)), 9)
main(sys.argv[1:])
"""


def started(args: list[Any], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, "run", *map(str, args)], cwd=cwd, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def settled(path: Path) -> dict[str, Any]:
    """``metrics.json`` without times and peaks of memory."""
    found: dict[str, Any] = json.loads(path.read_text())
    for model in found["models"].values():
        del model["peak_bytes"]
        assert model.pop("latency")
    return found


@pytest.mark.slow
def test_killed_at_each_stage_it_ends_at_the_same_metrics(small, at_home: Path) -> None:
    straight = started([*small, *ARGS[2:], "--out", "straight"], at_home)
    _, err = straight.communicate()
    assert straight.returncode == 0, err
    args = [*small, *ARGS[2:], "--out", "killed"]
    for stage in range(1, 12):
        process = started(args, at_home)
        assert process.stderr is not None
        for line in process.stderr:
            begun = re.match(r"\[(\d+)/11\]", line)
            if begun is not None and int(begun[1]) >= stage:  # what was done before is not named
                break
        time.sleep(random.Random(stage).uniform(0, 2))  # a different point of each stage's work
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = started(args, at_home)
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert settled(at_home / "killed" / "metrics.json") == settled(
        at_home / "straight" / "metrics.json"
    )
    assert (at_home / "killed" / "report.html").is_file()
