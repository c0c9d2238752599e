"""`plan` on the command line, and how `structured` and `compare` use its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from helpers import quick
from helpers.commands import QUICK, files, one_line
from helpers.networks import SMALL, lively

from tp_vgg.cli import execute
from tp_vgg.network.checkpoint import save
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.pruning.ratios import plan_files, read_ratios, resolve

EVERY = ",".join(SMALL.prunable)
FEW = ["--dataset", "digits", *QUICK[4:], "--checkpoint", "../small.pth"]


pytestmark = pytest.mark.usefixtures("undrawn", "brief")


@pytest.fixture(scope="module")
def both_sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a run directory ``o`` that holds both sweeps.

    The swept network lies beside the working directory, as in every test.
    """
    where = tmp_path_factory.mktemp("swept")
    save(lively(SMALL), where / "small.pth")
    levels = ["--levels", "0.25,0.5,0.75,0.9", "--layers", EVERY, "-q"]
    home = where / "home"
    home.mkdir()
    with contextlib.chdir(home), quick.undrawn():
        for kind in ("structured", "unstructured"):
            assert execute(["sensitivity", *FEW, "--kind", kind, "--out", "o", *levels]) == 0
    return home


@pytest.fixture
def swept(both_sweeps: Path, small: list, at_home: Path) -> list:
    """Options of a run directory that holds both sweeps."""
    assert (both_sweeps.parent / "small.pth").read_bytes() == Path(small[-1]).read_bytes()
    shutil.copytree(both_sweeps / "o", at_home / "o")
    return [*small, "--out", "o"]


def test_a_budget_becomes_a_plan_that_structured_takes(call, at_home: Path, swept: list) -> None:
    status, out, err = call("plan", *swept, "--budget", "macs=0.5", "--round-to", "2")
    assert status == 0, err
    assert "wrote o/ratios.json" in err
    assert "no plan within the budget predicts less" in out
    written = PlanResult.from_dict(json.loads((at_home / "o/plan.json").read_text()))
    target = resolve(read_ratios(at_home / "o/ratios.json"), SMALL)
    assert target.macs() == written.prediction.macs <= 0.5 * SMALL.macs()
    assert f"({target.macs():,})" in out
    assert written.sweep["split"] == "val"
    for row in written.layers:
        assert f"{row.before:,} → {row.after:,}" in out
    status, out, err = call("structured", *swept, "--ratios", "o/ratios.json", "--dry-run")
    assert status == 0, err
    assert f"{SMALL.macs():,} → {target.macs():,}" in out


def test_compare_says_what_was_predicted_and_what_came_of_it(
    call, at_home: Path, swept: list
) -> None:
    assert call("plan", *swept, "--budget", "macs=0.5", "--round-to", "2")[0] == 0
    assert call("plan", *swept, "--kind", "unstructured", "--budget", "sparsity=0.8")[0] == 0
    assert call("structured", *swept, "--ratios", "o/ratios.json", "--finetune-epochs", "1")[0] == 0
    assert call("unstructured", *swept, "--ratios", "o/sparsity.json")[0] == 0
    status, out, err = call("compare", *swept)
    assert status == 0, err
    metrics = json.loads((at_home / "o/metrics.json").read_text())
    structured, unstructured = metrics["plans"]
    models = metrics["models"]
    drop = models["baseline"]["accuracy"]["val"] - models["structured_pruned"]["accuracy"]["val"]
    assert structured["realised"]["drop"] == drop
    assert f"→ {drop:+.2f} on val" in out
    assert structured["realised"]["macs_share"] == structured["predicted"]["macs_share"]
    assert structured["realised"]["params_share"] == pytest.approx(
        structured["predicted"]["params_share"]
    )
    assert structured["realised"]["finetuned_drop"] is not None
    assert unstructured["realised"]["params_share"] == pytest.approx(
        unstructured["predicted"]["params_share"], abs=0.01
    )
    assert "unstructured plan (sparsity=0.8)" in out
    assert call("structured", *swept, "--ratio", "0.5", "--finetune-epochs", "0")[0] == 0
    _, out, _ = call("compare", *swept)
    assert "\nstructured plan" not in out, "another plan's network"
    assert "unstructured plan" in out


