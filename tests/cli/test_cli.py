"""The command line: refusals, files left behind, printed text."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.commands import QUICK, files, one_line
from helpers.networks import SMALL
from helpers.plans import REFUSED

from tp_vgg.cli import COMMANDS
from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.equivalence import EquivalenceCheck
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import BASELINE_EPOCHS, baseline_recipe, structured_epochs
from tp_vgg.stages.options import StructuredOptions


@pytest.mark.parametrize("case", REFUSED)
def test_every_refusal_is_one_line_and_writes_nothing(
    case: str, call, at_home: Path, plan_file
) -> None:
    content, said = REFUSED[case]
    path = plan_file(content)
    for extra in ([], ["--dry-run"]):
        status, out, err = call("structured", *QUICK[:2], "--ratios", path, *extra)
        assert status == 2
        assert out == ""
        assert re.search(said, one_line(err))
        assert str(path) in err
    assert files(at_home) == set()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["structured"], "either --ratios FILE or --ratio VALUE"),
        (
            ["structured", "--ratios", "a", "--ratio", "0.5"],
            "either --ratios FILE or --ratio VALUE",
        ),
        (["structured", "--ratios", "none.json"], "none.json: no such file"),
        (["structured", "--ratio", "nan"], "--ratio.*finite"),
        (["structured", "--ratio", "1"], "--ratio.*1 or more"),
        (["structured", "--ratio", "0.5", "--arch", "resnet18"], "'resnet18' is not one of"),
        (["structured", "--ratio", "0.5", "--round-to", "0"], "--round-to"),
        (
            ["structured", "--ratio", "0.5", "--arch", "vgg11", "--importance", "bn"],
            "no batch norm to rank by",
        ),
        (["structured", "--ratio", "0.5", "--checkpoint", "none.pth"], "none.pth: no such file"),
        (["structured", "--ratio", "0.5", "--tag", "../up"], "--tag.*plain directory name"),
        (
            ["structured", "--ratio", "0.5", "--tag", "records"],
            "--tag: 'records' is reserved",
        ),
        (
            ["structured", "--ratio", "0.5", "--dataset", "folder", "--data-dir", "none"],
            "--data-dir: none: no such directory",
        ),
        (["structured", "--ratio", "0.5", "--device", "tpu"], "--device: 'tpu'"),
        (
            ["structured", "--ratio", "0.5", "--device", "cuda:99"],
            "--device: cuda:99: this machine has",
        ),
        (["structured", "--show", "features.1"], "--show: features.1: no prunable layer"),
        (
            ["structured", "--ratio", "0.5", "--show", "classifier.6"],
            "--show: classifier.6: the last linear layer",
        ),
        (
            ["structured", "--ratio", "0.5", "--importance", "bn", "--show", "classifier.0"],
            "classifier.0 of vgg11_bn has no batch",
        ),
        (
            ["structured", "--ratio", "0.5", "--steps", "3", "--finetune-epochs", "2"],
            "can't be shared out over --steps 3",
        ),
        (
            ["unstructured", "--sparsity", "0.5", "--steps", "3", "--finetune-epochs", "2"],
            "can't be shared out over --steps 3",
        ),
        (["unstructured", "--sparsity", "0.5", "--steps", "0"], "--steps"),
        (
            [
                "unstructured",
                "--sparsity",
                "0.5",
                "--gradual",
                "--finetune-epochs",
                "2",
                "--steps",
                "2",
            ],
            "--gradual: .*leave out --steps 2",
        ),
        (["structured", "--ratio", "0.5", "--out", __file__], "is not a directory"),
        (["structured", "--ratio", "0.5", "--out", f"{__file__}/deeper"], "is not a directory"),
        (["unstructured"], "either --ratios FILE or --sparsity VALUE"),
        (["unstructured", "--sparsity", "-0.1"], "--sparsity.*negative"),
        (
            ["unstructured", "--scope", "global", "--ratios", "x.json"],
            "--scope global.*needs --sparsity",
        ),
        (["train", "--epochs", "0"], "--epochs"),
        (
            ["train", "--dataset", "digits", "--checkpoint", __file__],
            "--checkpoint: train makes a dense model",
        ),
        (["train", "--dataset", "digits", "--weights", "none.pth"], "none.pth: no such file"),
        (["compare", "--dataset", "digits"], "nothing to compare yet"),
        (["sensitivity"], "Missing option '--kind'"),
        (
            ["sensitivity", "--kind", "structured", "--levels", "0.1,half"],
            "--levels: '0.1,half': give fractions",
        ),
        (
            ["sensitivity", "--kind", "structured", "--levels", "0.1,0.1"],
            "--levels: give distinct fractions",
        ),
        (["sensitivity", "--kind", "structured", "--levels", "0.5,1"], "--levels.*1 or more"),
        (
            ["sensitivity", "--kind", "structured", "--levels", "0.999"],
            "--levels: features.0: ratio 0.999 would remove all",
        ),
        (
            ["sensitivity", "--kind", "structured", "--layers", "features.1"],
            "--layers: features.1: no prunable layer",
        ),
        (
            ["sensitivity", "--kind", "structured", "--arch", "vgg11", "--importance", "bn"],
            "no batch norm to rank by",
        ),
        (["unstructured", "--sparsity", "0.5", "--gradual"], "give --finetune-epochs"),
        (["structured", "--ratio", "0.5", "--distill-weight", "2"], "--distill-weight"),
        (["structured", "--ratio", "0.5", "--arch", "vgg11", "--recalibrate"], "no batch norm"),
        (
            ["sensitivity", "--kind", "unstructured", "--importance", "l2"],
            "by magnitude alone; use l1",
        ),
        (["prune"], "No such command 'prune'"),
        (["structured", "--rations", "x"], "No such option:? '?--rations"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    args: list[str], said: str, call, at_home: Path
) -> None:
    status, out, err = call(*args)
    assert status == 2
    assert out == ""
    assert re.search(said, one_line(err))
    assert files(at_home) == set()


def test_help_and_refusals_do_without_torch(plan_file, tmp_path: Path) -> None:
    bad = plan_file({"features.1": 0.5})
    good = plan_file({"features.0": 0.5}, "good.json")
    probe = (
        "import sys, tp_vgg.cli\nstatus = tp_vgg.cli.execute(sys.argv[1:])\n"
        "assert not {'torch', 'scipy', 'matplotlib'} & set(sys.modules)\nsys.exit(status)"
    )
    for status, args in (
        (0, ["--help"]),
        (0, ["structured", "--help"]),
        (0, ["structured", "--ratios", str(good), "--dry-run"]),
        (2, ["structured", "--ratios", str(bad)]),
        (2, ["unstructured", "--ratios", str(bad)]),
        (2, ["sensitivity", "--kind", "structured", "--levels", "2"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", probe, *args],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == status, done.stderr
    assert files(tmp_path) == {"ratios.json", "good.json"}


def test_every_command_has_an_example(call) -> None:
    for name in COMMANDS:
        status, out, _ = call(name, "--help")
        assert status == 0
        assert f"Example: python -m tp_vgg {name} " in out


def test_help_says_the_default_epochs(call) -> None:
    for name in ("train", "run"):
        assert "{small} on digits, else {cpu} on a CPU, {cuda} on CUDA)".format(
            **BASELINE_EPOCHS
        ) in " ".join(call(name, "--help")[1].split())
    tuned = [
        structured_epochs(Settings(dataset=name), StructuredOptions())
        for name in ("digits", "cifar10")
    ]
    for name in ("structured", "run"):
        assert "{} on digits, else {}".format(*tuned) in " ".join(call(name, "--help")[1].split())


def test_the_baseline_takes_fewer_epochs_on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(
        "tp_vgg.machine.device.pick_device",
        lambda name: torch.device({"auto": "cuda"}.get(name, name)),
    )
    recipes = {
        (data, device): baseline_recipe(Settings(dataset=data, device=device), VGGSpec.preset())
        for data in ("digits", "folder")
        for device in ("cpu", "auto")
    }
    assert recipes["digits", "cpu"] == recipes["digits", "auto"]
    assert (recipes["folder", "cpu"].epochs, recipes["folder", "auto"].epochs) == (12, 24)
    assert replace(recipes["folder", "cpu"], epochs=24) == recipes["folder", "auto"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_the_console_script(tmp_path: Path) -> None:
    """The line that the README gives, typed into a real bash."""
    script = tmp_path / "tp-vgg"
    script.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'from tp_vgg.cli import main; main()' \"$@\"\n"
    )
    script.chmod(0o755)
    asked = """
        eval "$(_TP_VGG_COMPLETE=bash_source tp-vgg)"
        complete -p tp-vgg
        COMP_WORDS=(tp-vgg sens) COMP_CWORD=1; _tp_vgg_completion tp-vgg
        COMP_WORDS=(tp-vgg structured --arch vgg19) COMP_CWORD=3; _tp_vgg_completion tp-vgg
        echo "${COMPREPLY[@]}"
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", asked], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _tp_vgg_completion tp-vgg",
        "sensitivity vgg19 vgg19_bn",
    ]
    assert done.stderr == ""


