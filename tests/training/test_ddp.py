"""torchrun: two processes train what one does, within noise, and leave one set of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.commands import files, finish, launch

from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.model import build
from tp_vgg.network.vgg.spec import VGGSpec

THIN = VGGSpec((16, 24, 32, 32, 40, 40, 48, 48))
OPTIONS = ["--dataset", "digits", "--limit-test", "150", "-q"]
TRAIN = ["train", *OPTIONS, "--weights", "thin.pth", "--epochs", "4", "--batch-size", "32"]
PRUNE = ["structured", *OPTIONS, "--ratio", "0.5", "--finetune-epochs", "2", "--batch-size", "32"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The main job from nothing, by one process and by two."""
    where = tmp_path_factory.mktemp("ddp")
    torch.manual_seed(0)
    model = build(THIN)
    model.meta = {"mean": [0.3] * 3, "std": [0.3] * 3, "dataset": "digits", "classes": list("0123456789")}
    save(model, where / "thin.pth")
    for ranks in (1, 2):
        finish(launch([*TRAIN, "--out", f"o{ranks}"], where, ranks=ranks))
        finish(launch([*PRUNE, "--out", f"o{ranks}"], where, ranks=ranks))
    return {ranks: where / f"o{ranks}" for ranks in (1, 2)}


def test_two_processes_reach_what_one_does(directories: dict[int, Path]) -> None:
    """Accuracies that differ by less than chance lets two seeds differ; far from a network that learned nothing."""
    found = {}
    for ranks, out in directories.items():
        for model in ("baseline", "structured_finetuned"):
            record = json.loads((out / "records" / f"{model}.json").read_text())
            found[ranks, model] = record["test"]["accuracy"]
            assert record["test"]["n"] == 150
    for model in ("baseline", "structured_finetuned"):
        assert min(found[1, model], found[2, model]) > 60
        assert abs(found[1, model] - found[2, model]) < 20
    assert files(directories[1]) == files(directories[2])


def test_the_history_counts_every_image_once(directories: dict[int, Path]) -> None:
    rows = {ranks: (out / "history.csv").read_text().splitlines() for ranks, out in directories.items()}
    assert len(rows[1]) == len(rows[2]) == 5
    for one, two in zip(rows[1][1:], rows[2][1:], strict=True):
        first, second = [[float(value) for value in row.split(",")] for row in (one, two)]
        assert first[1] == second[1], "the rates"
        assert 0 < second[2] < 3 and 0 < second[3] <= 100
        assert abs(first[2] - second[2]) < 0.5, "mean loss of an image"


def test_gradients_are_of_the_whole_batch(tmp_path: Path) -> None:
    """Without batch norm and dropout one step of two processes is that of one, to rounding; the last batch is uneven."""
    options = ["--dataset", "digits", "--arch", "vgg11", "--head", "linear", "--limit-train", "25", "--limit-val", "20"]
    step = ["train", *options, "--limit-test", "20", "--epochs", "1", "--batch-size", "16", "--lr", "0.001", "-q"]
    step += ["--precision", "fp32"]
    for ranks in (1, 2):
        finish(launch([*step, "--out", f"o{ranks}"], tmp_path, ranks=ranks))
    one, two = (load(tmp_path / f"o{ranks}" / "vgg11_digits_finetuned.pth").state_dict() for ranks in (1, 2))
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-6), name


def test_a_refusal_is_said(tmp_path: Path) -> None:
    refused = launch(["structured", "--dataset", "digits", "--ratio", "2"], tmp_path, ranks=2)
    assert "error: --ratio" in refused.communicate(timeout=300)[1]
    assert refused.returncode == 1, "torchrun's own"
    assert not files(tmp_path)
