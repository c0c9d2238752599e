"""Sweeps after `reconstruct` agree with pruning, repairing and running each network by itself."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.networks import SMALL, VARIANTS, WIDE

import tp_vgg
from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput
from tp_vgg.machine.distributed import ALONE
from tp_vgg.pruning import dense_refits
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.repair_sample import RepairSample
from tp_vgg.report.plan_tables import render_sensitivity
from tp_vgg.sensitivity import engine as engine_module
from tp_vgg.sensitivity.engine import Engine
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.reconstructed import RepairImages
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.table import Sensitivity

LEVELS = (0.0, 0.25, 0.5, 0.75)
KINDS = ("structured", "unstructured")


def by_itself(model, kind: Kind, layer: str, level: float, images, **options):
    """Prune one layer of a copy, and repair the layer that this changes first."""
    pruned = copy.deepcopy(model)
    names = [row.name for row in model.spec.rows]
    if kind == "structured":
        tp_vgg.prune_structured(pruned, {layer: level})
        repaired = names[names.index(layer) + 1]
    else:
        tp_vgg.prune_unstructured(pruned, {layer: level})
        repaired = layer
    result = tp_vgg.repair(pruned, model, images, layers=[repaired], **options)
    return pruned, result.layers[repaired].outcome


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_each_network_repaired(
    variant: str, kind: Kind, make_model, few_digits
) -> None:
    model = make_model(VARIANTS[variant])
    few = ("features.0", "features.8", "features.20", "features.25", "classifier.0", "classifier.3")
    layers = tuple(name for name in model.spec.prunable if name in few)
    question = SweepQuestion(
        kind, LEVELS, layers, repair="reconstruct", repair_linear=kind == "unstructured", seed=3
    )
    train = few_digits.train
    sample = RepairImages.of("images", train, model, seed=3, flip=True)
    engine = Engine(model, few_digits.val, ResolvedSweep.of(question, model, None, sample), ALONE)
    images = Normalisation.of(model.meta)(few_digits.val.images)
    outcomes = Counter()
    for layer in layers:
        logits = engine.logits(layer)
        for place, level in enumerate(LEVELS):
            network, outcome = by_itself(model, kind, layer, level, train, flip=True, seed=3)
            outcomes[outcome] += 1
            with torch.inference_mode():
                expected = network(images)
            # Sums run in another order; weights that were not refitted differ by far more.
            difference = (logits[place] - expected).abs().max() / expected.abs().max()
            assert difference <= 1e-3, (layer, level, outcome)
    assert outcomes["unchanged"] == len(layers) and outcomes["refitted"] > 2 * len(layers)
    assert not model.training


@pytest.mark.parametrize("zeros", [1, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_zeros_that_were_there_give_both_the_same_sample(
    kind: Kind, zeros: int, make_model, few_digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = make_model(SMALL), []
    model.get_submodule("features.8").weight.data.flatten()[:zeros] = 0
    real = RepairSample.of

    def of(*args, **options):
        seen.append(options["zeroed"])
        return real(*args, **options)

    monkeypatch.setattr(RepairSample, "of", of)
    layers, levels = ["features.4", "features.8"], (0.0005, 0.5)
    train = few_digits.train
    tp_vgg.sweep(model, few_digits.val, kind, levels=levels, layers=layers, reconstruct=train)
    for layer in layers:
        for level in levels:
            _, outcome = by_itself(model, kind, layer, level, train)
            if outcome == "unchanged":
                seen.pop()
    assert len(seen) >= 2 and set(seen) == {zeros > 1 or kind == "unstructured"}


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_each_network_repaired(kind: Kind, trained, digits) -> None:
    model = trained(WIDE)
    before = copy.deepcopy(model.state_dict())
    layers, levels = ["features.0", "features.15", "features.25"], (0.5, 0.9)
    options = {"levels": levels, "layers": layers}
    table = tp_vgg.sweep(model, digits.test, kind, reconstruct=digits.train, **options)
    plain = tp_vgg.sweep(model, digits.test, kind, **options)
    assert (plain.repair, table.repair) == ("none", "reconstruct") and plain.key != table.key
    for point in table.points:
        network, _ = by_itself(model, kind, point.layer, point.ratio, digits.train)
        assert abs(point.correct - tp_vgg.accuracy(network, digits.test).correct) <= 1, point
    drops = [sum(point.drop for point in one.points) for one in (plain, table)]
    assert drops[1] < 0.6 * drops[0]
    assert Sensitivity.from_dict(table.to_dict()) == table
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["screened", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_sees_the_refitted_weights(kind: Kind, precision: str, trained, digits) -> None:
    model = trained(WIDE)
    options = {"levels": (0.3, 0.8), "layers": ["features.4", "features.22"]}
    tables = [
        tp_vgg.sweep(model, digits.test, kind, reconstruct=digits.train, precision=one, **options)
        for one in ("fp32", precision)
    ]
    for exact, point in zip(tables[0].points, tables[1].points, strict=True):
        assert abs(exact.correct - point.correct) <= (1 if precision == "screened" else 6), point


def test_sums_are_taken_once_for_all_levels(
    trained, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Screening needs each level in two precisions, from the same refits."""
    made = Counter()
    real = dense_refits.ConvSums

    def counted(conv, generator):
        made[tuple(conv.weight.shape)] += 1
        return real(conv, generator)

    monkeypatch.setattr(dense_refits, "ConvSums", counted)
    layers = ["features.4", "features.22"]
    tp_vgg.sweep(
        trained(WIDE), digits.val, levels=(0.2, 0.4, 0.6), layers=layers,
        reconstruct=digits.train, precision="screened",
    )  # fmt: skip
    assert made == {(128, 24, 3, 3): 1, (36, 40, 3, 3): 1}


