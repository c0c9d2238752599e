"""`sensitivity` on the command line: its files, when a sweep is repeated, and kills."""

from __future__ import annotations

import csv
import json
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.commands import QUICK, files, finish, launch, one_line
from helpers.networks import SMALL

from tp_vgg.network.checkpoint import save
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.sensitivity.sweep import sweep
from tp_vgg.sensitivity.table import LEVELS, Sensitivity
from tp_vgg.stages import sensitivity as stage

OUTPUTS = ("{}_sensitivity.csv", "{}_sensitivity_results.pth", "records/{}_sensitivity.json")


def outputs(out: Path, kind: str) -> dict[str, bytes]:
    """All bytes of the outputs, except for the command line, which names the run directory."""
    found = {name: (out / name.format(kind)).read_bytes() for name in OUTPUTS}
    return {name: re.sub(rb',\n "command": "[^"]*"', b"", raw) for name, raw in found.items()}


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_a_sweep_leaves_its_table_and_figures(kind: str, call, at_home: Path, small: list) -> None:
    status, out, err = call("sensitivity", *small, "--kind", kind, "--out", "o", "--split", "test")
    assert status == 0, err
    for name in ("", "_cost"):
        assert (
            (at_home / f"o/plots/{kind}_sensitivity{name}.png").read_bytes().startswith(b"\x89PNG")
        )
    with (at_home / f"o/{kind}_sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "ratio", "correct", "n", "accuracy", "low", "high", "drop"]
    assert [(row["layer"], float(row["ratio"])) for row in rows] == [
        (layer, r) for layer in SMALL.conv_names for r in LEVELS
    ]
    assert {row["n"] for row in rows} == {"60"}
    results = torch.load(at_home / f"o/{kind}_sensitivity_results.pth", weights_only=True)
    table = Sensitivity.from_dict(results)
    assert [str(point.correct) for point in table.points] == [row["correct"] for row in rows]
    assert results["data"]["split"] == "test"
    assert results["environment"]["torch"]
    assert table.baseline.n == 60
    assert f"{kind} drop" in out
    assert [line.split()[0] for line in out.splitlines()[3:]] == list(SMALL.conv_names)
    assert not [name for name in files(at_home) if "partial" in name]


@pytest.mark.usefixtures("undrawn")
def test_val_is_the_default_and_layers_can_be_named(call, at_home: Path, small: list) -> None:
    options = [
        "--kind",
        "structured",
        "--out",
        "o",
        "--layers",
        "classifier.0, features.8",
        "--levels",
        "0.75,0",
    ]
    options += ["--precision", "fp32"]
    status, out, err = call("sensitivity", *small, *options)
    assert status == 0, err
    record = json.loads((at_home / "o/records/structured_sensitivity.json").read_text())
    assert [(p["layer"], p["ratio"], p["n"]) for p in record["points"]] == [
        ("features.8", 0.0, 40), ("features.8", 0.75, 40), ("classifier.0", 0.0, 40),
        ("classifier.0", 0.75, 40)
    ]  # fmt: skip
    assert record["data"]["split"] == "val"
    assert out.splitlines()[1].split() == ["structured", "drop", "0", "0.75"]


@pytest.mark.usefixtures("undrawn")
def test_a_finished_sweep_answers_from_its_record(
    call, at_home: Path, small: list, monkeypatch, make_model
) -> None:
    again = ["sensitivity", *small, "--kind", "structured", "--out", "o"]
    first = call(*again)
    assert first[0] == 0, first[2]
    before = outputs(at_home / "o", "structured")
    (at_home / "o/structured_sensitivity.csv").unlink()
    (at_home / "o/plots/structured_sensitivity.png").unlink()
    asked: list[str] = []

    def spy(*args, **kwargs):
        asked.append("run")
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(stage, "run", spy)
        patch.setattr(stage, "open_session", spy)
        patch.setattr(stage, "given_network", spy)
        status, out, err = call(*again)
        assert (status, out) == first[:2]
        assert "swept before; nothing to do" in err
        assert outputs(at_home / "o", "structured") == before
        assert (at_home / "o/plots/structured_sensitivity.png").is_file()
        changed = make_model(SMALL, seed=1)
        save(changed, at_home / "changed.pth")
        for options in (
            ["--levels", "0.1,0.2"], ["--layers", "features.0"], ["--importance", "l2"],
            ["--split", "test"], ["--precision", "bf16"], ["--limit-val", "30"],
            ["--checkpoint", at_home / "changed.pth"],
        ):  # fmt: skip
            with pytest.raises(AssertionError):
                call(*again, *options)
    assert len(asked) == 7
    assert call(*again, "--limit-val", "30")[0] == 0
    assert (
        json.loads((at_home / "o/records/structured_sensitivity.json").read_text())["baseline"]["n"]
        == 30
    )


@pytest.mark.usefixtures("undrawn")
def test_a_kill_among_the_outputs_leaves_no_older_sweeps_files(
    call, at_home: Path, small: list, monkeypatch
) -> None:
    again = ["sensitivity", *small, "--kind", "structured", "--layers", "features.4", "--out"]
    assert call(*again, "o", "--levels", "0,0.5")[0] == 0
    assert call(*again, "straight", "--levels", "0.25")[0] == 0
    for place in ("keep_figure", "write_text", "write_json", "Journal.remove"):

        def dies(*_args, **_kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(f"tp_vgg.stages.sensitivity.{place}", dies)
            assert call(*again, "o", "--levels", "0.25")[0] == 130
        assert call(*again, "o", "--levels", "0.25")[0] == 0
        assert outputs(at_home / "o", "structured") == outputs(at_home / "straight", "structured")
        assert not (at_home / "o/structured_sensitivity.partial.jsonl").exists()
        assert call(*again, "o", "--levels", "0,0.5")[0] == 0


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_record_is_swept_again(call, at_home: Path, small: list) -> None:
    again = [
        "sensitivity",
        *small,
        "--kind",
        "structured",
        "--layers",
        "features.25",
        "--levels",
        "0.25,0.5",
        "--out",
        "o",
    ]
    assert call(*again)[0] == 0
    good = outputs(at_home / "o", "structured")
    path = at_home / "o/records/structured_sensitivity.json"
    record = json.loads(path.read_text())
    point = record["points"][0]
    wrong = [{"points": wrong} for wrong in ([], [point], [{**point, "drop": "x"}, point], [{}], 7)]
    wrong += [{"points": [{**point, **field}, record["points"][1]]} for field in (
        {"layer": "features.4"}, {"layer": "nope"}, {"correct": "zzz"}, {"correct": -1}, {"n": 0},
        {"accuracy": 12.5}, {"drop": 99.0}, {"removed": 5}, {"redone": None}, {"ratio": 0.3},
        {"high": 101.0},
    )]  # fmt: skip
    wrong += [
        {"kind": "x"},
        {"spec": {}},
        {"spec": None},
        {"baseline": {**record["baseline"], "accuracy": "q"}},
        {"format": 1},
    ]
    for field in wrong:
        path.write_text(json.dumps({**record, **field}))
        status, _, err = call(*again)
        assert status == 0, (field, err)
        assert "swept before" not in err, field
        assert outputs(at_home / "o", "structured") == good
    for name in ("structured_sensitivity.csv", "structured_sensitivity_results.pth"):
        (at_home / "o" / name).write_bytes(b"torn")
        assert "swept before" in call(*again)[2]
        assert outputs(at_home / "o", "structured") == good


def test_refusals_come_before_the_data(call, at_home: Path, small: list, monkeypatch) -> None:
    def never(*_args, **_kwargs):
        raise AssertionError("data were touched")

    monkeypatch.setattr("tp_vgg.stages.sensitivity.load_data", never)
    (at_home / "bad.pth").write_text("no model")
    head = ["sensitivity", "--kind", "structured", "--out", "o", "--checkpoint"]
    for options in (
        [at_home / "bad.pth"],
        [small[-1], "--layers", "bogus"],
        [small[-1], "--arch", "vgg19"],
    ):
        status, _, err = call(*head, *options)
        assert status == 2
        one_line(err)
    assert files(at_home) == {"bad.pth"}


@pytest.mark.usefixtures("undrawn")
def test_a_runs_own_pruned_model_can_be_swept(call, at_home: Path, small: list, make_model) -> None:
    (at_home / "o").mkdir()
    own = at_home / "o/vgg11_digits_structured_pruned.pth"
    save(make_model(), own)
    options = ["--dataset", "digits", *QUICK[4:], "--levels", "0.5", "--layers", "features.25"]
    status, _, err = call(
        "sensitivity", "--kind", "structured", *options, "--checkpoint", own, "--out", "o"
    )
    assert status == 0, err


@pytest.mark.usefixtures("undrawn")
def test_an_answer_still_refuses_a_contradicting_flag(call, at_home: Path, small: list) -> None:
    again = ["sensitivity", *small, "--kind", "structured", "--out", "o", "--levels", "0.5"]
    assert call(*again)[0] == 0
    status, _, err = call(*again, "--arch", "vgg16_bn")
    assert status == 2
    assert "holds vgg11_bn, but --arch vgg16_bn was given" in one_line(err)


def test_bad_layers_of_a_checkpoint_write_nothing(call, at_home: Path, small: list) -> None:
    status, _, err = call(
        "sensitivity", *small, "--kind", "structured", "--levels", "0.95", "--out", "o"
    )
    assert status == 2
    assert "ratio 0.95 would remove all 8 channels" in one_line(err)
    assert files(at_home) == set()


@pytest.mark.usefixtures("thin", "undrawn")
def test_a_missing_baseline_is_trained_first(call, at_home: Path, monkeypatch) -> None:
    monkeypatch.setattr("tp_vgg.stages.baseline.baseline_recipe", _one_step)
    status, _, err = call(
        "sensitivity", *QUICK, "--kind", "structured", "--levels", "0.5", "--layers", "features.25"
    )
    assert status == 0, err
    assert "training it first" in err
    home = at_home / "runs/vgg11_bn-linear-digits"
    assert (home / "vgg11_digits_finetuned.pth").is_file()
    assert (home / "structured_sensitivity.csv").is_file()


def _one_step(settings, spec, *_):
    from tp_vgg.training.recipe import Recipe

    return Recipe(epochs=1, lr=0.01, batch_size=64, seed=0)


@pytest.mark.usefixtures("undrawn")
def test_taylor_reads_gradients_of_the_train_split(
    call, at_home: Path, small: list, few_digits
) -> None:
    options = [
        "--kind",
        "structured",
        "--importance",
        "taylor",
        "--levels",
        "0.5",
        "--layers",
        "features.8",
        "--out",
        "o",
    ]
    assert call("sensitivity", *small, *options)[0] == 0
    (point,) = json.loads((at_home / "o/records/structured_sensitivity.json").read_text())["points"]
    assert point["removed"] == 8


@pytest.mark.usefixtures("undrawn")
def test_ctrl_c_keeps_finished_layers_and_says_so(
    call, at_home: Path, small: list, monkeypatch
) -> None:
    from helpers.sweeps import interrupted

    again = ["sensitivity", *small, "--kind", "unstructured", "--out"]
    assert call(*again, "straight")[0] == 0
    with monkeypatch.context() as patch:
        interrupted(patch, after=3)
        status, out, err = call(*again, "o")
    assert status == 130
    assert out == ""
    assert "18 of 73 points are kept; the same command goes on from there" in err
    journal = at_home / "o/unstructured_sensitivity.partial.jsonl"
    assert len(journal.read_text().splitlines()) == 19
    assert call(*again, "o")[0] == 0
    assert not journal.exists()
    assert outputs(at_home / "o", "unstructured") == outputs(at_home / "straight", "unstructured")


@pytest.mark.usefixtures("undrawn")
def test_two_ranks_give_what_one_does(call, at_home: Path, make_model) -> None:
    save(make_model(), at_home / "small.pth")
    options = [
        "sensitivity",
        "--dataset",
        "digits",
        "--checkpoint",
        "small.pth",
        "--split",
        "test",
        "--levels",
        "0,0.4,0.8",
    ]
    sweep = [*options, "--kind", "structured", "--out"]
    status, one, err = call(*sweep, "one")
    assert status == 0, err
    refused = ["sensitivity", "--kind", "structured", "--levels", "2"]
    ranks = launch([*sweep, "two"], refused, cwd=at_home, ranks=2)
    two, err = ranks.communicate(timeout=300)
    assert one == two, "the leader alone prints"
    assert outputs(at_home / "one", "structured") == outputs(at_home / "two", "structured")
    assert "error: --levels" in err
    assert ranks.returncode == 1, "torchrun's own"


@pytest.mark.slow
def test_ten_kills_leave_the_table_of_a_straight_run(tmp_path: Path, make_model) -> None:
    save(make_model(VGGSpec((24,) * 16, hidden=(32,))), tmp_path / "deep.pth")
    options = [
        "sensitivity",
        "--dataset",
        "digits",
        "--checkpoint",
        "deep.pth",
        "--split",
        "test",
        "--kind",
        "unstructured",
    ]
    finish(launch([*options, "--out", "straight"], cwd=tmp_path))
    journal = tmp_path / "o/unstructured_sensitivity.partial.jsonl"
    rng = random.Random(0)
    killed, kept = 0, []
    for _ in range(10):
        process = launch([*options, "--out", "o"], cwd=tmp_path)
        before = journal.stat().st_size if journal.is_file() else -1
        while process.poll() is None and (
            not journal.is_file() or journal.stat().st_size == before
        ):
            time.sleep(0.01)  # until the sweep has begun to write
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        kept.append(journal.stat().st_size if journal.is_file() else 0)
    assert killed >= 8, "the sweep was over before it could be killed"
    assert kept == sorted(kept) or kept[-1] == 0, "nothing finished is lost"
    finish(launch([*options, "--out", "o"], cwd=tmp_path))
    assert outputs(tmp_path / "o", "unstructured") == outputs(tmp_path / "straight", "unstructured")


@pytest.mark.usefixtures("undrawn")
def test_python_and_command_line_count_alike(
    call, at_home: Path, small: list, make_model, digits, few_digits
) -> None:
    assert (
        call("sensitivity", *small, "--kind", "structured", "--out", "o", "--levels", "0.5")[0] == 0
    )
    record = json.loads((at_home / "o/records/structured_sensitivity.json").read_text())
    from tp_vgg.data.datasets import load_data

    few = load_data("digits", Path("unused"), torch.device("cpu"), limits=(64, 40, 60))
    table = sweep(make_model(), few.val, "structured", levels=(0.5,))
    assert [p["correct"] for p in record["points"]] == [point.correct for point in table.points]