def test_either_kind_is_refused_for_the_other(call, at_home: Path, swept: list) -> None:
    assert call("plan", *swept, "--budget", "macs=0.5", "--round-to", "2")[0] == 0
    assert call("plan", *swept, "--kind", "unstructured", "--budget", "sparsity=0.8")[0] == 0
    status, _, err = call("structured", *swept, "--ratios", "o/sparsity.json", "--dry-run")
    assert (status, "unstructured" in one_line(err)) == (2, True)
    status, _, err = call("unstructured", *swept, "--ratios", "o/ratios.json")
    assert (status, "wrote it for structured pruning" in one_line(err)) == (2, True)


def test_also_where_it_was_written_elsewhere_or_before_another(
    call, at_home: Path, small: list
) -> None:
    """Holds in the default run directory, and for a plan that is no longer the last."""
    options = ["--kind", "unstructured", "--levels", "0.5,0.9"]
    assert call("sensitivity", *small, *options)[0] == 0
    for sparsity, tag in (("0.8", []), ("0.7", []), ("0.6", ["--tag", "t"])):
        asked = [
            "--kind",
            "unstructured",
            "--budget",
            f"sparsity={sparsity}",
            "--output",
            f"{sparsity}.json",
            *tag,
        ]
        status, _, err = call("plan", *small, *asked)
        assert status == 0, err
    for sparsity in ("0.8", "0.7", "0.6"):
        for place in ([], ["--tag", "t"], ["--out", "p"]):
            status, _, err = call(
                "structured", *small, "--ratios", f"{sparsity}.json", "--dry-run", *place
            )
            assert (status, "wrote it for unstructured pruning" in one_line(err)) == (2, True)


def test_another_plan_is_not_lost(call, at_home: Path, swept: list) -> None:
    path = at_home / "o/ratios.json"
    path.write_text('{"features.0": 0.5}')
    before = files(at_home)
    status, _, err = call("plan", *swept, "--budget", "macs=0.6")
    assert (status, "--force" in one_line(err)) == (2, True)
    assert (path.read_text(), files(at_home)) == ('{"features.0": 0.5}', before)
    assert call("plan", *swept, "--budget", "macs=0.6", "--force")[0] == 0
    assert call("plan", *swept, "--budget", "macs=0.6")[0] == 0, "the same plan again"
    assert call("plan", *swept, "--budget", "macs=0.7", "--output", "mine.json")[0] == 0
    assert json.loads((at_home / "mine.json").read_text())
    (at_home / "link.json").symlink_to("target.json")
    assert call("plan", *swept, "--budget", "macs=0.7", "--output", "link.json")[0] == 0
    assert (at_home / "target.json").read_bytes() == (at_home / "mine.json").read_bytes()
    assert (at_home / "link.json").is_symlink()


def test_a_profile_prices_time(call, at_home: Path, swept: list) -> None:
    status, _, err = call("plan", *swept, "--budget", "latency=1")
    assert (status, "benchmark --profile" in one_line(err)) == (2, True)
    assert call("benchmark", *swept, "--profile", "--batch-sizes", "2", "--trials", "9")[0] == 0
    status, out, err = call("plan", *swept, "--budget", "latency=1", "--round-to", "1")
    assert status == 0, err
    assert "batch 2)" in out
    assert 0 < json.loads((at_home / "o/plan.json").read_text())["prediction"]["latency_share"] <= 1
    assert call("benchmark", *swept, "--profile", "--batch-sizes", "1", "--trials", "9")[0] == 0
    status, _, err = call("plan", *swept, "--budget", "latency=1", "--round-to", "1", "--force")
    assert (status, "give one as --profile" in one_line(err)) == (2, True)
    profile = next((at_home / "o/profiles").glob("*-b2-*.json"))
    assert (
        call(
            "plan",
            *swept,
            "--budget",
            "latency=1",
            "--round-to",
            "1",
            "--force",
            "--profile",
            profile,
        )[0]
        == 0
    )
    status, _, err = call("plan", *swept, "--budget", "latency=1", "--profile", "o/plan.json")
    assert (status, "not a profile" in one_line(err)) == (2, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "macs"], "NAME=VALUE"),
        (["--budget", "macs=half"], "NAME=VALUE"),
        (["--budget", "flops=0.5"], "one of macs, params"),
        (["--budget", "macs=2"], "macs=2"),
        (["--budget", "macs=0.5", "--budget", "macs=0.4"], "given twice"),
        (["--budget", "latency=0.5", "--kind", "unstructured"], "--kind structured"),
        (["--budget", "macs=0.5", "--profile", "nowhere"], "no such file"),
        (["--budget", "macs=0.5", "--output", "nowhere/ratios.json"], "no such directory"),
        (["--budget", "macs=0.5", "--output", "."], "is a directory"),
        (["--budget", "macs=0.5", "--output", "/dev/null", "--force"], "is not a regular file"),
        (["--budget", "macs=0.5", "--output", "o/plan.json"], "another name"),
        (["--budget", "macs=0.001"], "at best"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    options: list, said: str, call, at_home: Path, swept: list
) -> None:
    before = files(at_home)
    status, out, err = call("plan", *swept, *options)
    assert (status, out) == (2, "")
    assert said in one_line(err)
    assert files(at_home) == before


