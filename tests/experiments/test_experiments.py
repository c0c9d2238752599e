"""Each experiment runs with one trial; its figures are not judged."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from helpers.networks import SMALL, WIDE

import tp_vgg
from tp_vgg.evaluation.hits import unpack_hits
from tp_vgg.network.checkpoint import save
from tp_vgg.network.vgg.spec import VGGSpec

ROOT = Path(__file__).parents[2]
FEW = [
    "--dataset",
    "digits",
    "--limit-train",
    "64",
    "--limit-val",
    "40",
    "--limit-test",
    "60",
    "--out",
    "o",
]


@pytest.fixture
def names_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict]:
    """Return what the names of a script stand for; it is not run."""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    return lambda name: runpy.run_path(str(ROOT / "experiments" / name))


@pytest.fixture
def experiment(
    call: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable:
    """Run a script as a user does, but in this process: (exit status, stdout, stderr)."""
    monkeypatch.syspath_prepend(ROOT / "experiments")

    def run(name: str, *args: object) -> tuple[object, str, str]:
        script = str(ROOT / "experiments" / name)
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        return (ended.value.code or 0, *capsys.readouterr())

    return run


@pytest.mark.slow
def test_prune_speed_prints_its_table() -> None:
    script = ROOT / "experiments" / "prune_speed.py"
    done = subprocess.run(
        [sys.executable, script, "--trials", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    heads = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert heads == ["linear"] * 3 + ["folded"] * 3 + ["unfolded"] * 3
    assert '"environment"' in done.stderr


@pytest.mark.slow
def test_repair_speed_compares_with_an_epoch_of_training(tmp_path: Path) -> None:
    script = ROOT / "experiments" / "repair_speed.py"
    options = ["--dataset", "digits", "--images", "20", "--limit-train", "60", "--limit-test", "30"]
    options += ["--trials", "1", "--batches", "1", "--case", "channels=0.5", "--case", "zeros=0.9"]
    done = subprocess.run(
        [sys.executable, script, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == [
        "channels=0.5",
        "zeros=0.9",
    ]
    report = json.loads(done.stderr.splitlines()[-1])
    for case in ("channels=0.5", "zeros=0.9"):
        seconds = report[case]["seconds"]
        assert report[case]["ratio"] == seconds["repair"][0] / seconds["epoch"][0]


@pytest.mark.slow
def test_sweep_speed_compares_all_sides(make_model, tmp_path: Path) -> None:
    save(make_model(), tmp_path / "small.pth")
    script = ROOT / "experiments" / "sweep_speed.py"
    options = [
        "--checkpoint",
        tmp_path / "small.pth",
        "--dataset",
        "digits",
        "--images",
        "60",
        "--loop-images",
        "30",
        "--trials",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, script, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("largest difference in correct-count: 0 to (a), 0 to (b)") == 2
    report = json.loads(done.stderr.splitlines()[-1])
    for kind in ("structured", "unstructured"):
        assert f"{kind}, " in done.stdout
        seconds = report[kind]["seconds"]
        ratio = sum(x["repaired"] for x in seconds.values()) / sum(
            x["engine"] for x in seconds.values()
        )
        assert report[kind]["repaired_ratio"] == pytest.approx(ratio)
        assert len(seconds) >= 8 and all(x["repaired"] > 0 for x in seconds.values())
    assert len(report["structured"]["differences"]["naive"]) == 8 * 9
    assert report["environment"]["torch"]


def test_sensitivity_sweep_runs_both_kinds(make_model, experiment, at_home: Path) -> None:
    save(make_model(), at_home / "small.pth")
    options = [
        "--checkpoint",
        "small.pth",
        "--dataset",
        "digits",
        "--out",
        "o",
        "--levels",
        "0.5",
        "--limit-val",
        "20",
    ]
    status, _, err = experiment("sensitivity_sweep.py", *options)
    assert status == 0, err
    assert {path.name for path in (at_home / "o" / "plots").iterdir()} == {
        f"{kind}_sensitivity{name}.png"
        for kind in ("structured", "unstructured")
        for name in ("", "_cost")
    }
    status, _, err = experiment("sensitivity_sweep.py", "--levels", "2")
    assert status == 2
    assert err.startswith("error: ")


@pytest.mark.usefixtures("brief", "thin")
def test_latency_times_every_model(plan_file, experiment, at_home: Path) -> None:
    options = [
        "--batch-sizes",
        "1",
        "--modes",
        "folded,graph",
        "--dtypes",
        "fp32",
        "--trials",
        "9",
        "--output",
        "l.json",
    ]
    options += [
        "--ratios",
        str(plan_file({"features.4": 0.5})),
        "--only",
        "ratios.json,uniform 70 %,95% zeros",
    ]
    status, out, err = experiment("latency.py", *options)
    assert status == 0, err
    report = json.loads((at_home / "l.json").read_text())
    assert list(report["models"]) == ["dense", "uniform 70 %", "ratios.json", "95% zeros"]
    assert len(report["rows"]) == 8 and report["environment"]["torch"]
    assert "not available: CUDA graphs need a CUDA device" in out and "masks save nothing" in out
    for wrong, message in (
        (["--only", "x"], "--only"),
        (["--ratios", "none.json"], "none.json"),
        (["--batch-sizes", "x"], "--batch-sizes"),
    ):
        status, _, err = experiment("latency.py", *wrong)
        assert status == 2 and message in err and "Traceback" not in err


@pytest.mark.slow
def test_latency_honesty_compares_both_ways() -> None:
    script = ROOT / "experiments" / "latency_honesty.py"
    options = ["--runs", "2", "--trials", "9", "--repeat", "12"]
    done = subprocess.run(
        [sys.executable, script, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line[:12].strip() for line in done.stdout.splitlines()[3:]] in (
        ["tp_vgg", "mean of runs"],
        ["mean of runs", "tp_vgg"],
    )
    report = json.loads(done.stderr.splitlines()[-1])
    assert len(report["runs"]) == 2 and all(
        len(found) == 3 for run in report["runs"] for found in run.values()
    )


@pytest.mark.parametrize(
    "script",
    sorted(
        path.name for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text()
    ),
)
def test_help_is_there(script: str, experiment) -> None:
    status, out, _ = experiment(script, "--help")
    assert status == 0
    assert "Usage" in out


def test_a_script_works_in_a_process_of_its_own() -> None:
    script = ROOT / "experiments" / "controls.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage" in done.stdout


@pytest.mark.usefixtures("undrawn")
def test_controls_compare_arms_by_image_and_resume(
    make_model, call, experiment, at_home: Path
) -> None:
    save(make_model(), at_home / "small.pth")
    common = [*FEW, "--checkpoint", "small.pth"]
    sweep = ["sensitivity", "--kind", "structured", "--levels", "0.3,0.6,0.9", *common]
    assert call(*sweep)[0] == 0
    options = [
        "--sweep",
        "o/records/structured_sensitivity.json",
        "--budget",
        "0.6",
        "--round-to",
        "2",
        "--seeds",
        "2",
    ]
    options += ["--finetune-epochs", "1", "--arms", "dense,stock,uniform,random,obs,ours"]

    def run(*more: str) -> tuple[int, str, str]:
        return experiment("controls.py", *common, *options, *more)

    status, out, err = run()
    assert status == 0, err
    runs = [json.loads(path.read_text()) for path in (at_home / "o/controls").glob("*.json")]
    assert len(runs) == 12
    for found in runs:
        assert (found["repaired"] is None) == (found["arm"] == "dense")
        assert found["arm"] == "dense" or found["macs"] <= 0.6 * SMALL.macs()
        assert found["test"]["n"] == 60
        assert found["precision"] in ("float32", "bfloat16")
    assert (
        len({tuple(run["widths"]) for run in runs if run["arm"] in ("ours", "random", "obs")}) == 1
    )
    assert [line.split()[0] for line in out.splitlines()[-6:]] == [
        "dense",
        "stock",
        "uniform",
        "random",
        "obs",
        "ours",
    ]
    _, again, err = run()
    assert again == out
    assert "fine-tune" not in err
    save(make_model(seed=1), at_home / "small.pth")
    status, _, err = run()
    assert (status, "is of another model" in err) == (2, True)
    assert call(*sweep)[0] == 0
    before = {path: path.read_bytes() for path in (at_home / "o/controls").glob("*.json")}
    status, _, err = run("--arms", "dense", "--seeds", "1")
    assert status == 0, err
    assert {path: path.read_bytes() for path in before} == before, "the other model's runs stay"
    first, second = (
        json.loads(path.read_text()) for path in (at_home / "o/controls").glob("dense-s0-*.json")
    )
    assert first["weights"] != second["weights"], "done anew"
    (at_home / "o/records/structured_sensitivity.json").write_text("[")
    status, _, err = run()
    assert (status, "can't be read as JSON" in err) == (2, True)


@pytest.mark.usefixtures("undrawn")
def test_controls_without_fine_tuning_end_after_the_repair(
    trained, call, experiment, at_home: Path
) -> None:
    dense = trained(WIDE)
    save(dense, at_home / "wide.pth")
    common = ["--dataset", "digits", "--limit-val", "40", "--out", "o", "--checkpoint", "wide.pth"]
    sweep = ["--kind", "structured", "--levels", "0.3,0.6,0.9", "--repair", "reconstruct"]
    assert call("sensitivity", *sweep, *common)[0] == 0
    options = ["--sweep", "o/records/structured_sensitivity.json", "--round-to", "2"]
    options += ["--seeds", "1", "--finetune-epochs", "0", "--arms", "stock,uniform,ours"]
    status, out, err = experiment("controls.py", *common, *options)
    assert status == 0, err
    assert "as removed  repaired" in out
    for path in (at_home / "o/controls").glob("*.json"):
        run = json.loads(path.read_text())
        assert run["repaired"] == run["test"] and run["history"] == []
        assert run["repaired"]["accuracy"] > run["one_shot"]["accuracy"] + 10
        pruned = tp_vgg.load(path.with_suffix(".pth"))
        kept = pruned.kept["features.0"]
        first, whole = (one.get_submodule("features.0").weight for one in (pruned, dense))
        assert len(kept) < len(whole) and torch.equal(first, whole[kept])
    status, _, err = experiment("controls.py", *common, *options, "--repair", "none")
    assert status == 0, err
    runs = [json.loads(path.read_text()) for path in (at_home / "o/controls").glob("*.json")]
    assert sum(run["repaired"] is None for run in runs) == 3 and len(runs) == 6


@pytest.mark.usefixtures("undrawn")
def test_pareto_prints_and_draws_each_budget_after_each_number_of_epochs(
    trained, call, experiment, at_home: Path
) -> None:
    save(trained(WIDE), at_home / "wide.pth")
    common = ["--dataset", "digits", "--limit-train", "200", "--limit-val", "40", "--out", "o"]
    common += ["--checkpoint", "wide.pth", "--round-to", "2"]
    sweep = ["--kind", "structured", "--levels", "0.3,0.6,0.9", "--repair", "reconstruct"]
    assert call("sensitivity", *sweep, *common[:-2])[0] == 0
    swept = ["--sweep", "o/records/structured_sensitivity.json"]
    options = ["--budgets", "0.7,0.4", "--epochs", "1,2"]
    status, out, err = experiment("pareto.py", *common, *swept, *options)
    assert status == 0, err
    runs = [json.loads(path.read_text()) for path in (at_home / "o/controls").glob("*.json")]
    assert sorted((run["recipe"]["epochs"], run["macs"] <= 0.4 * WIDE.macs()) for run in runs) == [
        (1, False), (1, True), (2, False), (2, True),
    ]  # fmt: skip
    rows = out.splitlines()[-5:-1]
    assert re.split(r"  +", rows[0].strip()) == [
        "MACs", "params", "as removed", "repaired", "1 epoch", "2 epochs",
    ]  # fmt: skip
    shown = {tuple(row.split("  ")) for row in rows[2:]}
    for run in runs:
        assert any(f"{run['test']['accuracy']:.2f} %" in "  ".join(row) for row in shown)
        assert any(f"{run['repaired']['accuracy']:.2f} %" in "  ".join(row) for row in shown)
    picture = at_home / out.splitlines()[-1]
    assert picture.name == "accuracy_by_epochs.png" and picture.read_bytes()[:4] == b"\x89PNG"
    picture.unlink()
    status, again, err = experiment("pareto.py", *common, *swept, *options)
    assert (status, again) == (0, out) and picture.exists()
    status, kept, err = experiment("pareto.py", *common, "--kept", "o/controls")
    assert status == 0, err
    assert kept.splitlines() == out.splitlines()[-len(kept.splitlines()) :]
    for name, change in (("dense", {"arm": "dense", "repaired": None}), ("other", {"seed": 1})):
        (at_home / f"o/controls/{name}.json").write_text(json.dumps({**runs[0], **change}))
    assert experiment("pareto.py", *common, "--kept", "o/controls")[1] == kept
    (at_home / "o/controls/twice.json").write_text(json.dumps(runs[0]))
    status, _, err = experiment("pareto.py", *common, "--kept", "o/controls")
    assert (status, "two runs of the same MACs and epochs" in err) == (2, True)
    status, _, err = experiment("pareto.py", *common, "--kept", "o/records")
    assert (status, "has no repaired runs of plans" in err) == (2, True)
    status, _, err = experiment("pareto.py", *common, *swept, "--epochs", "1,-1")
    assert (status, "--epochs: 1,-1: none may be below 0" in err) == (2, True)
    status, _, err = experiment("pareto.py", *common, *swept, "--budgets", "half")
    assert (status, "--budgets: 'half' is not a list of numbers" in err) == (2, True)
    status, _, err = experiment("pareto.py", *common)
    assert (status, "give the dense model and its sweep" in err) == (2, True)


@pytest.mark.usefixtures("undrawn")
def test_scratch_trains_as_long_as_the_dense_model_and_its_fine_tuning(
    make_model, call, experiment, at_home: Path
) -> None:
    model = make_model()
    model.meta = {**model.meta, "training": {"epochs": 2, "lr": 0.03, "batch_size": 16}}
    save(model, at_home / "small.pth")
    few = [
        "--dataset",
        "digits",
        "--limit-train",
        "32",
        "--limit-val",
        "40",
        "--limit-test",
        "40",
        "--out",
        "o",
    ]
    common = [*few, "--checkpoint", "small.pth"]
    assert call("sensitivity", "--kind", "structured", "--levels", "0.3,0.9", *common)[0] == 0
    options = [
        "--sweep",
        "o/records/structured_sensitivity.json",
        "--round-to",
        "2",
        "--seeds",
        "1",
    ]
    tuned = [
        "--arms",
        "scratch",
        "--finetune-epochs",
        "1",
        "--lr",
        "0.5",
        "--distill-temperature",
        "9",
    ]
    status, _, err = experiment("controls.py", *common, *options, *tuned)
    assert status == 0, err
    (path,) = (at_home / "o/controls").glob("*.json")
    recipe = json.loads(path.read_text())["recipe"]
    asked = {
        "epochs": 3,
        "lr": 0.03,
        "batch_size": 16,
        "schedule": "one-cycle",
        "distill_temperature": 9,
    }
    assert {name: recipe[name] for name in asked} == asked


@pytest.mark.slow
def test_plan_speed_times_every_budget_of_both_networks(experiment) -> None:
    status, out, err = experiment("plan_speed.py", "--trials", "1")
    assert status == 0, err
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["vgg11_bn"] * 5 + ["vgg19_bn"] * 5
    report = json.loads(err.splitlines()[-1])
    assert all(report[f"{arch} macs=0.5"]["gaps"] == [0.0] for arch in ("vgg11_bn", "vgg19_bn"))


def test_the_kept_runs_of_the_controls_give_the_figures_of_the_results(names_of) -> None:
    script = names_of("controls.py")
    said = (ROOT / "docs" / "results.md").read_text().replace("\u2212", "-")
    tables: dict[str, dict[str, list]] = {}
    for path in sorted((ROOT / "docs" / "controls").glob("*.json")):
        run = json.loads(path.read_text())
        assert script["unpacked"](run).sum() == run["test"]["correct"]
        tables.setdefault(run["precision"], {}).setdefault(run["arm"], []).append(run)
    assert tables
    for precision, runs in tables.items():
        for arm, of_arm in runs.items():
            assert [run["seed"] for run in of_arm] == list(range(len(of_arm)))
            assert ", ".join(f"{run['test']['accuracy']:.2f}" for run in of_arm) + " %" in said, (
                precision,
                arm,
            )
        differences = re.findall(r"[+-][0-9.]+ \[.*?\]", script["table"](runs))
        assert differences
        for difference in differences:
            assert difference in said, precision


def test_the_kept_runs_of_repaired_networks_give_the_rows_of_the_results(names_of) -> None:
    script = names_of("pareto.py")
    folder = ROOT / "docs" / "controls" / "repaired"
    runs = {path.stem[-8:]: json.loads(path.read_text()) for path in folder.glob("ours-*.json")}
    weights = {run["weights"] for run in runs.values()}
    assert len(weights) == 1
    spec = VGGSpec.preset("vgg11_bn", "linear")
    key_of = names_of("control_runs.py")["run_key"]
    for name, run in runs.items():
        target = spec.with_widths(dict(zip(spec.conv_names, run["widths"], strict=True)))
        precision = "torch." + run["precision"]
        key = key_of("ours", *weights, target, run["recipe"], run["data"], precision, True)
        assert key[:8] == name, "the script would do it again"
        assert unpack_hits(run["hits"], run["test"]["n"]).sum() == run["test"]["correct"]
    rows = script["budgets_of"](script["kept_runs"](folder, *weights, 0))
    assert len(rows) == 5
    said = (ROOT / "docs" / "results.md").read_text()
    for row in rows:
        states = (row[state] for state in ("as removed", "repaired", "1 epoch", "5 epochs"))
        start = rf"\| {row['macs'] / 1e6:.2f} M .*\| {row['params'] / 1e6:.2f} M \| "
        accuracies = r" \| ".join(f"{one.accuracy:.2f} %" for one in states)
        last = row["5 epochs"]
        assert re.search(f"{start}{accuracies} \\[{last.low:.2f}, {last.high:.2f}\\]", said)


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("budget", [0.5, 0.25])
def test_the_kept_controls_of_repaired_networks_give_the_figures_of_the_results(
    budget: float, epochs: int, names_of
) -> None:
    most = budget * VGGSpec.preset("vgg11_bn", "linear").macs()
    paths = (ROOT / "docs" / "controls" / "repaired").glob("*-s0-*.json")
    runs = {
        run["arm"]: [run]
        for run in (json.loads(path.read_text()) for path in paths)
        if run["recipe"]["epochs"] == epochs and 0.95 * most < run["macs"] <= most
    }
    assert {"ours", "stock"} <= set(runs)
    said = (ROOT / "docs" / "results.md").read_text().replace("\u2212", "-")
    for difference in re.findall(r"[+-][0-9.]+ \[.*?\]", names_of("controls.py")["table"](runs)):
        assert difference in said
    for arm, (run,) in runs.items():
        assert unpack_hits(run["hits"], run["test"]["n"]).sum() == run["test"]["correct"]
        assert re.search(
            rf"{run['params'] / 1e6:.2f} M \|.* {run['test']['accuracy']:.2f} %", said
        ), arm


def test_reliability_names_tests_that_are_there_and_counts_them(names_of) -> None:
    script = names_of("reliability.py")
    for where in (name for names in script["PROMISES"].values() for name in names):
        file, _, function = where.partition("::")
        assert f"def {function or 'test_'}" in (ROOT / "tests" / file).read_text(), where
    report = ElementTree.fromstring(
        """<suite><testcase/><testcase><skipped/></testcase>
        <testcase><failure/><properties><property name="cases" value="40"/></properties></testcase>
        <testcase><properties><property name="cases" value="7"/>"""
        """<property name="train" value="2 GB"/></properties></testcase></suite>"""
    )
    assert asdict(script["outcome"](report.iter("testcase"))) == {
        "cases": 48, "passed": 2, "failed": 1, "skipped": 1, "notes": "train 2 GB",
    }  # fmt: skip
