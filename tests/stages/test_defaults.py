"""Defaults of the fine-tuning: its rate follows what was done before, and how long it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.networks import SMALL, VARIANTS, fresh

from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import finetune_rate, finetune_recipe
from tp_vgg.stages.options import Finetune

PLAIN = VARIANTS["plain-linear"]


@pytest.mark.parametrize(
    ("data", "spec", "epochs", "refitted", "rate"),
    [
        ("cifar10", SMALL, 1, True, 0.005),
        ("cifar10", SMALL, 3, True, 0.015),
        ("cifar10", SMALL, 4, True, 0.02),
        ("cifar10", SMALL, 40, True, 0.02),
        ("folder", SMALL, 2, True, 0.01),
        ("cifar10", SMALL, 1, False, 0.02),
        ("digits", SMALL, 1, True, 0.02),
        ("cifar10", PLAIN, 1, True, 0.005),
        ("cifar10", PLAIN, 5, False, 0.005),
    ],
)
def test_the_rate_follows_the_epochs_after_a_refit(
    data: str, spec: VGGSpec, epochs: int, refitted: bool, rate: float
) -> None:
    settings = Settings(dataset=data)
    assert finetune_rate(settings, spec, epochs, refitted=refitted) == pytest.approx(rate)
    for given, expected in ((None, rate), (0.3, 0.3)):
        recipe = finetune_recipe(settings, spec, epochs, Finetune(lr=given), refitted=refitted)
        assert recipe.lr == pytest.approx(expected)
        assert recipe.epochs == epochs


@pytest.mark.parametrize(
    ("kind", "more", "rate"),
    [
        ("structured", ["--finetune-epochs", 1], 0.005),
        ("structured", ["--finetune-epochs", 2, "--steps", 2], 0.005),
        ("structured", ["--finetune-epochs", 1, "--repair", "none"], 0.02),
        ("structured", ["--finetune-epochs", 1, "--repair", "recalibrate"], 0.02),
        ("unstructured", ["--finetune-epochs", 2], 0.01),
        ("unstructured", ["--finetune-epochs", 1, "--gradual"], 0.02),
    ],
)
def test_both_commands_train_at_the_rate_of_their_repair(
    kind: str, more: list, rate: float, call, at_home: Path, image_folder: Path
) -> None:
    save(fresh(replace(SMALL, num_classes=2)), at_home / "small.pth")
    options = ["--dataset", "folder", "--data-dir", image_folder, "--checkpoint", "small.pth"]
    options += ["--ratio" if kind == "structured" else "--sparsity", 0.5, "--out", "o"]
    status, _, err = call(kind, *options, *more)
    assert status == 0, err
    (file,) = (at_home / "o").glob("*finetuned.pth" if kind == "structured" else "unstr*.pth")
    assert load(file).meta["training"]["lr"] == pytest.approx(rate)
