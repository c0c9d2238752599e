"""`pareto` on the command line: a model per budget, one table, and nothing done twice."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import files, one_line

from tp_vgg.network.checkpoint import save

pytestmark = pytest.mark.usefixtures("brief")
FEW = ["--limit-train", "64", "--limit-val", "40", "--limit-test", "60", "--out", "o"]
COMMON = ["--dataset", "digits", *FEW, "--checkpoint", "small.pth"]
QUICKLY = ["--round-to", "2", "--finetune-epochs", "1", "--batch-size-timed", "2"]
TWO = ["pareto", *COMMON, *QUICKLY, "--budgets", "macs=0.6,params=0.5+macs=0.7"]
UNTIMED = [*TWO, "--batch-size-timed", "0"]


@pytest.fixture
def swept(make_model, call, at_home: Path) -> Path:
    """A run directory with a structured sweep."""
    save(make_model(), at_home / "small.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tp_vgg.stages.outputs.save_png", lambda *_: None)
        sweep = ["sensitivity", "--kind", "structured", "--levels", "0.3,0.6,0.9", *COMMON]
        assert call(*sweep)[0] == 0
    return at_home / "o"


def models(directory: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*.pth")}


def state(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in files(directory) if name != ".lock"}


def test_it_leaves_models_a_short_table_a_whole_csv_and_a_figure_for_the_page(
    call, swept: Path
) -> None:
    status, out, err = call(*TWO)
    assert status == 0, err
    header, _, *lines = out.splitlines()
    assert header.split() == ["budget", "MACs", "params", "accuracy", "drop", "speed-up"]
    assert [line.split()[0] for line in lines[:2]] == ["macs=0.6", "params=0.5+macs=0.7"]
    assert max(map(len, out.splitlines())) <= 80
    rows = list(csv.DictReader((swept / "pareto.csv").read_text().splitlines()))
    assert [row["budget"] for row in rows] == ["macs=0.6", "params=0.5+macs=0.7"]
    assert float(rows[0]["macs_share"]) <= 0.6 and float(rows[1]["params_share"]) <= 0.5
    for row in rows:
        assert (swept / row["checkpoint"]).is_file() and row["case"] == "folded fp32, batch 2"
        for name in ("speedup", "drop"):
            assert float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"])
    assert (swept / "plots/pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "o/pareto.csv" in err and "o/plots/pareto.png" in err and "to time the models" not in err
    # The main benchmark, plan and models of the run directory are left alone.
    assert not {"latency.json", "plan.json", "ratios.json"} & files(swept)

    before, record = state(swept), json.loads((swept / "records/pareto.json").read_text())
    status, again, err = call(*TWO)
    assert (status, again, state(swept)) == (0, out, before)
    notes = [line for line in err.splitlines() if "chance" not in line]
    assert len(notes) == 1 and "nothing to do" in notes[0]

    status, _, err = call("report", *COMMON)
    page = (swept / "report.html").read_text()
    assert status == 0 and 'id="pareto' in page and "Accuracy of several budgets" in page

    made = models(swept)
    status, out, err = call(*UNTIMED)
    assert status == 0 and "speed-up" not in out, err
    assert models(swept) == made, "other timing trains no model again"
    former = swept / "replaced" / record["key"][:8]
    assert files(former) == {"pareto.csv", "plots/pareto.png", "records/pareto.json"}
    assert str(former.relative_to(swept.parent)) in err

    next(swept.glob("pareto-macs0.6/*finetuned.pth")).unlink()
    assert call("report", *COMMON)[0] == 0
    assert "Accuracy of several budgets" not in (swept / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budgets", "macs=0.8,macs"], "--budgets: 'macs': give NAME=VALUE"),
        (["--budgets", "macs=0.8,"], "--budgets: '': give NAME=VALUE"),
        (["--budgets", ""], "--budgets: '': give NAME=VALUE"),
        (["--budgets", "macs=0.5+macs=0.4"], "--budgets macs: given twice"),
        (["--budgets", "macs=0.8,macs=2"], "--budgets macs=2: must be above 0"),
        (["--budgets", "macs=0.8,drop=nan"], "--budgets drop: must be a number"),
        (["--budgets", "macs=0.8,macs=0.0001"], "--budgets macs=0.0001: what was swept allows"),
        (["--budgets", "macs=0.0001,macs=0.8"], "--budgets macs=0.0001: what was swept allows"),
        (["--budgets", "sparsity=0.5"], "--budgets sparsity: channels are removed"),
        (["--budgets", "latency=0.5"], "no profile of this network"),
        (["--profile", "none.json"], "--profile: none.json: no such file"),
        (["--batch-size-timed", "-1"], "--batch-size-timed"),
        (["--finetune-epochs", "-1"], "--finetune-epochs"),
    ],
)
def test_a_refusal_is_one_line_before_anything_is_made(
    options: list[str], message: str, call, swept: Path
) -> None:
    before = state(swept)
    status, out, err = call(*TWO, *options)
    assert (status, out, message in one_line(err)) == (2, "", True), err
    assert state(swept) == before


def test_without_a_sweep_it_names_the_command_to_run_first(call, at_home: Path) -> None:
    status, _, err = call("pareto", "--dataset", "digits", "--out", "o")
    assert status == 2 and "sensitivity --kind structured" in one_line(err)
    assert not files(at_home)


def test_torchrun_is_refused(call, swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    before = state(swept)
    status, _, err = call(*TWO)
    assert status == 2 and "pareto: is one process" in one_line(err)
    assert state(swept) == before


@pytest.mark.usefixtures("undrawn")
def test_a_plan_that_was_edited_stops_it_before_the_first_training(call, swept: Path) -> None:
    second = swept / "pareto-params0.5-macs0.7" / "ratios.json"
    second.parent.mkdir()
    second.write_text('{"features.0": 0.5}')
    before = state(swept)
    status, _, err = call(*UNTIMED)
    assert status == 2 and f"{second.relative_to(swept.parent)}: is not a plan" in err
    assert {name: state(swept)[name] for name in before} == before and not models(swept / "pareto*")
    assert call(*UNTIMED, "--force")[0] == 0


def test_a_dry_run_predicts_and_writes_nothing_and_loads_no_torch(call, swept: Path) -> None:
    before = state(swept)
    status, out, _ = call(*TWO, "--dry-run")
    assert status == 0 and state(swept) == before
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["macs=0.6", "params=0.5+macs=0.7"]
    probe = (
        "import sys, tp_vgg.cli\nstatus = tp_vgg.cli.execute(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\nsys.exit(status)"
    )
    own = [word for word in COMMON if word not in ("--checkpoint", "small.pth")]
    for status, budget in ((0, "macs=0.6"), (2, "macs=0.0001")):
        words = ["pareto", *own, "--round-to", "2", "--budgets", budget]
        done = subprocess.run(
            [sys.executable, "-c", probe, *words, *["--dry-run"] * (status == 0)],
            capture_output=True, text=True, cwd=swept.parent, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
    assert state(swept) == before


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_goes_on_and_keeps_the_finished_model(
    call, swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tp_vgg.stages import pareto

    real, made = pareto.structured, []

    def interrupted(settings, *rest, **options):
        if made:
            raise KeyboardInterrupt
        made.append(settings.tag)
        return real(settings, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pareto, "structured", interrupted)
        assert call(*UNTIMED)[0] == 130
    finished = models(swept / "pareto-macs0.6")
    assert len(finished) == 2 and not (swept / "pareto.csv").exists()
    status, out, err = call(*UNTIMED)
    assert status == 0, err
    assert models(swept / "pareto-macs0.6") == finished
    assert len(models(swept / "pareto-params0.5-macs0.7")) == 2 and out.count("\n") == 5


@pytest.mark.usefixtures("undrawn")
def test_a_tag_changes_nothing_outside_of_its_directory(call, swept: Path) -> None:
    before = state(swept)
    status, _, err = call(*TWO, "--tag", "mine", "--finetune-epochs", "0")
    assert status == 0, err
    after = state(swept)
    assert {name: after[name] for name in before} == before
    added = set(after) - set(before)
    assert added and all(name.startswith("mine/") for name in added)
    assert {"mine/pareto.csv", "mine/records/pareto.json"} <= added
    rows = list(csv.DictReader((swept / "mine/pareto.csv").read_text().splitlines()))
    assert all(row["one_shot"] == row["accuracy"] for row in rows), "they were not fine-tuned"
    assert all((swept / row["checkpoint"]).is_file() for row in rows)