def test_needs_a_sweep_of_these_very_weights(
    call, at_home: Path, small: list, make_model, swept: list
) -> None:
    status, _, err = call("plan", *small, "--out", "elsewhere", "--budget", "macs=0.5")
    assert (status, "sensitivity --kind structured" in one_line(err)) == (2, True)
    assert not (at_home / "elsewhere").exists()
    save(make_model(seed=1), at_home / "other.pth")
    status, _, err = call("plan", "--checkpoint", "other.pth", "--out", "o", "--budget", "macs=0.5")
    assert (status, "another model" in one_line(err)) == (2, True)
    status, _, err = call("plan", "--out", "o", "--arch", "vgg11", "--budget", "macs=0.5")
    assert (status, "--arch" in one_line(err)) == (2, True)
    (at_home / "o/records/structured_sensitivity.json").write_text('{"format": "x"}')
    status, _, err = call("plan", "--out", "o", "--budget", "macs=0.5")
    assert (status, "not a sweep" in one_line(err)) == (2, True)


def test_no_torch_on_the_way(tp_vgg, at_home: Path, swept: list) -> None:
    """All of `plan` works without torch: an import of it would fail."""
    (at_home / "torch.py").write_text("raise ImportError('not here')\n")
    options = [
        option
        for option in swept
        if option != "--checkpoint" and not str(option).endswith("small.pth")
    ]
    done = tp_vgg("plan", *options, "--budget", "macs=0.6", cwd=at_home, PYTHONPATH=str(at_home))
    assert done.returncode == 0, done.stderr


def test_a_plan_cut_short_leaves_the_one_before(
    call, at_home: Path, swept: list, monkeypatch
) -> None:
    """It is not taken for a file of the user's own, nor for the newly predicted plan."""
    from tp_vgg.files import atomic
    from tp_vgg.rundir.contents import RunContents
    from tp_vgg.rundir.settings import Settings
    from tp_vgg.stages.plan import planned
    from tp_vgg.stages.plan_file import PlanOptions

    assert call("plan", *swept, "--budget", "macs=0.5", "--round-to", "2")[0] == 0
    before = (at_home / "o/ratios.json").read_bytes()
    rename = atomic.rename

    def dies(source: Path, target: Path) -> None:
        if target.name == "ratios.json":
            digest = hashlib.sha256(source.read_bytes()).hexdigest()
            assert digest in plan_files(at_home / "o")["structured"], (
                "the prediction is there first"
            )
            raise KeyboardInterrupt
        rename(source, target)

    again = ["plan", *swept, "--budget", "macs=0.5", "--round-to", "4", "--force"]
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "rename", dies)
        assert call(*again)[0] == 130
    settings = Settings(out=Path("o"))
    contents, asked = RunContents.of(settings), PlanOptions("structured", {"macs": 0.5}, 4)
    assert (at_home / "o/ratios.json").read_bytes() == before
    assert (contents.wrote("structured"), planned(settings, contents, asked)) == (True, False)
    assert call(*again)[0] == 0
    assert (contents.wrote("structured"), planned(settings, contents, asked)) == (True, True)


