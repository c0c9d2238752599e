"""Commands one after the other in one run directory: nothing is lost, nothing is hidden."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.commands import QUICK, files, one_line
from helpers.networks import SMALL

from tp_vgg.network.checkpoint import load, save

PRUNE = ["--finetune-epochs", "0"]
PRUNED = "vgg11_digits_structured_pruned.pth"
TUNED = "vgg11_digits_structured_pruned_finetuned.pth"
MASKED = "unstructured_pruned_vgg11.pth"


def contents(directory: Path) -> set[str]:
    """The SHA-256 of every finished checkpoint in a directory, wherever it lies."""
    return {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*.pth")
        if "partial" not in path.name
    }


def all_bytes(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def models(call, *args: object) -> dict:
    status, out, err = call("compare", *args, "--format", "json")
    assert status == 0, err
    return json.loads(out)["models"]


@pytest.fixture
def trained(call, at_home: Path) -> list:
    """Options of a run directory with a dense model of its own."""
    from helpers import quick

    with quick.thin():
        args = [*QUICK, "--out", "o"]
        status, _, err = call("train", *args, "--epochs", 1)
        assert status == 0, err
        yield args


@pytest.fixture
def two(make_model, tmp_path: Path) -> tuple[Path, Path]:
    """The files of two dense models of one architecture."""
    first, second = tmp_path / "a.pth", tmp_path / "b.pth"
    save(make_model(), first)
    save(make_model(SMALL, seed=5), second)
    return first, second


def test_the_same_settings_again_do_nothing(call, at_home: Path, trained: list) -> None:
    prune = ["structured", *trained, "--ratio", 0.5, "--finetune-epochs", 1]
    status, table, _ = call(*prune)
    assert status == 0
    before = all_bytes(at_home / "o")
    status, again, err = call(*prune)
    assert (status, again) == (0, table)
    assert err.count("nothing to do") == 1
    assert "--force" in err
    assert all_bytes(at_home / "o") == before
    mask = ["unstructured", *trained, "--sparsity", 0.5]
    status, table, _ = call(*mask)
    before = all_bytes(at_home / "o")
    status, again, err = call(*mask)
    assert (status, again, "nothing to do" in err) == (0, table, True)
    assert all_bytes(at_home / "o") == before


def test_other_ratios_move_the_former_models_as_one_set(call, at_home: Path, trained: list) -> None:
    prune = ["structured", *trained, "--finetune-epochs", 1]
    assert call(*prune, "--ratio", 0.5)[0] == 0
    former = all_bytes(at_home / "o")
    key = json.loads((at_home / "o/records/structured_pruned.json").read_text())["key"]
    status, _, err = call(*prune, "--ratio", 0.25)
    assert status == 0
    place = at_home / "o/replaced" / key[:8]
    assert f"o/replaced/{key[:8]}: holds what was here before" in err
    assert all_bytes(place) == {
        name: former[name]
        for name in (
            PRUNED,
            TUNED,
            "structured_history.csv",
            "records/structured_pruned.json",
            "records/structured_finetuned.json",
        )
    }
    assert set(models(call, *trained)) == {"baseline", "structured_pruned", "structured_finetuned"}
    # Back to the first settings: they are made again, and the second set is kept too.
    assert call(*prune, "--ratio", 0.5)[0] == 0
    assert len(list((at_home / "o/replaced").iterdir())) == 2
    # A third time with the second: a set of that name is there, both are kept.
    assert call(*prune, "--ratio", 0.25)[0] == 0
    assert (at_home / "o/replaced" / f"{key[:8]}-2").is_dir()


def test_a_shorter_job_takes_the_fine_tuned_model_along(call, at_home: Path, trained: list) -> None:
    prune = ["structured", *trained, "--ratio", 0.5]
    assert call(*prune, "--finetune-epochs", 1)[0] == 0
    assert call(*prune, *PRUNE)[0] == 0
    assert not (at_home / "o" / TUNED).exists()
    assert not (at_home / "o/structured_history.csv").exists()
    assert len(list((at_home / "o/replaced").glob(f"*/{TUNED}"))) == 1
    assert set(models(call, *trained)) == {"baseline", "structured_pruned"}


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_force_replaces(kind: str, call, at_home: Path, trained: list) -> None:
    value = {"structured": "--ratio", "unstructured": "--sparsity"}[kind]
    first = [kind, *trained, value, 0.5, "--finetune-epochs", 1]
    assert call(*first)[0] == 0
    status, _, err = call(kind, *trained, value, 0.25, *PRUNE, "--force")
    assert status == 0, err
    assert not (at_home / "o/replaced").exists()
    assert not [name for name in files(at_home / "o") if "history" in name and kind in name]
    assert not (at_home / "o" / TUNED).exists()
    again = (at_home / "o/records").joinpath(
        {"structured": "structured_pruned", "unstructured": "unstructured"}[kind] + ".json"
    )
    before = again.stat().st_mtime_ns
    status, _, err = call(kind, *trained, value, 0.25, *PRUNE, "--force")
    assert (status, "nothing to do" in err) == (0, False)
    assert again.stat().st_mtime_ns > before


def test_another_checkpoint_moves_the_models_of_the_first(
    call, at_home: Path, two: tuple[Path, Path]
) -> None:
    """Two checkpoints in one run directory, with the same options otherwise."""
    job = ["--dataset", "digits", *QUICK[4:], "--out", "o"]
    prune = [*job, "--ratio", 0.5, *PRUNE]
    assert call("structured", *prune, "--checkpoint", two[0])[0] == 0
    first = contents(at_home / "o")
    given = (at_home / "o/records/given_baseline.json").read_bytes()
    assert call("structured", *prune, "--checkpoint", two[1])[0] == 0
    assert first < contents(at_home / "o")
    assert (at_home / "o/records/given_baseline.json").read_bytes() == given
    assert set(models(call, *job)) == {"baseline", "structured_pruned"}


def test_a_sweep_of_another_checkpoint_hides_nothing(
    call, at_home: Path, two: tuple[Path, Path]
) -> None:
    job = ["--dataset", "digits", *QUICK[4:], "--out", "o"]
    sweep = ["sensitivity", "--kind", "structured", *job, "--levels", "0.5"]
    prune = [*job, "--ratio", 0.5, *PRUNE]
    assert call("structured", *prune, "--checkpoint", two[0])[0] == 0
    assert call(*sweep, "--checkpoint", two[1])[0] == 0
    assert set(models(call, *job)) == {"baseline", "structured_pruned"}


@pytest.mark.parametrize(
    "limit", [["--limit-train", 40], ["--limit-val", 20]], ids=lambda option: option[0]
)
def test_other_training_images_hide_nothing(
    limit: list, call, at_home: Path, trained: list
) -> None:
    """The same test images: all finished models stay in the table."""
    assert call("structured", *trained, "--ratio", 0.5, *PRUNE)[0] == 0
    baseline = (at_home / "o/records/baseline.json").read_bytes()
    assert call("unstructured", *trained, *limit, "--sparsity", 0.5)[0] == 0
    assert (at_home / "o/records/baseline.json").read_bytes() == baseline
    for more in ([], limit):
        assert set(models(call, *trained, *more)) == {
            "baseline",
            "unstructured",
            "structured_pruned",
        }
    status, _, err = call("report", *trained)
    assert status == 0, err
    assert "Nothing is pruned yet" not in (at_home / "o/report.html").read_text()


def test_fewer_test_images_make_a_table_of_their_own(call, at_home: Path, trained: list) -> None:
    assert call("structured", *trained, "--ratio", 0.5, *PRUNE)[0] == 0
    baseline = (at_home / "o/records/baseline.json").read_bytes()
    few = [*trained[:-4], "--limit-test", 20, *trained[-2:]]
    assert few[-4:-2] == ["--limit-test", 20]
    status, out, err = call("unstructured", *few, "--sparsity", 0.5)
    assert status == 0, err
    assert "on 20 test images" in out
    assert (at_home / "o/records/baseline.json").read_bytes() == baseline
    status, out, err = call("compare", *QUICK[:4], "--out", "o")
    assert [line.split()[0] for line in out.splitlines()[2:4]] == ["baseline", "structured_pruned"]
    assert "unstructured was measured on other test images" in err
    assert "compare --limit-test 20" in err
    status, out, err = call("compare", *few)
    assert [line.split()[0] for line in out.splitlines()[2:4]] == ["baseline", "unstructured"]
    assert "on 20 test images" in out
    status, out, err = call("compare", *QUICK[:4], "--out", "o", "--limit-test", 30)
    assert (status, out) == (2, "")
    assert "holds results on 60 test images, but --limit-test 30 was given" in one_line(
        err.splitlines(keepends=True)[-1]
    )


def test_a_tag_changes_nothing_outside_its_directory(call, at_home: Path, trained: list) -> None:
    assert call("structured", *trained, "--ratio", 0.5, *PRUNE)[0] == 0
    assert call("sensitivity", "--kind", "structured", *trained, "--levels", "0.5")[0] == 0
    before = all_bytes(at_home / "o")
    few = ["--limit-test", 20, "--limit-train", 40]
    tagged = [*QUICK[:4], *few, "--limit-val", 20, "--out", "o", "--tag", "t"]
    for command in (
        ["structured", "--ratio", 0.25, *PRUNE],
        ["unstructured", "--sparsity", 0.5],
        ["sensitivity", "--kind", "structured", "--levels", "0.25", "--layers", "features.0"],
        ["plan", "--budget", "params=0.999", "--round-to", 1],
        ["compare"],
        ["report"],
    ):
        status, _, err = call(*command, *tagged)
        assert status == 0, err
        after = all_bytes(at_home / "o")
        assert {name: raw for name, raw in after.items() if not name.startswith("t/")} == before
    assert set(models(call, *trained)) == {"baseline", "structured_pruned"}
    status, _, err = call("train", *tagged, "--epochs", 2)
    assert status == 2
    assert "--tag: o holds a dense model with other settings" in one_line(
        err.splitlines(keepends=True)[-1]
    )


def test_a_tag_keeps_its_own_replaced_models(call, at_home: Path, trained: list) -> None:
    tagged = ["structured", *trained, "--tag", "t", *PRUNE]
    assert call(*tagged, "--ratio", 0.5)[0] == 0
    assert call(*tagged, "--ratio", 0.25)[0] == 0
    assert len(list((at_home / "o/t/replaced").glob(f"*/{PRUNED}"))) == 1
    assert not (at_home / "o/replaced").exists()
    status, _, err = call(*tagged[:-2], "--ratio", 0.5, "--tag", "replaced")
    assert (status, "is reserved" in one_line(err)) == (2, True)


def test_another_dense_model_moves_the_former_one(call, at_home: Path, trained: list) -> None:
    before = contents(at_home / "o")
    key = load(at_home / "o/vgg11_digits_finetuned.pth").meta["key"]
    assert call("train", *trained, "--epochs", 2)[0] == 0
    assert before < contents(at_home / "o")
    assert files(at_home / "o/replaced" / key[:8]) == {
        "history.csv",
        "vgg11_digits_finetuned.pth",
        "records/baseline.json",
    }


@pytest.mark.usefixtures("undrawn")
def test_another_sweep_moves_the_former_one(call, at_home: Path, trained: list) -> None:
    sweep = ["sensitivity", "--kind", "structured", *trained, "--layers", "features.0"]
    assert call(*sweep, "--levels", "0.5")[0] == 0
    csv = (at_home / "o/structured_sensitivity.csv").read_bytes()
    assert call(*sweep, "--levels", "0.25")[0] == 0
    (place,) = (at_home / "o/replaced").iterdir()
    assert (place / "structured_sensitivity.csv").read_bytes() == csv
    assert files(place) == {
        "structured_sensitivity.csv",
        "structured_sensitivity_results.pth",
        "records/structured_sensitivity.json",
        "plots/structured_sensitivity.png",
        "plots/structured_sensitivity_cost.png",
    }
    assert "nothing to do" in call(*sweep, "--levels", "0.25")[2]


def test_another_plan_moves_the_former_one(call, at_home: Path, trained: list) -> None:
    sweep = ["sensitivity", "--kind", "structured", *trained, "--layers", "all"]
    assert call(*sweep, "--levels", "0.25,0.5,0.75")[0] == 0
    plan = ["plan", *trained, "--round-to", 1]
    assert call(*plan, "--budget", "macs=0.6")[0] == 0
    former = (at_home / "o/ratios.json").read_bytes()
    prediction = json.loads((at_home / "o/plan.json").read_text())["prediction"]
    status, _, err = call(*plan, "--budget", "macs=0.3")
    assert status == 0
    (place,) = (at_home / "o/replaced").iterdir()
    assert str(place.relative_to(at_home)) in err
    assert (place / "ratios.json").read_bytes() == former
    assert json.loads((place / "plan.json").read_text())["prediction"] == prediction
    status, _, err = call(*plan, "--budget", "macs=0.3")
    assert (status, "nothing to do" in err) == (0, True)
    # A plan that a user edited is never moved or replaced without --force.
    (at_home / "o/ratios.json").write_text('{"features.0": 0.5}')
    before = all_bytes(at_home / "o")
    status, _, err = call(*plan, "--budget", "macs=0.6")
    assert status == 2
    assert "edited since" in one_line(err)
    assert all_bytes(at_home / "o") == before
    assert call(*plan, "--budget", "macs=0.6", "--force")[0] == 0
    assert len(list((at_home / "o/replaced").iterdir())) == 1


@pytest.mark.usefixtures("brief", "undrawn")
def test_a_benchmark_of_other_models_moves_the_former_one(
    call, at_home: Path, trained: list
) -> None:
    timing = ["benchmark", *trained, "--batch-sizes", 1, "--modes", "eager", "--dtypes", "fp32"]
    timing += ["--trials", 9, "--no-probes"]
    assert call("structured", *trained, "--ratio", 0.5, *PRUNE)[0] == 0
    assert call(*timing)[0] == 0
    former = (at_home / "o/latency.json").read_bytes()
    assert call("structured", *trained, "--ratio", 0.25, *PRUNE)[0] == 0
    (place,) = (at_home / "o/replaced").iterdir()
    assert (place / "latency.json").read_bytes() == former, "the times of the models that moved"
    assert call(*timing)[0] == 0
    assert call(*timing)[0] == 0
    found = list((at_home / "o/replaced").glob("*/latency.json"))
    assert {path.read_bytes() for path in found} == {former}


def test_an_interrupt_between_the_two_models_keeps_the_former_set(
    call, at_home: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tp_vgg.training.run import TrainingRun

    prune = ["structured", *trained, "--finetune-epochs", 1, "--batch-size", 16]
    assert call(*prune, "--ratio", 0.5)[0] == 0
    former = all_bytes(at_home / "o")
    step = TrainingRun.train_step

    def interrupting(self: TrainingRun) -> object:
        if self.step == 2:
            os.kill(os.getpid(), 2)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "train_step", interrupting)
        status, out, _ = call(*prune, "--ratio", 0.25)
    assert (status, out) == (130, "")
    kept = {name: raw for name, raw in all_bytes(at_home / "o").items() if "partial" not in name}
    assert kept == former
    assert [name for name in files(at_home / "o") if "unchecked" in name] == []
    assert set(models(call, *trained)) == {"baseline", "structured_pruned", "structured_finetuned"}
    assert call(*prune, "--ratio", 0.25)[0] == 0
    assert not [name for name in files(at_home / "o") if "partial" in name]
    assert load(at_home / "o" / PRUNED).spec.widths[0] == 12
    (place,) = (at_home / "o/replaced").iterdir()
    assert (place / TUNED).read_bytes() == former[TUNED]


def test_an_interrupt_between_the_first_two_models_keeps_the_pruned_one(
    call, at_home: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tp_vgg.training.run import TrainingRun

    prune = ["structured", *trained, "--finetune-epochs", 1, "--ratio", 0.5]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "train_step", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(*prune)[0] == 130
    assert set(models(call, *trained)) == {"baseline", "structured_pruned"}
    assert call(*prune)[0] == 0
    assert not (at_home / "o/replaced").exists()


def test_a_dry_run_reads_the_dense_model_of_the_run_directory(
    call, at_home: Path, trained: list
) -> None:
    """Its record says the head, the widths and the classes."""
    for where in (["--out", "o"], [*trained]):
        status, out, err = call("structured", *where, "--ratio", 0.5, "--dry-run")
        assert status == 0, err
        assert "classifier.0" not in out
        assert "16 → 8" in out
    status, _, err = call(
        "structured", "--out", "o", "--ratio", 0.5, "--dry-run", "--head", "torchvision"
    )
    assert (status, "holds linear, but --head torchvision" in one_line(err)) == (2, True)


def test_a_dry_run_counts_the_classes_of_a_folder(
    call, at_home: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(Image, "open", None)
    status, out, err = call(
        "structured", "--dataset", "folder", "--data-dir", image_folder, "--head", "linear",
        "--ratio", 0.5, "--dry-run",
    )  # fmt: skip
    assert status == 0, err
    last = next(line for line in out.splitlines() if line.startswith("classifier"))
    assert "2 → 2" in last
    assert not list(image_folder.glob(".tp_vgg*"))


def test_plan_finds_the_sweep_of_the_same_checkpoint(
    call, at_home: Path, make_model, tmp_path: Path
) -> None:
    """All commands find the default run directory by the spec of the checkpoint."""
    save(make_model(replace(SMALL, hidden=())), tmp_path / "a.pth")
    job = ["--dataset", "digits", *QUICK[4:], "--checkpoint", tmp_path / "a.pth"]
    assert call("sensitivity", "--kind", "structured", *job, "--levels", "0.5")[0] == 0
    status, _, err = call("plan", *job, "--budget", "macs=0.6", "--round-to", 1)
    assert status == 0, err
    (root,) = (at_home / "runs").iterdir()
    assert root.name == "vgg11_bn-linear-digits"
    assert (root / "ratios.json").is_file()
    assert call("structured", *job, "--ratios", root / "ratios.json", *PRUNE)[0] == 0
    for command in (["compare"], ["report"], ["structured", "--ratio", 0.5, "--dry-run"]):
        status, _, err = call(*command, *job)
        assert status == 0, err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ratio", 0.3, "--round-to", 1000], "rounded up to a multiple of 1000 (--round-to)"),
        (["--ratio", 0.001], "below half a channel"),
        (["--ratio", 0], "every ratio is 0"),
    ],
)
@pytest.mark.parametrize("dry", [["--dry-run"], PRUNE], ids=lambda value: value[0])
def test_removing_nothing_is_said(
    dry: list, options: list, said: str, call, at_home: Path, trained: list
) -> None:
    status, _, err = call("structured", *trained, *options, *dry)
    assert status == 0, err
    assert err.count("no channel is removed") == 1
    assert said in err


def test_layers_that_keep_everything_are_named(
    call, at_home: Path, trained: list, plan_file
) -> None:
    plan = plan_file({"features.0": 0.01, "features.4": 0.5})
    status, _, err = call("structured", *trained, "--ratios", plan, *PRUNE)
    assert status == 0
    assert "no channel is removed from features.0: their ratios are below half a channel" in err
    plan = plan_file({})
    status, _, err = call("structured", *trained, "--ratios", plan, *PRUNE)
    assert (status, "it names no layer" in err) == (0, True)


def test_zeroing_nothing_is_said(call, at_home: Path, trained: list) -> None:
    status, _, err = call("unstructured", *trained, "--sparsity", "1e-9")
    assert status == 0
    assert "no weight is set to zero: --sparsity" in err


@pytest.mark.parametrize(
    "option",
    [["--out", "e"], ["--checkpoint", "x.pth"], ["--limit-test", 3], ["--tag", "t"], ["--seed", 1]],
    ids=lambda option: option[0],
)
def test_export_takes_no_option_that_it_ignores(
    option: list, call, at_home: Path, make_model
) -> None:
    save(make_model(), at_home / "x.pth")
    status, out, err = call("export", "x.pth", "--format", "safetensors", *option)
    assert (status, out) == (2, "")
    assert f"No such option '{option[0]}'" in one_line(err).replace("No such option: ", "No such ")
    assert files(at_home) == {"x.pth"}


@pytest.mark.parametrize("command", [["compare"], ["report"]], ids=lambda command: command[0])
def test_a_run_directory_of_other_data_is_refused(
    command: list, call, at_home: Path, trained: list, image_folder: Path
) -> None:
    status, out, err = call(
        *command, "--dataset", "folder", "--data-dir", image_folder, "--out", "o"
    )
    assert (status, out) == (2, "")
    assert "o: holds results on digits, but --dataset folder was given" in one_line(err)
    assert call(*command, "--out", "o")[0] == 0, "no data set is named: that of the records"


def test_plan_refuses_a_limit_that_its_sweep_was_not_made_with(
    call, at_home: Path, trained: list
) -> None:
    assert call("sensitivity", "--kind", "structured", *trained, "--levels", "0.5")[0] == 0
    plan = ["plan", "--dataset", "digits", "--out", "o", "--budget", "macs=0.9", "--round-to", 1]
    status, out, err = call(*plan, "--limit-val", 10)
    assert (status, out) == (2, "")
    assert "holds results on 40 val images, but --limit-val 10 was given" in one_line(err)
    assert call(*plan, "--limit-val", 40)[0] == 0


def job_of(path: Path) -> list:
    return ["--dataset", "digits", *QUICK[4:], "--checkpoint", path, "--out", "o"]


def test_a_sweep_of_larger_images_is_found_again(
    call, at_home: Path, make_model, tmp_path: Path
) -> None:
    save(make_model(replace(SMALL, image_size=40)), tmp_path / "a.pth")
    sweep = ["sensitivity", "--kind", "structured", *job_of(tmp_path / "a.pth")]
    sweep += ["--levels", "0.5", "--layers", "features.0"]
    assert call(*sweep)[0] == 0
    status, _, err = call(*sweep)
    assert (status, "nothing to do" in err) == (0, True)
    again = [*QUICK[:2], *QUICK[4:], "--out", "o"]
    status, _, err = call("compare", *again, tmp_path / "a.pth")
    assert status == 0, err


def test_a_checkpoint_that_was_moved_is_measured_again(
    call, at_home: Path, make_model, tmp_path: Path
) -> None:
    save(make_model(), tmp_path / "a.pth")
    assert call("structured", *job_of(tmp_path / "a.pth"), "--ratio", 0.5, *PRUNE)[0] == 0
    (tmp_path / "a.pth").rename(tmp_path / "b.pth")
    moved = job_of(tmp_path / "b.pth")
    status, _, err = call("structured", *moved, "--ratio", 0.5, *PRUNE)
    assert (status, "nothing to do" in err) == (0, True)
    for args in (moved, [*QUICK[:2], *QUICK[4:], "--out", "o"]):
        assert set(models(call, *args)) == {"baseline", "structured_pruned"}


def test_models_of_two_checkpoints_are_shown_by_naming_one(
    call, at_home: Path, two: tuple[Path, Path]
) -> None:
    first, second = two
    assert call("unstructured", *job_of(first), "--sparsity", 0.5)[0] == 0
    assert call("structured", *job_of(second), "--ratio", 0.5, *PRUNE)[0] == 0
    assert set(models(call, *job_of(first))) == {"baseline", "unstructured"}
    assert set(models(call, *job_of(second))) == {"baseline", "structured_pruned"}
    status, _, err = call("compare", *job_of(first)[:-4], "--out", "o")
    assert status == 0
    assert "unstructured was pruned from another baseline: left out; `compare --checkpoint" in err
    assert "a.pth` shows it" in err


def test_numbers_that_the_file_holds_change_nothing(
    call, at_home: Path, make_model, tmp_path: Path
) -> None:
    model = make_model()
    model.meta.update(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.25])
    save(model, tmp_path / "a.pth")
    numbers = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.25"]
    assert call("unstructured", *job_of(tmp_path / "a.pth"), "--sparsity", 0.5, *numbers)[0] == 0
    assert call("structured", *job_of(tmp_path / "a.pth"), "--ratio", 0.5, *PRUNE)[0] == 0
    status, _, err = call("unstructured", *job_of(tmp_path / "a.pth"), "--sparsity", 0.5)
    assert (status, "nothing to do" in err) == (0, True)
    assert set(models(call, *job_of(tmp_path / "a.pth"))) == {
        "baseline",
        "unstructured",
        "structured_pruned",
    }


def test_a_plan_whose_prediction_was_written_over_is_kept_too(
    call, at_home: Path, trained: list
) -> None:
    sweep = ["sensitivity", "--kind", "structured", *trained, "--layers", "all"]
    assert call(*sweep, "--levels", "0.25,0.5,0.75")[0] == 0
    plan = ["plan", *trained, "--round-to", 1]
    assert call(*plan, "--budget", "macs=0.6")[0] == 0
    first = (at_home / "o/ratios.json").read_bytes()
    assert call(*plan, "--budget", "macs=0.3", "--output", "b.json")[0] == 0
    assert (at_home / "o/ratios.json").read_bytes() == first
    assert call(*plan, "--budget", "macs=0.3")[0] == 0
    assert (at_home / "o/ratios.json").read_bytes() == Path("b.json").read_bytes() != first
    assert first in {path.read_bytes() for path in (at_home / "o").rglob("*.json")}


def test_a_key_in_a_record_is_no_path(call, at_home: Path, trained: list) -> None:
    assert call("structured", *trained, "--ratio", 0.5, *PRUNE)[0] == 0
    path = at_home / "o/records/structured_pruned.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "../../up"}))
    assert call("structured", *trained, "--ratio", 0.25, *PRUNE)[0] == 0
    assert {entry.name for entry in at_home.iterdir()} == {"o"}
    assert (at_home / "o/replaced/unknown" / PRUNED).is_file()


@pytest.mark.parametrize("tag", ["a.baseline.partial", "x.partial.y"])
def test_a_tag_that_looks_unfinished_is_refused(tag: str, call, at_home: Path) -> None:
    status, _, err = call("structured", *QUICK, "--ratio", 0.5, "--tag", tag)
    assert (status, "--tag" in one_line(err)) == (2, True)
    assert files(at_home) == set()


def test_a_file_that_is_not_written_may_be_the_checkpoint(
    call, at_home: Path, trained: list
) -> None:
    assert call("unstructured", *trained, "--sparsity", 0.5)[0] == 0
    status, _, err = call(
        "structured", *trained, "--ratio", 0.5, *PRUNE, "--checkpoint", f"o/{MASKED}"
    )
    assert status == 0, err
    status, _, err = call(
        "unstructured", *trained, "--sparsity", 0.9, "--checkpoint", f"o/{MASKED}"
    )
    assert (status, "would be written over" in one_line(err)) == (2, True)


def test_options_without_effect_are_named_and_change_nothing(
    call, at_home: Path, trained: list
) -> None:
    assert call("unstructured", *trained, "--sparsity", 0.5)[0] == 0
    status, _, err = call("unstructured", *trained, "--sparsity", 0.5, "--lr", 0.1, "--no-distill")
    assert status == 0
    assert "--lr, --distill: without effect, since --finetune-epochs is 0" in err
    assert "nothing to do" in err


@pytest.mark.parametrize(
    "args",
    [
        ["compare", "other.pth", "--out", "n"],
        ["train", "--weights", "thin.pth", "--out", "n"],
    ],
    ids=lambda args: args[0],
)
def test_a_file_that_does_not_fit_leaves_no_directory(
    args: list, call, at_home: Path, make_model
) -> None:
    save(make_model(replace(SMALL, num_classes=4)), at_home / "other.pth")
    save(make_model(replace(SMALL, num_classes=4)), at_home / "thin.pth")
    status, _, err = call(*args, *QUICK[:2], *QUICK[4:])
    assert status == 2
    one_line(err.splitlines(keepends=True)[-1])
    assert files(at_home) == {"other.pth", "thin.pth"}


def test_run_goes_past_a_plan_of_the_user_with_force_alone(
    call, at_home: Path, small: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tp_vgg.errors import WorkFailed
    from tp_vgg.stages import run as pipeline

    def work(*_: object) -> None:
        raise WorkFailed("at work")

    monkeypatch.setattr(pipeline, "dense", work)
    (at_home / "o").mkdir()
    (at_home / "o/ratios.json").write_text('{"features.0": 0.5}')
    run = ["run", *small, "--out", "o", "--round-to", 1]
    status, _, err = call(*run)
    assert (status, "give --force to replace it" in one_line(err)) == (2, True)
    status, _, err = call(*run, "--force")
    assert (status, err.endswith("error: at work\n")) == (1, True)
