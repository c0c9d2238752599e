"""Checkpoints that tp_vgg did not write, on the command line: notes, sizes, normalisation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.commands import QUICK, files, one_line
from helpers.networks import SMALL

from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.fold import can_fold_head
from tp_vgg.network.vgg.model import build
from tp_vgg.network.vgg.spec import VGGSpec

NUMBERS = ["--mean", "0.3,0.3,0.3", "--std", "0.25,0.25,0.5"]
PRUNE = ["--ratio", 0.5, "--finetune-epochs", 0]


@pytest.fixture
def plain(make_model, at_home: Path) -> list:
    """Options of a job that starts from a plain state dict."""
    torch.save(make_model().state_dict(), at_home / "plain.pth")
    return ["--dataset", "digits", *QUICK[4:], "--checkpoint", "plain.pth", "--out", "o"]


def record(home: Path, name: str) -> dict:
    return json.loads((home / "o/records" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    "command",
    [
        ["structured", *PRUNE],
        ["structured", *PRUNE, "--dry-run"],
        ["unstructured", "--sparsity", 0.5],
        ["sensitivity", "--kind", "structured", "--levels", "0.5", "--layers", "features.0"],
    ],
    ids=lambda command: " ".join(map(str, command[:2])) + "-dry" * ("--dry-run" in command),
)
def test_what_is_assumed_is_said_once_on_stderr(command: list, call, plain: list) -> None:
    status, _, err = call(*command, *plain)
    assert status == 0, err
    assert err.count("normalisation: CIFAR-10's is assumed") == 1
    assert err.count("image size: 32 is assumed") == 1
    assert "--mean" in err


def test_every_later_reader_says_it_too(call, at_home: Path, plain: list) -> None:
    assert call("structured", *plain, *PRUNE)[0] == 0
    own = plain[:-4]
    for command in (
        ["compare", *plain],
        ["compare", *own, "--out", "o", "plain.pth"],
        ["report", *plain],
        ["export", "plain.pth", "--format", "safetensors"],
        ["train", *QUICK[:2], *QUICK[4:], "--weights", "plain.pth", "--epochs", 1, "--out", "t"],
    ):
        status, _, err = call(*command)
        assert status == 0, err
        assert "normalisation: CIFAR-10's is assumed" in err, command


def test_the_assumption_stands_below_the_table_and_on_the_page(
    call, at_home: Path, plain: list
) -> None:
    status, out, _ = call("structured", *plain, *PRUNE)
    assert status == 0
    footnote = "baseline: normalisation: CIFAR-10's is assumed"
    assert footnote in out
    for form, wanted in (("text", True), ("markdown", True), ("csv", False)):
        assert (footnote in call("compare", *plain, "--format", form)[1]) == wanted
    notes = json.loads(call("compare", *plain, "--format", "json")[1])["models"]
    assert any("assumed" in note for note in notes["baseline"]["notes"])
    assert call("report", *plain)[0] == 0
    assert "normalisation: CIFAR" in (at_home / "o/report.html").read_text()


def test_the_given_normalisation_is_used_and_kept(call, at_home: Path, plain: list) -> None:
    status, out, err = call("structured", *plain, *PRUNE, *NUMBERS)
    assert status == 0, err
    assert "CIFAR-10's is assumed" not in err
    pruned = load(at_home / "o/vgg11_digits_structured_pruned.pth")
    assert pruned.meta["mean"] == [0.3, 0.3, 0.3]
    assert pruned.meta["std"] == [0.25, 0.25, 0.5]
    given = record(at_home, "given_baseline")
    assert given["normalisation"] == {"mean": [0.3] * 3, "std": [0.25, 0.25, 0.5]}
    # With others, or without, it is another dense model: measured, pruned and swept anew.
    status, _, err = call("structured", *plain, *PRUNE)
    assert status == 0, err
    assert "nothing to do" not in err
    assert record(at_home, "given_baseline") == given
    assert len(list((at_home / "o/records").glob("given_baseline*.json"))) == 2
    status, out, _ = call("compare", *plain)
    assert [line.split()[0] for line in out.splitlines()[2:4]] == ["baseline", "structured_pruned"]
    assert load(at_home / "o/vgg11_digits_structured_pruned.pth").meta["mean"] == [
        0.4914, 0.4822, 0.4465,
    ]  # fmt: skip


def test_a_sweep_with_another_normalisation_is_another_sweep(
    call, at_home: Path, plain: list
) -> None:
    sweep = ["sensitivity", "--kind", "structured", *plain, "--levels", "0.5"]
    assert call(*sweep)[0] == 0
    status, _, err = call(*sweep, *NUMBERS)
    assert (status, "nothing to do" in err) == (0, False)
    status, _, err = call(*sweep, *NUMBERS)
    assert (status, "nothing to do" in err) == (0, True)


def test_exports_carry_the_given_normalisation(call, at_home: Path, plain: list) -> None:
    status, _, err = call("export", "plain.pth", "--format", "safetensors", *NUMBERS)
    assert status == 0, err
    assert load(at_home / "plain.safetensors").meta["std"] == [0.25, 0.25, 0.5]
    status, _, err = call("export", "plain.pth", "--format", "torch", *NUMBERS)
    assert status == 0, err
    extra = {"tp_vgg.json": ""}
    torch.export.load(at_home / "plain.pt2", extra_files=extra)
    assert json.loads(extra["tp_vgg.json"])["mean"] == [0.3, 0.3, 0.3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mean", "0.5,0.5,0.5"], "give both"),
        (["--std", "0.5,0.5,0.5"], "give both"),
        (["--mean", "0.5", "--std", "0.5,0.5,0.5"], "--mean: '0.5': give three numbers"),
        (["--mean", "a,b,c", "--std", "1,1,1"], "--mean: 'a,b,c': give three numbers"),
        (["--mean", "nan,0,0", "--std", "1,1,1"], "--mean: 'nan,0,0': give three numbers"),
        (["--mean", "123,117,104", "--std", "58,57,57"], "divide numbers for \\[0, 255\\] by 255"),
        (["--mean", "0,0,0", "--std", "1,0,1"], "--std: '1,0,1': must be above 0"),
        (["--mean", "", "--std", "1,1,1"], "--mean: '': give three numbers"),
        (["--image-size", 31], "--image-size"),
        (["--image-size", 2000], "--image-size"),
        (["--image-size", "big"], "--image-size"),
    ],
)
def test_invalid_numbers_are_one_line(
    options: list, said: str, call, at_home: Path, plain: list
) -> None:
    import re

    status, out, err = call("structured", *plain, *PRUNE, *options)
    assert (status, out) == (2, "")
    assert re.search(said, one_line(err))
    assert files(at_home) == {"plain.pth"}


def test_a_file_of_tp_vgg_keeps_its_own_normalisation(
    call, at_home: Path, make_model, plain: list
) -> None:
    save(make_model(), at_home / "own.pth")
    job = [*plain[:-4], "--checkpoint", "own.pth", "--out", "o"]
    status, out, err = call("structured", *job, *PRUNE, *NUMBERS)
    assert (status, out) == (2, "")
    assert "own.pth" in one_line(err)
    assert "mean" in err
    status, out, err = call("structured", *job, *PRUNE, "--image-size", 64)
    assert status == 2
    assert "own.pth" in one_line(err)
    assert not (at_home / "o").exists()
    status, out, err = call("structured", *job, *PRUNE)
    assert status == 0
    assert "assumed" not in err + out


@pytest.mark.parametrize("form", ["half", "double", "safetensors"])
def test_sizes_compare_in_one_form(form: str, call, at_home: Path, make_model) -> None:
    """The file column does not tell a dtype from a prune."""
    state = make_model().state_dict()
    if form == "safetensors":
        from safetensors.torch import save_file

        path = Path("plain.safetensors")
        save_file(state, at_home / path)
    else:
        path = Path("plain.pth")
        cast = {n: getattr(v, form)() if v.is_floating_point() else v for n, v in state.items()}
        torch.save(cast, at_home / path)
    job = ["--dataset", "digits", *QUICK[4:], "--checkpoint", path, "--out", "o"]
    assert call("structured", *job, "--ratio", 0.01, "--finetune-epochs", 0)[0] == 0
    save(load(at_home / path), at_home / "saved.pth")
    given = record(at_home, "given_baseline")
    assert given["file_bytes"] == (at_home / path).stat().st_size
    assert given["bytes"] == pytest.approx((at_home / "saved.pth").stat().st_size, rel=0.02)
    metrics = json.loads(call("compare", *job, "--format", "json")[1])["models"]
    ratio = metrics["structured_pruned"]["bytes"] / metrics["baseline"]["bytes"]
    assert ratio == pytest.approx(1, abs=0.05), "nothing was removed"
    assert any("by its form alone" in note for note in metrics["baseline"]["notes"])


def test_a_folded_head_is_not_called_pruned(call, at_home: Path) -> None:
    spec = VGGSpec((8, 8, 8, 8, 12, 12, 12, 12), pool=7, hidden=(32, 28))
    assert can_fold_head(spec)
    torch.save(build(spec).state_dict(), at_home / "full.pth")
    job = ["--dataset", "digits", *QUICK[4:], "--checkpoint", "full.pth", "--out", "o"]
    status, out, err = call("structured", *job, "--ratio", 0.01, "--finetune-epochs", 0)
    assert status == 0, err
    models = json.loads(call("compare", *job, "--format", "json")[1])["models"]
    small, dense = models["structured_pruned"], models["baseline"]
    assert small["bytes"] / dense["bytes"] == pytest.approx(1, abs=0.05)
    assert small["params"] == dense["params"]
    assert "head folded" in out
    assert call("report", *job)[0] == 0
    assert "the file that it came in has" in " ".join(
        (at_home / "o/report.html").read_text().split()
    )


def test_a_val_accuracy_far_above_test_is_explained() -> None:
    from tp_vgg.evaluation.accuracy import Accuracy
    from tp_vgg.stages.measure import leak_warnings

    (warning,) = leak_warnings(Accuracy.of(498, 500), Accuracy.of(870, 1000))
    assert "probably trained on the val images" in warning
    assert "--split test" in warning
    assert not leak_warnings(Accuracy.of(450, 500), Accuracy.of(870, 1000))
    assert not leak_warnings(Accuracy.of(400, 500), Accuracy.of(870, 1000))


def test_a_foreign_model_at_chance_is_told_what_that_suggests(
    call, at_home: Path, plain: list
) -> None:
    torch.save(build(SMALL).state_dict(), at_home / "plain.pth")
    status, _, err = call("structured", *plain, *PRUNE)
    assert status == 0
    assert "can't be told from chance" in err
    assert "perhaps another normalisation (--mean, --std), image size or order of classes" in err


def test_the_command_on_the_page_names_the_same_numbers(call, at_home: Path, plain: list) -> None:
    assert call("structured", *plain, *PRUNE, *NUMBERS)[0] == 0
    assert call("report", *plain, *NUMBERS)[0] == 0
    page = (at_home / "o/report.html").read_text()
    assert "--mean 0.3,0.3,0.3 --std 0.25,0.25,0.5" in page