def test_zeros_of_hidden_linears_are_refitted_only_if_asked_for(trained, digits) -> None:
    model = trained(WIDE)
    options = {"levels": (0.5, 0.9), "layers": ["classifier.0", "features.25"]}
    plain = tp_vgg.sweep(model, digits.test, "unstructured", **options)
    usual, asked = (
        tp_vgg.sweep(
            model, digits.test, "unstructured", reconstruct=digits.train, repair_linear=linear,
            **options,
        )
        for linear in (False, True)
    )  # fmt: skip
    assert usual.of_layer("classifier.0") == plain.of_layer("classifier.0")
    assert usual.of_layer("features.25") == asked.of_layer("features.25")
    assert asked.of_layer("classifier.0") != plain.of_layer("classifier.0")
    assert (usual.repair_linear, asked.repair_linear) == (False, True)
    assert "at each point but those of linear layers" in render_sensitivity(usual)
    assert "linear layers" not in render_sensitivity(asked)
    with pytest.raises(BadInput, match="--repair-linear: is for the zeros"):
        tp_vgg.sweep(model, digits.test, repair_linear=True, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_sweep_goes_on_with_the_same_refits(
    kind: Kind, trained, digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, path = trained(WIDE), tmp_path / "journal.jsonl"
    options = {
        "levels": (0.5, 0.9), "layers": ("features.8", "features.22"), "journal": path,
        "reconstruct": digits.train,
    }  # fmt: skip
    straight = tp_vgg.sweep(model, digits.test, kind, **options)
    lines = path.read_text().splitlines()
    for kept in (2, 4):
        path.write_text("\n".join([*lines[:kept], ""]))
        assert tp_vgg.sweep(model, digits.test, kind, **options) == straight, kept
    path.unlink()
    # In chunks, the walk over the images of the repair begins anew for each.
    monkeypatch.setattr(engine_module, "free_memory", lambda _device: 1)
    assert tp_vgg.sweep(model, digits.test, kind, **options) == straight
    seeds = tp_vgg.sweep(model, digits.test, kind, **{**options, "journal": None}, seed=1)
    assert seeds.key != straight.key


def test_memory_that_runs_out_between_two_layers_skips_none(
    trained, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(WIDE)
    options = {"levels": (0.5,), "layers": ("features.4", "features.18"), "precision": "fp32"}
    straight = tp_vgg.sweep(model, digits.val, reconstruct=digits.train, **options)
    move, calls = dense_refits.Activations.move, []

    def fails_once(self, output, rest):
        calls.append(1)
        if len(calls) == 8:
            raise torch.OutOfMemoryError("out of memory")
        move(self, output, rest)

    monkeypatch.setattr(dense_refits.Activations, "move", fails_once)
    with pytest.warns(UserWarning, match="out of memory"):
        again = tp_vgg.sweep(model, digits.val, reconstruct=digits.train, **options)
    assert len(calls) > 8
    assert again.points == straight.points


def test_a_sweep_of_an_older_version_is_read(trained, digits) -> None:
    table = tp_vgg.sweep(trained(WIDE), digits.val, levels=(0.5,), layers=["features.25"])
    old = {name: x for name, x in table.to_dict().items() if not name.startswith("repair")}
    assert Sensitivity.from_dict(old) == table
    assert Sensitivity.from_dict({**old, "recalibrated": True}).repair == "recalibrate"


def test_repairs_that_contradict_each_other_are_refused(trained, digits, call, small: list) -> None:
    with pytest.raises(BadInput, match="a sweep has one repair"):
        tp_vgg.sweep(trained(WIDE), digits.val, recalibrate=digits.train, reconstruct=digits.train)
    with pytest.raises(BadInput, match="reconstruct: 1 is too few"):
        tp_vgg.sweep(trained(WIDE), digits.val, reconstruct=digits.train.images[:1])
    for options, message in (
        (["--recalibrate", "--repair", "reconstruct"], "--recalibrate: is --repair recalibrate"),
        (["--repair-linear"], "--repair-linear: is for the zeros"),
        (["--repair", "refit"], "--repair"),
    ):
        status, _, err = call("sensitivity", *small, "--kind", "structured", "--out", "o", *options)
        assert status == 2 and message in err, err
        assert not Path("o").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_command_line_it_is_another_sweep(kind: str, call, at_home, small: list) -> None:
    options = [*small, "--kind", kind, "--levels", "0.5", "--out", "o"]
    assert call("sensitivity", *options)[0] == 0
    record = at_home / f"o/records/{kind}_sensitivity.json"
    before = record.read_bytes()
    status, out, err = call("sensitivity", *options, "--repair", "reconstruct")
    assert status == 0, err
    assert "weights refitted at each point" in " ".join(out.split())
    assert record.read_bytes() != before and '"repair": "reconstruct"' in record.read_text()
    assert "nothing to do" in call("sensitivity", *options, "--repair", "reconstruct")[2]
    assert list((at_home / "o/replaced").iterdir())