def test_what_can_t_be_written_changes_nothing(
    call, at_home: Path, swept: list, monkeypatch
) -> None:
    from tp_vgg.files import atomic

    assert call("plan", *swept, "--budget", "macs=0.5", "--round-to", "2")[0] == 0
    before = (files(at_home), (at_home / "o/plan.json").read_bytes())

    def refused(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    make = atomic.tempfile.mkstemp
    monkeypatch.setattr(
        atomic.tempfile,
        "mkstemp",
        lambda **o: refused() if "mine.json" in o["prefix"] else make(**o),
    )
    status, _, err = call("plan", *swept, "--budget", "macs=0.6", "--output", "mine.json")
    assert (status, "Permission denied" in err) == (1, True)
    assert (files(at_home), (at_home / "o/plan.json").read_bytes()) == before


def test_a_sweep_of_the_other_kind_is_none(call, at_home: Path, swept: list) -> None:
    records = at_home / "o/records"
    (records / "unstructured_sensitivity.json").replace(records / "structured_sensitivity.json")
    status, _, err = call("plan", *swept, "--budget", "macs=0.5")
    assert (status, "not a sweep" in one_line(err)) == (2, True)
    assert not (at_home / "o/ratios.json").exists()


def test_all_layers_are_swept_by_one_word(call, at_home: Path, small: list, swept: list) -> None:
    """``all`` asks for the same sweep as the names of all layers."""
    before = (at_home / "o/structured_sensitivity.csv").read_bytes()
    again = [
        "sensitivity",
        *swept,
        "--kind",
        "structured",
        "--levels",
        "0.25,0.5,0.75,0.9",
        "--layers",
        "all",
    ]
    status, out, err = call(*again)
    assert (status, "swept before; nothing to do" in err) == (0, True)
    assert all(layer in out for layer in SMALL.prunable)
    status, _, err = call(*again, "--out", "p")
    assert status == 0, err
    assert (at_home / "p/structured_sensitivity.csv").read_bytes() == before


REALISE = ["--budget", "macs=0.5", "--round-to", "2", "--realise", "2"]


def test_plans_are_really_pruned_and_the_best_is_taken(call, at_home: Path, swept: list) -> None:
    status, out, err = call("plan", *swept, *REALISE)
    assert status == 0, err
    written = PlanResult.from_dict(json.loads((at_home / "o/plan.json").read_text()))
    rows = {row.name: row for row in written.realised}
    assert list(rows) == ["best", "2", "uniform"] and written.realise == 2
    text = " ".join(out.split())
    assert "the predictions are of networks as removed" in text  # the sweep is a plain one
    for row in rows.values():
        assert f"{row.name}: {row.predicted:+.2f} → {row.drop:+.2f}" in text
        assert row.drop_low <= row.drop <= row.drop_high and row.macs_share <= 0.5
    (taken,) = (row for row in rows.values() if row.taken)
    assert taken.drop == min(row.drop for row in rows.values())
    assert taken.ratios == written.ratios
    assert json.loads((at_home / "o/ratios.json").read_text()) == taken.ratios
    # Pruning by the plan file gives the measured drop.
    assert call("structured", *swept, "--ratios", "o/ratios.json", "--finetune-epochs", "0")[0] == 0
    assert call("compare", *swept)[0] == 0
    models = json.loads((at_home / "o/metrics.json").read_text())["models"]
    dense, pruned = (models[name]["accuracy"]["val"] for name in ("baseline", "structured_pruned"))
    assert taken.drop == pytest.approx(dense - pruned, abs=1e-9)
    before = files(at_home / "o")
    status, _, err = call("plan", *swept, *REALISE)
    assert status == 0 and "made before; nothing to do" in err
    assert files(at_home / "o") == before
    status, _, err = call("plan", *swept, *REALISE, "--seed", "1")
    assert status == 0 and "nothing to do" not in err
    status, out, _ = call("plan", *swept, *REALISE[:-2])
    assert status == 0 and "realised" not in out
    kept = [json.loads(path.read_text()) for path in (at_home / "o/replaced").rglob("plan.json")]
    assert any(plan.get("realised") for plan in kept)


def test_a_stopped_realising_goes_on(
    call, at_home: Path, swept: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tp_vgg.stages import realise as stage

    made = []
    prune, stop_at = stage._pruned, 2

    def interrupted(session, dense, plan):
        made.append(plan.file_text)
        if len(made) == stop_at:
            raise KeyboardInterrupt
        return prune(session, dense, plan)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_pruned", interrupted)
        assert call("plan", *swept, *REALISE)[0] == 130
        assert not (at_home / "o/ratios.json").exists()
        stop_at = 0
        status, _, err = call("plan", *swept, *REALISE)
    assert status == 0, err
    assert len(made) == 4 and made[1] == made[2] and len(set(made)) == 3
    assert not list((at_home / "o").glob("*partial*"))


def test_what_can_not_be_realised_is_refused(call, at_home: Path, swept: list) -> None:
    before = files(at_home / "o")
    for options, message in (
        (["--budget", "macs=0.5", "--realise", "x"], "--realise"),
        (["--budget", "macs=0.01", "--realise", "2"], "--budget macs"),
        (["--limit-val", "7", *REALISE], "images"),
    ):
        status, _, err = call("plan", *swept, *options)
        assert status == 2 and message in err, err
    assert files(at_home / "o") == before
