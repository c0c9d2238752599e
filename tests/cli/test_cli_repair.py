"""`structured` and `unstructured` repair the pruned model, and records say what that did."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from helpers.commands import one_line
from helpers.networks import SMALL

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.network.checkpoint import load, save

PRUNED = "o/vgg11_digits_structured_pruned.pth"
KINDS = {
    "structured": (["--ratio", "0.5", "--finetune-epochs", "0"], PRUNED),
    "unstructured": (["--sparsity", "0.7"], "o/unstructured_pruned_vgg11.pth"),
}
"""Options of a short pruning, and the file that it leaves."""


def record(path: str) -> ModelRecord:
    return ModelRecord.from_dict(json.loads(Path(path).read_text()))


def weights(path: str) -> dict[str, torch.Tensor]:
    return load(Path(path)).state_dict()


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_model_is_repaired_unless_told_otherwise(
    kind: str, call, at_home: Path, small: list
) -> None:
    options, file = KINDS[kind]
    status, _, err = call(kind, *small, "--out", "o", *options)
    assert status == 0, err
    assert err.count("--repair auto: reconstruct") == 1
    name = "structured_pruned" if kind == "structured" else kind
    found = record(f"o/records/{name}.json")
    assert found.repair is not None and found.repair.result is not None
    assert found.repair.method == "reconstruct"
    assert found.repair.repaired == found.test
    assert found.repair.repaired_val == found.val
    assert list(found.repair.result.layers) == [row.name for row in load(Path(file)).spec.rows]
    assert any("layers, from 64 unlabelled images" in note for note in found.notes)
    repaired = weights(file)

    status, _, err = call(kind, *small, "--out", "o", *options, "--repair", "none")
    assert status == 0, err
    assert "o/replaced/" in err
    assert "reconstruct" not in err
    plain = record(f"o/records/{name}.json")
    assert plain.repair is None
    assert (plain.test, plain.val) == (found.repair.removed, found.repair.removed_val)
    removed = weights(file)
    assert not same(repaired, removed)
    zeros = {n: w == 0 for n, w in removed.items() if n.endswith("weight") and w.ndim > 1}
    moved = [n for n, mask in zeros.items() if not torch.equal(repaired[n] == 0, mask)]
    assert all(int((repaired[n] == 0).sum()) == int(mask.sum()) for n, mask in zeros.items())
    assert bool(moved) == any("zeros were chosen anew" in note for note in found.notes)
    assert bool(moved) == (kind == "unstructured")

    status, _, err = call(kind, *small, "--out", "o", *options, "--repair", "reconstruct")
    assert status == 0, err
    assert same(weights(file), repaired)
    status, _, err = call(kind, *small, "--out", "o", *options)
    assert status == 0 and "made with these settings before" in err


def test_zeros_that_gradients_chose_stay_where_they_are(call, at_home: Path, small: list) -> None:
    options, file = KINDS["unstructured"]
    zeros = []
    for repair in ("auto", "none"):
        more = ["--importance", "taylor", "--repair", repair]
        status, _, err = call("unstructured", *small, "--out", "o", *options, *more)
        assert status == 0, err
        assert "zeros were chosen anew" not in err
        zeros.append({n: w == 0 for n, w in weights(file).items() if w.ndim > 1})
    assert all(torch.equal(value, zeros[1][name]) for name, value in zeros[0].items())


@pytest.mark.parametrize(
    ("more", "repaired"),
    [
        (["--sparsity", 0.95, "--scope", "global"], True),
        (["--sparsity", 0.95, "--scope", "global", "--finetune-epochs", 1], False),
        (["--sparsity", 0.9, "--finetune-epochs", 1], False),
        (["--sparsity", 0.8, "--finetune-epochs", 1], True),
        (["--ratios", "most.json", "--finetune-epochs", 1], False),
        (["--ratios", "some.json", "--finetune-epochs", 1], True),
        (["--sparsity", 0.9, "--finetune-epochs", 1, "--repair", "reconstruct"], True),
    ],
    ids=str,
)
def test_many_zeros_are_trained_without_a_repair(
    more: list, repaired: bool, call, at_home: Path, small: list
) -> None:
    names = SMALL.prunable
    (at_home / "most.json").write_text(json.dumps(dict.fromkeys(names, 0.92)))
    (at_home / "some.json").write_text(json.dumps(dict.fromkeys(SMALL.conv_names[:-1], 0.95)))
    status, _, err = call("unstructured", *small, "--out", "o", *more)
    assert status == 0, err
    assert bool(record("o/records/unstructured.json").repair) == repaired
    said = "--repair auto: none, since with 90 % zeros or more a fine-tuning does better"
    assert (said in err) == (not repaired)
    status, _, err = call("unstructured", *small, "--out", "o", *more)
    assert status == 0 and "made with these settings before" in err
    if not repaired:
        status, _, err = call("unstructured", *small, "--out", "o", *more, "--repair", "none")
        assert status == 0 and "made with these settings before" in err


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_images_is_part_of_the_settings(
    kind: str, call, at_home: Path, small: list
) -> None:
    options, file = KINDS[kind]
    made = []
    for images in (20, 40, 40):
        status, _, err = call(kind, *small, "--out", "o", *options, "--repair-images", images)
        assert status == 0, err
        made.append((weights(file), "made with these settings before" in err))
        name = "structured_pruned" if kind == "structured" else kind
        found = record(f"o/records/{name}.json").repair
        assert found is not None and found.result is not None
        assert (found.result.images, found.result.held_out) == (images - images // 10, images // 10)
    assert not same(made[0][0], made[1][0])
    assert [before for _, before in made] == [False, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_recalibrate_is_one_of_the_repairs(kind: str, call, at_home: Path, small: list) -> None:
    options, file = KINDS[kind]
    left = []
    for given in (["--repair", "recalibrate"], ["--recalibrate"]):
        status, _, err = call(kind, *small, "--out", "o", *options, *given)
        assert status == 0, err
        left.append(weights(file))
    assert "made with these settings before" in err
    name = "structured_pruned" if kind == "structured" else kind
    found = record(f"o/records/{name}.json").repair
    assert found is not None and (found.method, found.result) == ("recalibrate", None)
    status, _, err = call(kind, *small, "--out", "o", *options, "--repair", "none")
    assert status == 0, err
    plain = weights(file)
    changed = {name for name in plain if not torch.equal(plain[name], left[0][name])}
    assert changed and all(
        re.search("running_(mean|var)|num_batches_tracked", name) for name in changed
    )


def test_a_fine_tuned_model_names_the_repair_that_it_began_from(
    call, at_home: Path, small: list
) -> None:
    for kind, names in (
        ("structured", ("structured_pruned", "structured_finetuned")),
        ("unstructured", ("unstructured",)),
    ):
        options = [*KINDS[kind][0], "--finetune-epochs", "1"]
        status, _, err = call(kind, *small, "--out", "o", *options)
        assert status == 0, err
        repairs = [record(f"o/records/{name}.json").repair for name in names]
        assert repairs[0] is not None
        assert all(repair == repairs[0] for repair in repairs)
    status, out, err = call("compare", *small, "--out", "o", "--format", "json")
    assert status == 0, err
    models = json.loads(out)["models"]
    assert {name: bool(entry["repair"]) for name, entry in models.items()} == {
        "baseline": False,
        "unstructured": True,
        "structured_pruned": True,
        "structured_finetuned": True,
    }


def test_each_step_repairs_towards_the_model_before_it(call, at_home: Path, small: list) -> None:
    options = ["--ratio", "0.5", "--finetune-epochs", "0", "--steps", "2"]
    status, _, err = call("structured", *small, "--out", "o", *options)
    assert status == 0, err
    assert err.count("the weights were refitted") == 2
    found = record("o/records/structured_pruned.json").repair
    assert found is not None and found.result is not None
    first = next(iter(found.result.layers.values()))
    assert first.outcome == "unchanged"  # nothing changes what the first conv reads


def test_a_network_without_batch_norm_is_refitted(call, at_home: Path, make_model) -> None:
    options = ["--arch", "vgg11", "--head", "torchvision", "--dataset", "digits"]
    options += ["--limit-train", "40", "--limit-val", "20", "--limit-test", "20", "--epochs", "1"]
    status, _, err = call("train", *options, "--out", "o")
    assert status == 0, err
    options = options[:-2]
    status, _, err = call("structured", *options, "--out", "o", *KINDS["structured"][0])
    assert status == 0, err
    assert record("o/records/structured_pruned.json").repair is not None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["structured", "--ratio", "0.5", "--recalibrate", "--repair", "none"], "--recalibrate: "),
        (["structured", "--ratio", "0.5", "--repair", "auto", "--recalibrate"], "--recalibrate: "),
        (["unstructured", "--sparsity", "0.5", "--recalibrate", "--repair", "reconstruct"],
         "leave out --repair reconstruct"),
        (["structured", "--ratio", "0.5", "--repair", "refit"], "'refit' is not one of"),
        (["unstructured", "--sparsity", "0.5", "--arch", "vgg11", "--repair", "recalibrate"],
         "no batch norm.*--repair reconstruct"),
        (["unstructured", "--sparsity", "0.5", "--gradual", "--finetune-epochs", "1",
          "--repair", "reconstruct"], "--gradual: .*leave out --repair reconstruct"),
        (["structured", "--ratio", "0.5", "--repair-images", "1"], "--repair-images"),
        (["structured", "--ratio", "0.5", "--repair-images", "many"], "--repair-images"),
    ],
)  # fmt: skip
def test_options_that_contradict_are_refused(
    args: list[str], said: str, call, at_home: Path
) -> None:
    status, out, err = call(*args)
    assert (status, out) == (2, "")
    assert re.search(said, one_line(err))
    assert not list(at_home.iterdir())


def test_more_images_than_there_are_mean_all(call, at_home: Path, small: list) -> None:
    options, _ = KINDS["structured"]
    many = ["--repair-images", str(10**20)]
    status, _, err = call("structured", *small, "--out", "o", *options, *many)
    assert status == 0, err
    found = record("o/records/structured_pruned.json").repair
    assert found is not None and found.result is not None
    assert found.result.images + found.result.held_out == 64


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_that_overflow_are_one_line(
    kind: str, call, at_home: Path, small: list, make_model
) -> None:
    model = make_model()
    with torch.no_grad():
        model.features[1].weight *= 1e30
        model.features[4].weight *= 1e30
    save(model, Path("big.pth"))
    options = [*KINDS[kind][0], "--out", "o"]
    status, out, err = call(kind, *small[:-2], "--checkpoint", "big.pth", *options)
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: features.4: its outputs on the images of the repair are not ")
    assert last.endswith("give --repair none") and "Traceback" not in err


def test_too_few_training_images_are_refused(call, at_home: Path, small: list) -> None:
    few = [*small, "--limit-train", "1"]
    options = [*KINDS["structured"][0], "--out", "o"]
    status, _, err = call("structured", *few, *options)
    assert status == 2
    assert "needs 2 training images, and there is 1; give --repair none" in err
    assert not (at_home / PRUNED).exists()
    status, _, err = call("structured", *few, *options, "--repair", "none")
    assert status == 0, err


def test_gradual_zeros_are_not_repaired(call, at_home: Path, small: list) -> None:
    options = ["--sparsity", "0.7", "--gradual", "--finetune-epochs", "1", "--repair-images", "9"]
    status, _, err = call("unstructured", *small, "--out", "o", *options)
    assert status == 0, err
    assert "--repair auto: none, since the zeros grow in training" in err
    assert "--repair-images: without effect" in err
    assert record("o/records/unstructured.json").repair is None
