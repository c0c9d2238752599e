"""Defaults of the fine-tuning: its rate follows what was done before, and how long it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.networks import SMALL, VARIANTS, fresh

from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.ratios import Plan, resolve_sparsity
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import finetune_rate, finetune_recipe
from tp_vgg.stages.options import (
    Finetune,
    RepairOptions,
    StructuredOptions,
    UnstructuredOptions,
)
from tp_vgg.stages.pruning import work_key

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
        ("cifar10", SMALL, 0, True, 0.02),
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


def test_what_an_earlier_version_trained_at_another_rate_is_another_model() -> None:
    def key(epochs: int, spec: VGGSpec = SMALL, repair: str = "auto", **finetune: object) -> str:
        options = StructuredOptions(
            finetune=Finetune(epochs, **finetune), repair=RepairOptions(repair)
        )
        return work_key(Settings(), "11" * 32, spec, Plan({"features.0": 0.5}, "--ratio"), options)

    # No spec is in the key itself: it differs between the two where a default rate does.
    assert key(1) != key(1, PLAIN) and key(3) != key(3, PLAIN)
    assert key(5) == key(5, PLAIN) and key(0) == key(0, PLAIN)
    assert key(1, lr=0.005) == key(1, PLAIN, lr=0.005)
    assert key(1, schedule="rewind") == key(1, PLAIN, schedule="rewind")
    assert key(1, repair="none") == key(1, PLAIN, repair="none")


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_moved_zeros_are_part_of_the_key_where_they_move(
    importance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(repair: str) -> str:
        options = UnstructuredOptions(importance=importance, repair=RepairOptions(repair))
        return work_key(Settings(), "11" * 32, SMALL, Plan({"features.0": 0.5}, "--x"), options)

    before = {repair: key(repair) for repair in ("auto", "none", "recalibrate")}
    monkeypatch.setattr(UnstructuredOptions, "move_zeros", False)
    changed = {repair for repair in before if key(repair) != before[repair]}
    assert changed == ({"auto"} if importance == "l1" else set())


@pytest.mark.parametrize(
    ("sparsity", "more", "steps"),
    [
        (0.98, {}, 2),
        (0.99, {"finetune": Finetune(2)}, 2),
        (0.979, {}, 1),
        (0.98, {"finetune": Finetune(1)}, 1),
        (0.98, {"finetune": Finetune(0)}, 1),
        (0.98, {"gradual": True}, 1),
        (0.98, {"repair": RepairOptions("reconstruct")}, 1),
        (0.98, {"steps": 1}, 1),
        (0.5, {"steps": 4}, 4),
        (0.5, {"steps": 4, "finetune": Finetune(0)}, 4),
        (0.5, {"steps": 4, "finetune": Finetune(0), "repair": RepairOptions("none")}, 1),
        (0.5, {"steps": 4, "finetune": Finetune(0), "repair": RepairOptions("recalibrate")}, 1),
        (0.5, {"steps": 4, "finetune": Finetune(0), "repair": RepairOptions("none"),
               "importance": "taylor"}, 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_steps_by_default(scope: str, sparsity: float, more: dict, steps: int) -> None:
    whole = sparsity if scope == "global" else None
    options = UnstructuredOptions(whole, **{"finetune": Finetune(5), **more})
    plan = Plan.uniform(sparsity, tuple(SMALL.prunable), "--sparsity")
    assert options.chosen_steps(SMALL, plan) == steps

    def key(chosen: int | None) -> str:
        return work_key(Settings(), "11" * 32, SMALL, plan, replace(options, steps=chosen))

    assert key(options.steps) == key(steps)
    assert (key(1) == key(steps)) == (steps == 1)


def test_limits_are_those_that_were_asked_for() -> None:
    """Though no layer has a whole number of weights there, and float sums are not exact."""
    spec = VGGSpec(widths=(4, 4, 6, 6, 8, 8, 8, 8), batch_norm=True, pool=1, hidden=())
    for sparsity, steps, repaired in ((0.98, 2, False), (0.9, 1, False), (0.8999, 1, True)):
        plan = Plan.uniform(sparsity, tuple(spec.prunable), "--sparsity")
        zeros = sum(resolve_sparsity(plan, spec).values())
        assert zeros < sparsity * sum(r.weights for r in spec.rows if r.name in spec.prunable)
        options = UnstructuredOptions(finetune=Finetune(5))
        assert options.chosen_steps(spec, plan) == steps
        assert (options.better_without_repair(spec, plan) == "") == repaired


@pytest.mark.parametrize(
    ("kind", "more", "rate"),
    [
        ("structured", ["--finetune-epochs", 1], 0.005),
        ("structured", ["--finetune-epochs", 2, "--steps", 2], 0.005),
        ("structured", ["--finetune-epochs", 1, "--repair", "none"], 0.02),
        ("structured", ["--finetune-epochs", 1, "--repair", "recalibrate"], 0.02),
        ("unstructured", ["--finetune-epochs", 1], 0.02),
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