def test_import_alone_does_not_import_torch() -> None:
    probe = (
        "import sys, tp_vgg; assert 'torch' not in sys.modules; "
        "assert tp_vgg.VGGSpec.preset().depth == 11; "
        "assert dir(tp_vgg) == sorted([*tp_vgg.__all__, '__version__']); "
        "tp_vgg.load; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_a_traceback_free_module_entry(tp_vgg, tmp_path: Path) -> None:
    done = tp_vgg("structured", "--ratios", "nowhere.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    one_line(done.stderr)


def test_dry_run_prints_the_arithmetic(call, plan_file, at_home: Path) -> None:
    status, out, err = call(
        "structured", "--ratios", plan_file({"features.0": 0.1, "classifier.0": 0.5}), "--dry-run"
    )
    assert (status, err) == (0, "")
    spec = VGGSpec.preset()
    target = spec.with_widths({"features.0": 58, "classifier.0": 2048})
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "0.1" in lines["features.0"]
    assert "64 → 58" in lines["features.0"]
    assert "4096 → 2048" in lines["classifier.0"]
    assert f"{spec.params():,} → {target.params():,}" in lines["total"]
    assert f"{spec.macs():,} → {target.macs():,}" in lines["total"]
    assert files(at_home) == set()


def test_dry_run_reads_the_spec_off_a_checkpoint(
    call, make_model, tmp_path: Path, plan_file
) -> None:
    save(make_model(), tmp_path / "small.pth")
    status, out, _ = call(
        "structured", "--ratio", 0.5, "--checkpoint", tmp_path / "small.pth", "--dry-run"
    )
    assert status == 0
    assert "8 → 4" in out
    status, _, err = call(
        "structured",
        "--ratio",
        0.5,
        "--checkpoint",
        tmp_path / "small.pth",
        "--dry-run",
        "--arch",
        "vgg16",
    )
    assert status == 2
    assert "holds vgg11_bn, but --arch vgg16 was given" in one_line(err)


@pytest.mark.usefixtures("thin")
def test_the_whole_job_on_digits(call, at_home: Path, plan_file) -> None:
    """structured (which trains first), unstructured, compare: files, records and table agree."""
    plan = plan_file({"features.0": 0.25, "features.25": 0.5})
    status, out, err = call(
        "structured",
        *QUICK,
        "--ratios",
        plan,
        "--finetune-epochs",
        1,
        "--show",
        "features.25",
        "--batch-size",
        32,
    )
    assert status == 0, err
    assert "training it first" in err
    assert re.search(r"about \d+ s here", err)
    assert "equivalence check passed on 16 images" in err
    root = at_home / "runs" / "vgg11_bn-linear-digits"
    assert files(root) == {
        ".lock",
        "history.csv",
        "structured_history.csv",
        "vgg11_digits_finetuned.pth",
        "vgg11_digits_structured_pruned.pth",
        "vgg11_digits_structured_pruned_finetuned.pth",
        "plots/structured_features.25.png",
        "records/baseline.json",
        "records/structured_pruned.json",
        "records/structured_finetuned.json",
    }
    names = [line.split()[0] for line in out.partition("\n\n")[0].splitlines()]
    assert names[2:] == ["baseline", "structured_pruned", "structured_finetuned"]
    pruned = load(root / "vgg11_digits_structured_pruned.pth")
    assert pruned.spec.widths == (12, 24, 32, 32, 40, 40, 48, 24)
    assert len(pruned.kept["features.0"]) == 12
    assert pruned.meta["dataset"] == "digits"
    header, *epochs = (root / "structured_history.csv").read_text().splitlines()
    assert header == "epoch,lr,train_loss,train_accuracy,val_accuracy,seconds"
    assert len(epochs) == 1

    status, out, err = call(
        "unstructured", *QUICK, "--sparsity", 0.9, "--scope", "global", "--show", "features.0"
    )
    assert status == 0, err
    assert "training" not in err
    assert "zeros by layer: features.0 " in err
    masked = load(root / "unstructured_pruned_vgg11.pth")
    numel = sum(masked.get_submodule(n).weight.numel() for n in masked.spec.prunable)
    zeros = sum(int((masked.get_submodule(n).weight == 0).sum()) for n in masked.spec.prunable)
    assert zeros == round(0.9 * numel)
    assert (root / "plots" / "unstructured_features.0.png").read_bytes().startswith(b"\x89PNG")

    status, out, err = call("compare", *QUICK, "--format", "json")
    assert status == 0
    assert err == ""
    document = json.loads(out)
    assert document == json.loads((root / "metrics.json").read_text())
    assert document["schema"] == 1
    assert list(document["models"]) == [
        "baseline",
        "unstructured",
        "structured_pruned",
        "structured_finetuned",
    ]
    assert document["data"]["dataset"] == "digits"
    assert document["environment"]["torch"] == str(torch.__version__).split("+")[0]
    base = document["models"]["baseline"]
    assert base["params"] == VGGSpec.preset(head="linear").params()
    for name, model in document["models"].items():
        path = root / model["checkpoint"]
        assert model["bytes"] == path.stat().st_size, name
        found = load(path)
        assert model["params"] == sum(p.numel() for p in found.parameters()) == found.spec.params()
        assert model["nonzero"] == sum(int(p.count_nonzero()) for p in found.parameters())
        assert model["macs"] == found.spec.macs()
        assert model["widths"] == list(found.spec.widths)
        assert model["accuracy"]["n_test"] == 60
        assert model["accuracy"]["low"] <= model["accuracy"]["test"] <= model["accuracy"]["high"]
        assert model["peak_bytes"] > 1e8
    assert document["models"]["unstructured"]["nonzero"] <= base["params"] - zeros

    for form, mark in (
        ("text", "baseline"),
        ("markdown", "| baseline |"),
        ("csv", "baseline,vgg11_digits_finetuned.pth,"),
    ):
        status, out, _ = call("compare", *QUICK, "--format", form)
        assert status == 0
        assert mark in out
        table, *notes = out.rstrip().split("\n\n")
        assert len(table.splitlines()) == (5 if form == "csv" else 6)
        assert notes[-1:] == ([] if form == "csv" else ["unstructured: not fine-tuned"])
    status, out, _ = call(
        "compare", *QUICK, "--format", "json", root / "vgg11_digits_structured_pruned.pth"
    )
    assert status == 0
    added = [m for n, m in json.loads(out)["models"].items() if n.endswith("pruned.pth")]
    assert added[0]["accuracy"] == document["models"]["structured_pruned"]["accuracy"]

    status, out, err = call("train", *QUICK)
    assert status == 0
    assert "nothing to do" in err

    status, _, err = call("train", *QUICK, "--seed", 1, "--epochs", 1)
    assert status == 0
    status, out, err = call("compare", *QUICK)
    assert status == 0
    assert err.count("pruned from another baseline: left out") == 3
    assert len(out.partition("\n\n")[0].splitlines()) == 3


def test_checkpoint_tag_steps_and_rounding(call, at_home: Path, make_model, tmp_path: Path) -> None:
    save(make_model(), tmp_path / "small.pth")
    args = [
        *QUICK[:2],
        *QUICK[4:],
        "--checkpoint",
        tmp_path / "small.pth",
        "--out",
        "o",
        "--tag",
        "try",
    ]
    status, out, err = call(
        "structured",
        *args,
        "--ratio",
        0.5,
        "--steps",
        2,
        "--finetune-epochs",
        2,
        "--round-to",
        4,
        "--distill",
    )
    assert status == 0, err
    assert "step 2/2: equivalence check passed" in err
    assert {f for f in files(at_home / "o") if "records" not in f} == {
        ".lock",
        "try/structured_history.csv",
        "try/vgg11_digits_structured_pruned.pth",
        "try/vgg11_digits_structured_pruned_finetuned.pth",
    }
    assert (at_home / "o" / "try" / "records" / "given_baseline.json").is_file()
    assert (at_home / "o" / "try" / "records" / "structured_pruned.json").is_file()
    final = load(at_home / "o" / "try" / "vgg11_digits_structured_pruned_finetuned.pth")
    assert final.spec.widths == (4, 8, 8, 8, 12, 12, 12, 12)
    assert final.spec.hidden == (32, 28), "--ratio is for convs"
    assert all(len(final.kept[name]) == width for name, width in final.spec.prunable.items())
    assert out.count("structured_") == 4  # in the table and in that of the intervals
    assert final.meta["training"]["distill_weight"] == 0.5
    assert final.meta["training"]["epochs"] == 1
    rows = (at_home / "o/try/structured_history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2"]

    key = final.meta["key"]
    status, _, err = call("structured", *args, "--ratio", 0.25, "--finetune-epochs", 0, "-q")
    assert status == 0, err
    assert files(at_home / "o/try/replaced") == {
        f"{key[:8]}/{name}"
        for name in (
            "structured_history.csv",
            "vgg11_digits_structured_pruned.pth",
            "vgg11_digits_structured_pruned_finetuned.pth",
            "records/structured_pruned.json",
            "records/structured_finetuned.json",
        )
    }
    status, out, err = call("compare", *args)
    assert (status, err) == (0, "")
    assert "structured_finetuned" not in out
    (at_home / "o/try/vgg11_digits_structured_pruned.pth").write_bytes(b"other")
    status, out, err = call("compare", *args)
    assert status == 0
    assert "structured_pruned has no file, or another one than was measured" in err


def test_schedules_of_a_structured_fine_tuning(call, at_home: Path, small: list) -> None:
    """Rewinding, distillation weight and temperature, and recalibration take effect."""
    given = [
        "--schedule",
        "rewind",
        "--distill-weight",
        "0.3",
        "--distill-temperature",
        "2",
        "--recalibrate",
    ]
    options = ["--ratio", 0.5, "--finetune-epochs", 2, "--steps", 2, "--importance", "hessian"]
    status, _, err = call("structured", *small, "--out", "o", *options, *given)
    assert status == 0, err
    assert err.count("statistics were recomputed") == 2
    training = load(at_home / "o/vgg11_digits_structured_pruned_finetuned.pth").meta["training"]
    assert (training["schedule"], training["rewound"], training["lr"]) == ("rewind", 3, 0.02)
    assert (training["distill_weight"], training["distill_temperature"]) == (0.3, 2)
    status, _, err = call(
        "structured", *small, "--out", "p", "--ratio", 0.5, "--finetune-epochs", 1, "--no-distill"
    )
    assert status == 0, err
    assert (
        load(at_home / "p/vgg11_digits_structured_pruned_finetuned.pth").meta["training"][
            "distill_weight"
        ]
        == 0
    )
    plain = load(at_home / "p/vgg11_digits_structured_pruned.pth").state_dict()
    dense = load(small[-1]).state_dict()
    kept = load(at_home / "p/vgg11_digits_structured_pruned.pth").kept["features.0"]
    assert torch.equal(plain["features.1.running_mean"], dense["features.1.running_mean"][kept]), (
        "as proved"
    )


@pytest.mark.parametrize("options", [["--gradual"], ["--importance", "taylor"]], ids=" ".join)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_ways_to_zero(scope: str, options: list, call, at_home: Path, small: list) -> None:
    given = ["--sparsity", 0.6, "--scope", scope, "--finetune-epochs", 2]
    status, _, err = call("unstructured", *small, "--out", "o", *given, *options)
    assert status == 0, err
    model = load(at_home / "o/unstructured_pruned_vgg11.pth")
    weights = [model.get_submodule(name).weight for name in model.spec.prunable]
    zeros, total = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    assert zeros == pytest.approx(0.6 * total, abs=len(weights))
    assert not [name for name in files(at_home) if "partial" in name]


@pytest.mark.usefixtures("thin")
def test_imagenet_weights_are_a_start_with_their_own_normalisation(
    call, at_home: Path, monkeypatch
) -> None:
    """torchvision's features get a new head; the rest of the job is unchanged."""
    from tp_vgg.network.vgg.model import build

    torch.manual_seed(0)
    features = {
        n: v
        for n, v in build(VGGSpec.preset("vgg11", "linear")).state_dict().items()
        if "features" in n
    }
    meta = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "source": "torchvision"}
    monkeypatch.setattr("tp_vgg.stages.baseline.imagenet_weights", lambda _: (features, meta))
    status, _, err = call(
        "train", *QUICK, "--arch", "vgg11", "--weights", "imagenet", "--epochs", 1, "--lr", "1e-9"
    )
    assert status == 0, err
    trained = load(at_home / "runs/vgg11-linear-digits/vgg11_digits_finetuned.pth")
    assert trained.meta["mean"] == meta["mean"]
    assert torch.allclose(trained.features[0].weight, features["features.0.weight"], atol=1e-6)
    assert trained.spec.num_classes == 10


def test_training_from_a_file(call, at_home: Path, make_model, tmp_path: Path) -> None:
    """--weights PATH takes a tp_vgg file or another state dict, and keeps its normalisation."""
    model = make_model()
    save(model, tmp_path / "start.pth")
    args = [
        "--dataset",
        "digits",
        *QUICK[4:],
        "--weights",
        tmp_path / "start.pth",
        "--epochs",
        1,
        "--lr",
        "1e-9",
        "--out",
        "o",
    ]
    status, _, err = call("train", *args)
    assert status == 0, err
    trained = load(at_home / "o/vgg11_digits_finetuned.pth")
    assert trained.meta["mean"] == model.meta["mean"]
    assert torch.allclose(trained.classifier[0].weight, model.classifier[0].weight, atol=1e-6)
    status, _, err = call("train", *args)
    assert status == 0
    assert "nothing to do" in err


@pytest.mark.usefixtures("thin")
def test_a_checkpoint_from_elsewhere_leaves_the_own_baseline_alone(
    call, at_home: Path, make_model, tmp_path: Path
) -> None:
    save(make_model(replace(SMALL, hidden=())), tmp_path / "small.pth")
    assert call("train", *QUICK, "--epochs", 1, "--out", "o")[0] == 0
    own = (at_home / "o/vgg11_digits_finetuned.pth").read_bytes()
    record = (at_home / "o/records/baseline.json").read_bytes()
    mixed = ["--out", "o", "--checkpoint", tmp_path / "small.pth"]
    status, _, err = call("unstructured", *QUICK, *mixed, "--sparsity", 0.5)
    assert status == 0, err
    assert (at_home / "o/records/baseline.json").read_bytes() == record
    status, out, err = call("compare", *QUICK, "--out", "o")
    assert status == 0
    table = out.partition("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["baseline", "unstructured"]
    assert json.loads((at_home / "o/metrics.json").read_text())["models"]["baseline"][
        "widths"
    ] == list(SMALL.widths)
    status, out, err = call(
        "structured", *QUICK, "--out", "o", "--ratio", 0.5, "--finetune-epochs", 0
    )
    assert status == 0, err
    assert "training" not in err
    assert (at_home / "o/vgg11_digits_finetuned.pth").read_bytes() == own
    assert load(at_home / "o/vgg11_digits_structured_pruned.pth").spec.widths[0] == 8
    status, _, err = call("train", *QUICK, "--epochs", 1, "--out", "o")
    assert (status, "nothing to do" in err) == (0, True)

    status, _, err = call(
        "structured",
        *QUICK[:4],
        "--limit-test",
        60,
        "--limit-val",
        40,
        "--out",
        "o",
        "--ratio",
        0.5,
        "--finetune-epochs",
        0,
    )
    assert status == 0
    assert "the baseline was trained with other images (train 64 then, 1295 now)" in err

    status, _, err = call(
        "compare", *QUICK[:-1], 20, "--out", "o", at_home / "o/vgg11_digits_structured_pruned.pth"
    )
    assert status == 2
    assert "measured on other test images" in one_line(err.splitlines(keepends=True)[-1])


def test_the_default_out_follows_the_checkpoint(
    call, at_home: Path, make_model, tmp_path: Path
) -> None:
    save(make_model(VGGSpec((4,) * 13, hidden=())), tmp_path / "small16.pth")
    args = ["--dataset", "digits", *QUICK[4:], "--checkpoint", tmp_path / "small16.pth"]
    status, _, err = call("structured", *args, "--ratio", 0.5, "--finetune-epochs", 0)
    assert status == 0, err
    assert (at_home / "runs/vgg16_bn-linear-digits/vgg16_digits_structured_pruned.pth").is_file()
    status, out, _ = call("compare", *args)
    assert status == 0
    assert "structured_pruned" in out


def test_a_checkpoint_is_never_written_over(
    call, at_home: Path, make_model, tmp_path: Path
) -> None:
    save(make_model(), tmp_path / "small.pth")
    args = ["--dataset", "digits", *QUICK[4:], "--out", "o", "--ratio", 0.5, "--finetune-epochs", 0]
    assert call("structured", *args, "--checkpoint", tmp_path / "small.pth")[0] == 0
    pruned = at_home / "o/vgg11_digits_structured_pruned.pth"
    before = pruned.read_bytes()
    status, _, err = call("structured", *args, "--checkpoint", pruned)
    assert status == 2
    assert "would be written over; give a --tag" in one_line(err)
    assert pruned.read_bytes() == before
    status, _, err = call("structured", *args, "--checkpoint", pruned, "--tag", "more")
    assert status == 0, err
    again = load(at_home / "o/more/vgg11_digits_structured_pruned.pth")
    assert again.spec.widths[0] == 2
    assert set(again.kept["features.0"]) < set(load(pruned).kept["features.0"])
    status, _, err = call(
        "train", "--dataset", "digits", *QUICK[4:], "--out", "w", "--epochs", 1, "--weights", pruned
    )
    assert status == 0, err
    dense = load(at_home / "w/vgg11_digits_finetuned.pth")
    assert (dense.spec, dense.kept) == (load(pruned).spec, {})


@pytest.mark.usefixtures("thin")
def test_a_folder_and_its_run_directory(call, at_home: Path, image_folder: Path) -> None:
    args = ["--dataset", "folder", "--data-dir", image_folder, "--head", "linear"]
    status, _, err = call("structured", *args, "--ratio", 0.5, "--finetune-epochs", 1, "--dry-run")
    assert status == 0, err
    status, _, err = call("train", *args, "--epochs", 1, "--batch-size", 16)
    assert status == 0, err
    (root,) = (at_home / "runs").iterdir()
    assert re.fullmatch(r"vgg11_bn-linear-folder-pictures-[0-9a-f]{8}", root.name)
    trained = load(root / "vgg11_folder_finetuned.pth")
    assert trained.meta["classes"] == ["dark", "light"]
    assert trained.spec.num_classes == 2


@pytest.mark.parametrize(
    "more", [["--dry-run"], ["--finetune-epochs", 0], ["--show", "features.8"]]
)
def test_a_plan_is_resolved_once(call, small: list, plan_file, monkeypatch, more: list) -> None:
    """The resolved widths are passed on to all code that needs them."""
    from tp_vgg.stages import options

    asked, real = [], options.resolve
    monkeypatch.setattr(
        options, "resolve", lambda plan, *rest: asked.append(plan) or real(plan, *rest)
    )
    plan = plan_file({"features.8": 0.5})
    status, _, err = call(
        "structured", *small, "--ratios", plan, "--finetune-epochs", 0, *more, "--out", "o"
    )
    assert status == 0, err
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("kind", "pruned", "name"),
    [
        ("structured", ["--ratio", 0.5], "vgg11_digits_structured_pruned_finetuned.pth"),
        ("unstructured", ["--sparsity", 0.9], "unstructured_pruned_vgg11.pth"),
    ],
)
def test_fine_tuning_resumes_to_the_same_bits(
    kind: str, pruned: list, name: str, at_home: Path, call, small: list, monkeypatch
) -> None:
    """A pruning in two steps, interrupted in the second fine-tuning.

    The first one is not done again, and the final bits are the same.
    """
    from tp_vgg.training.run import TrainingRun

    args = [*small, *pruned, "--steps", 2, "--finetune-epochs", 2, "--batch-size", 16]
    assert call(kind, *args, "--out", "straight")[0] == 0
    step, steps = TrainingRun.train_step, []

    def interrupting(self):
        steps.append(self.step)
        if len(steps) == 6:
            os.kill(os.getpid(), 2)
        return step(self)

    monkeypatch.setattr(TrainingRun, "train_step", interrupting)
    status, out, err = call(kind, *args, "--out", "broken")
    assert (status, out) == (130, "")
    assert "fine-tune 2/2 stopped at step 2 of 4" in err
    assert call(kind, *args, "--out", "broken")[0] == 0
    assert steps == [0, 1, 2, 3, 0, 1, 2, 3]
    one, two = (load(at_home / out / name).state_dict() for out in ("straight", "broken"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not list((at_home / "broken").glob("*partial*"))


def test_distillation_changes_the_result(call, at_home: Path, small: list) -> None:
    args = [*small, "--ratio", 0.5, "--finetune-epochs", 1]
    for flag in ("--distill", "--no-distill"):
        assert call("structured", *args, flag, "--out", flag[2:])[0] == 0
    name = "vgg11_digits_structured_pruned_finetuned.pth"
    one, two = (load(at_home / out / name).features[0].weight for out in ("distill", "no-distill"))
    assert not torch.equal(one, two)


def test_a_terminal_without_the_signs_still_gets_its_table(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tp_vgg", "structured", "--ratio", "0.5", "--dry-run"],
        capture_output=True,
        encoding="latin1",
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "latin1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "64 ? 32" in done.stdout


def test_a_contradicting_flag_or_data_set_is_refused(
    call, at_home: Path, make_model, tmp_path: Path
) -> None:
    model = make_model()
    save(model, tmp_path / "small.pth")
    model.meta["classes"] = ["other"] * 10
    save(model, tmp_path / "other.pth")
    status, _, err = call(
        "structured", *QUICK, "--ratio", 0.5, "--checkpoint", tmp_path / "small.pth"
    )
    assert status == 2
    assert "holds torchvision, but --head linear was given" in one_line(err)
    status, _, err = call(
        "structured", *QUICK[:2], "--ratio", 0.5, "--checkpoint", tmp_path / "other.pth"
    )
    assert status == 2
    assert "other class names" in one_line(err)
    assert files(at_home) == set()


@pytest.mark.usefixtures("undrawn")
def test_show_alone_prunes_nothing(call, at_home: Path, make_model, tmp_path: Path) -> None:
    save(make_model(), tmp_path / "small.pth")
    args = [*QUICK[:2], *QUICK[4:], "--checkpoint", tmp_path / "small.pth", "--out", "o"]
    for kind in ("structured", "unstructured"):
        status, out, err = call(kind, *args, "--show", "features.4")
        assert status == 0, err
        assert out == f"o/plots/{kind}_features.4.png\n"
    assert files(at_home / "o") == {
        ".lock",
        "plots/structured_features.4.png",
        "plots/unstructured_features.4.png",
    }


@pytest.mark.usefixtures("thin")
def test_plain_vgg_with_the_torchvision_head(call, at_home: Path) -> None:
    """The opposite case: no batch norm, hidden layers, and a plan that prunes them."""
    plan = at_home.parent / "hidden.json"
    plan.write_text('{"classifier.0": 0.9, "classifier.3": 0.9, "features.18": 0.5}')
    status, out, err = call(
        "structured",
        "--arch",
        "vgg11",
        "--dataset",
        "digits",
        *QUICK[4:],
        "--ratios",
        plan,
        "--finetune-epochs",
        0,
        "-q",
    )
    assert status == 0, err
    assert err == ""
    assert len(out.partition("\n\n")[0].splitlines()) == 4
    pruned = load(at_home / "runs/vgg11-torchvision-digits/vgg11_digits_structured_pruned.pth")
    assert pruned.spec.hidden == (10, 10)


@pytest.mark.usefixtures("thin")
def test_ctrl_c_exits_130_and_a_rerun_goes_on(call, at_home: Path) -> None:
    """A real SIGINT in the third step of a real process."""
    args = ["train", *QUICK, "--epochs", "1", "--batch-size", "16"]
    interrupted = (
        f"import os, sys; sys.path.append({str(Path(__file__).parents[1])!r})\n"
        "from helpers.quick import thin; narrow = thin(); narrow.__enter__()\n"
        "from tp_vgg import cli; from tp_vgg.training.run import TrainingRun; "
        "step = TrainingRun.train_step\n"
        "def stop(run):\n    run.step == 2 and os.kill(os.getpid(), 2)\n    return step(run)\n"
        "TrainingRun.train_step = stop; cli.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", interrupted, *args],
        cwd=at_home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: interrupted: train stopped at step 3 of 4; runs")
    assert last.endswith(
        "finetuned.partial.pth holds the work so far; the same command goes on from there"
    )
    root = at_home / "runs" / "vgg11_bn-linear-digits"
    assert files(root) == {".lock", "vgg11_digits_finetuned.partial.pth"}
    assert torch.load(root / "vgg11_digits_finetuned.partial.pth", weights_only=True)["step"] == 3
    status, out, _ = call(*args)
    assert status == 0
    assert "baseline" in out
    assert files(root) == {
        ".lock",
        "history.csv",
        "vgg11_digits_finetuned.pth",
        "records/baseline.json",
    }


@pytest.mark.usefixtures("thin")
def test_a_full_disk_is_one_line_and_leaves_no_final_file(
    call, at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("tp_vgg.network.checkpoint.write_atomic", full)
    status, _, err = call("train", *QUICK, "--epochs", 1, "-q")
    assert status == 1
    assert "No space left on device" in one_line(err)
    assert not [f for f in files(at_home) if f.endswith("finetuned.pth") or f.endswith(".json")]


def test_a_failed_proof_keeps_nothing(
    call, at_home: Path, make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tp_vgg.pruning import structured

    save(make_model(), tmp_path / "small.pth")
    monkeypatch.setattr(structured, "check_equivalence", lambda *_: EquivalenceCheck(16, 1.0, 1.0))
    status, out, err = call(
        "structured",
        *QUICK[:2],
        *QUICK[4:],
        "--checkpoint",
        tmp_path / "small.pth",
        "--out",
        "o",
        "--ratio",
        0.5,
        "-q",
    )
    assert (status, out) == (1, "")
    assert "equivalence check failed" in one_line(err)
    assert files(at_home / "o") == {".lock", "records/given_baseline.json"}
