"""A repair brings a pruned network close to the dense one, and leaves the rest as it is."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, VARIANTS, fresh, lively
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, TensorDataset

import tp_vgg
from tp_vgg.data import Split
from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.images import unlabelled
from tp_vgg.network.families import segments
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning import paired_walk, refit
from tp_vgg.pruning import repair as repair_module
from tp_vgg.pruning.calibration import recalibrate
from tp_vgg.pruning.rebase import ChannelStatistics, rebase

REPAIR = inspect.getmodule(tp_vgg.repair)
GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.arange(60) % 10
FLOATS = Normalisation.of(lively().meta)(PIXELS)
TRAINED = ("bn-linear", "bn-hidden", "plain-linear", "plain-hidden")


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in one.items()
    )


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    """Return the names of the modules with other tensors than before."""
    return {
        name.rpartition(".")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }


@pytest.fixture(scope="session")
def trained(digits) -> Callable:
    """A function that returns a copy of a small network that has learned the digits."""

    @functools.cache
    def learned(variant: str):
        model = fresh(VARIANTS[variant])
        norm = digits.normalisation
        model.meta.update(mean=list(norm.mean), std=list(norm.std))
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.Dropout):
                module.p = 0
        lr = 0.1 if model.spec.batch_norm else 0.02
        tp_vgg.finetune(model, digits.train, epochs=4, lr=lr, batch_size=64)
        return model.eval()

    return lambda variant="bn-linear": copy.deepcopy(learned(variant))


def pruned(dense, kind: str):
    model = copy.deepcopy(dense)
    if kind == "channels":
        tp_vgg.prune_structured(model, dict.fromkeys(model.spec.prunable, 0.3))
    else:
        tp_vgg.prune_unstructured(model, 0.8, masks=kind == "masks")
    return model


def assert_close(one: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        wanted = one(FLOATS)
        assert (other(FLOATS) - wanted).abs().max() <= 1e-3 * wanted.abs().max()


def some_pruned(**ratios: float):
    """A lively network, and what is left of it; by default of its third conv."""
    dense = lively()
    model = copy.deepcopy(dense)
    tp_vgg.prune_structured(model, ratios or {"features.8": 0.5})
    return model, dense


@pytest.mark.parametrize("kind", ["channels", "zeros", "masks"])
@pytest.mark.parametrize("variant", TRAINED)
def test_accuracy_comes_back_and_errors_fall(variant: str, kind: str, trained, digits) -> None:
    dense = trained(variant)
    model = pruned(dense, kind)
    images = digits.normalisation(digits.test.images)
    with torch.no_grad():
        wanted = dense(images)
        removed = (model(images) - wanted).norm() / wanted.norm()
    before = tp_vgg.accuracy(model, digits.test).accuracy
    result = tp_vgg.repair(model, dense, digits.train, limit=600)
    after = tp_vgg.accuracy(model, digits.test).accuracy
    with torch.no_grad():
        repaired = (model(images) - wanted).norm() / wanted.norm()
    lost = tp_vgg.accuracy(dense, digits.test).accuracy - before
    assert after - before > max(25, 0.5 * lost)
    assert repaired < 0.7 * removed
    assert list(result.layers) == [row.name for row in model.spec.rows]
    assert (result.images, result.held_out) == (540, 60)
    for layer in result.layers.values():
        assert (layer.after < layer.before) == (layer.outcome == "refitted")
    assert sum(layer.outcome == "refitted" for layer in result.layers.values()) >= 8


def test_the_errors_are_those_of_images_that_were_held_out(
    trained, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_module, "restore_row_norms", lambda *_: None)
    dense = trained()
    model = pruned(dense, "zeros")
    images, seed = digits.train.images[:200], 3
    as_pruned = copy.deepcopy(model)
    result = tp_vgg.repair(model, dense, images, seed=seed, flip=False)
    sample = unlabelled("images", images, dense, 200, seed)[:20]
    first = result.layers["features.0"]
    with torch.no_grad():
        wanted = dense.features[0](sample)
        spread = (wanted - wanted.mean((0, 2, 3), keepdim=True)).norm()
        for network, error in ((as_pruned, first.before), (model, first.after)):
            found = (network.features[0](sample) - wanted).norm() / spread
            assert float(found) == pytest.approx(error, rel=1e-4)
        last = (model(sample) - dense(sample)).norm()
        logits = dense(sample)
        last = last / (logits - logits.mean(0)).norm()
    assert float(last) == pytest.approx(result.layers["classifier"].after, rel=1e-3)


def test_no_layer_is_fitted_to_images_that_are_held_out() -> None:
    others = FLOATS.clone()
    others[:6] = FLOATS[50:56].flip(3)
    found = []
    for images in (FLOATS, others):
        dense = lively()
        model = pruned(dense, "zeros")
        result = tp_vgg.repair(model, dense, [images], layers=["features.4", "classifier.3"])
        assert {layer.outcome for layer in result.layers.values()} == {"refitted"}
        found.append((model.features[4].weight, model.classifier[3].weight, result))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)
    assert found[0][2] != found[1][2]


def test_the_error_of_one_image_is_relative_to_its_size() -> None:
    model, dense = some_pruned()
    sample = FLOATS[:2]
    result = tp_vgg.repair(model, dense, [sample])
    with torch.no_grad():
        wanted = dense(sample[:1])
        error = (model(sample[:1]) - wanted).norm() / wanted.norm()
    assert float(error) == pytest.approx(result.layers["classifier.6"].after, rel=1e-3)


@pytest.mark.parametrize("variant", TRAINED)
def test_zeros_stay_zero(variant: str) -> None:
    dense = lively(VARIANTS[variant])
    plain, masked = pruned(dense, "zeros"), pruned(dense, "masks")
    zeros = {row.name: plain.get_submodule(row.name).weight == 0 for row in plain.spec.rows}
    below = {
        name: masked.get_submodule(name).weight_orig.detach().clone()
        for name in zeros
        if hasattr(masked.get_submodule(name), "weight_orig")
    }
    assert below
    for model in (plain, masked):
        tp_vgg.repair(model, dense, PIXELS)
        for name, places in zeros.items():
            weight = model.get_submodule(name).weight
            assert not weight[places].any()
            assert weight[~places].all()
    for name, weight in below.items():
        layer = masked.get_submodule(name)
        assert torch.equal(layer.weight_orig[zeros[name]], weight[zeros[name]])
        assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
    assert all(
        torch.equal(plain.get_submodule(name).weight, masked.get_submodule(name).weight)
        for name in zeros
    )


def test_layers_before_the_pruned_one_stay_to_the_bit() -> None:
    model, dense = some_pruned()
    before = bits(model)
    result = tp_vgg.repair(model, dense, PIXELS)
    outcomes = {name: layer.outcome for name, layer in result.layers.items()}
    rows = [row.name for row in model.spec.rows]
    assert [outcomes[name] for name in rows[:3]] == ["unchanged"] * 3
    assert "unchanged" not in [outcomes[name] for name in rows[3:]]
    untouched = {"features.0", "features.1", "features.4", "features.5", "features.8", "features.9"}
    assert not changed(before, model) & untouched
    for layer in result.layers.values():
        assert (layer.before == layer.after == 0) == (layer.outcome == "unchanged")


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_that_was_not_pruned_stays_to_the_bit(variant: str, mask: bool) -> None:
    model, dense = lively(VARIANTS[variant]), lively(VARIANTS[variant])
    for part in (model, dense) if mask else ():
        tp_vgg.prune_unstructured(part, 0.5, masks=True)
        if part.spec.batch_norm:
            prune.l1_unstructured(part.features[1], "weight", 0.5)
    before = bits(model)
    result = tp_vgg.repair(model, dense, PIXELS[:20])
    assert same(before, bits(model))
    assert {layer.outcome for layer in result.layers.values()} == {"unchanged"}
    assert "nothing changed" in repr(result)


def test_other_statistics_of_batch_norm_are_a_change() -> None:
    dense = lively()
    model = copy.deepcopy(dense)
    model.features[1].running_mean += 0.5
    result = tp_vgg.repair(model, dense, PIXELS)
    assert result.layers["features.0"].outcome == "unchanged"
    assert result.layers["features.4"].outcome == "refitted"


@pytest.mark.parametrize("kind", ["channels", "zeros"])
def test_the_same_call_gives_the_same_bits(kind: str) -> None:
    dense = lively()
    models = [pruned(dense, kind) for _ in range(4)]
    state = torch.get_rng_state()
    results = [tp_vgg.repair(models[0], dense, PIXELS)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    results.append(tp_vgg.repair(models[1], dense, PIXELS))
    assert same(bits(models[0]), bits(models[1])) and results[0] == results[1]
    tp_vgg.repair(models[2], dense, PIXELS, seed=1)
    tp_vgg.repair(models[3], dense, PIXELS, flip=True)
    for other in models[2:]:
        assert not same(bits(models[0]), bits(other))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(former)


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "fp64 by default": lambda: default_dtype(torch.float64),
    "bf16 by default": lambda: default_dtype(torch.bfloat16),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("variant", ["bn-hidden", "bn-unfolded"])
def test_the_callers_settings_change_nothing(variant: str, setting: str) -> None:
    dense = lively(VARIANTS[variant])
    one, other = pruned(dense, "zeros"), pruned(dense, "zeros")
    images = PIXELS[:12]
    tp_vgg.repair(one, dense, images)
    with SETTINGS[setting]():
        tp_vgg.repair(other, dense, images)
    assert same(bits(one), bits(other))


@pytest.mark.parametrize("name", ["features.4", "features.11", "classifier.0", "classifier.6"])
def test_one_layer_alone_is_repaired(name: str) -> None:
    dense = lively()
    model = pruned(dense, "zeros")
    before = bits(model)
    result = tp_vgg.repair(model, dense, PIXELS, layers=[name])
    norm = f"features.{int(name.split('.')[1]) + 1}"
    assert changed(before, model) <= ({name, norm} if name[0] == "f" else {name})
    assert list(result.layers) == [name]


def test_layers_one_after_another_come_to_the_same() -> None:
    (one, dense), (other, _) = some_pruned(), some_pruned()
    for row in one.spec.rows:
        tp_vgg.repair(one, dense, PIXELS, layers=[row.name])
    tp_vgg.repair(other, dense, PIXELS)
    assert_close(one, other)


@pytest.mark.parametrize("training", [False, True])
def test_modes_and_the_dense_network_are_kept(training: bool) -> None:
    model, dense = some_pruned()
    for part in (model, dense):
        part.train(training)
        part.features[1].train(not training)
    modes = [[module.training for module in part.modules()] for part in (model, dense)]
    before = bits(dense)
    images = PIXELS.clone()
    tp_vgg.repair(model, dense, images)
    assert modes == [[module.training for module in part.modules()] for part in (model, dense)]
    assert same(before, bits(dense)) and torch.equal(images, PIXELS)


def test_gradients_and_what_requires_them_are_kept() -> None:
    model, dense = some_pruned()
    model(FLOATS[:2]).sum().backward()
    model.features[0].requires_grad_(False)
    gradients = [parameter.grad for parameter in model.parameters()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    tp_vgg.repair(model, dense, PIXELS)
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(a is b.grad for a, b in zip(gradients, model.parameters(), strict=True))
    model(FLOATS[:2]).sum().backward()


def test_prunings_in_a_row_are_repaired_from_the_one_before() -> None:
    dense = lively()
    middle = copy.deepcopy(dense)
    tp_vgg.prune_structured(middle, {"features.4": 0.25, "classifier.0": 0.5})
    last = copy.deepcopy(middle)
    tp_vgg.prune_structured(last, {"features.4": 0.5, "features.15": 0.5})
    for reference in (middle, dense):
        model = copy.deepcopy(last)
        with torch.no_grad():
            wanted = reference(FLOATS)
            before = (model(FLOATS) - wanted).norm()
        result = tp_vgg.repair(model, reference, PIXELS)
        assert result.layers["features.8"].outcome == "refitted"
        with torch.no_grad():
            assert (model(FLOATS) - wanted).norm() < 0.7 * before


@pytest.mark.parametrize("kind", ["channels", "zeros"])
@pytest.mark.parametrize("variant", ["bn-hidden", "plain-linear", "bn-unfolded"])
def test_activations_that_are_computed_again_give_the_same(
    variant: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = lively(VARIANTS[variant])
    one, other = pruned(dense, kind), pruned(dense, kind)
    first = tp_vgg.repair(one, dense, PIXELS)
    monkeypatch.setattr(paired_walk, "HELD_BYTES", 0)
    second = tp_vgg.repair(other, dense, PIXELS)
    assert_close(one, other)
    for name, layer in first.layers.items():
        assert second.layers[name].after == pytest.approx(layer.after, rel=1e-2, abs=1e-6)


def test_activations_are_held_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = list(torch.randn(6, 3, generator=GENERATOR).split(2))
    layers = [nn.Linear(3, 3), nn.Linear(3, 50), nn.Linear(50, 2)]
    monkeypatch.setattr(paired_walk, "HELD_BYTES", 6 * 3 * 4)
    walked = paired_walk.Activations(blocks)
    wanted = blocks
    with torch.no_grad():
        for layer, holds in zip(layers, (True, False, True), strict=True):
            rest = nn.Sequential(nn.ReLU(inplace=True))
            for inputs in walked:
                walked.move(layer(inputs), rest)
            walked.moved(layer, rest)
            wanted = [layer(inputs).relu() for inputs in wanted]
            assert (not walked._pending) == holds
            for _ in range(2):
                assert all(map(torch.equal, walked, wanted))


WORSE = {
    "noise": lambda weight: torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)),
    "nan": lambda weight: torch.full_like(weight, math.nan),
    "infinite": lambda weight: torch.full_like(weight, math.inf),
    "nothing": torch.zeros_like,
}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("kind", WORSE)
def test_a_layer_whose_error_does_not_fall_keeps_its_weights(
    kind: str, masks: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(layer: nn.Module, *given: Any) -> refit.Correction:
        found = refit.correction(layer, *given)
        if layer is model.features[8]:
            return refit.Correction(WORSE[kind](found.weight) * 100, torch.zeros_like(found.bias))
        return found

    monkeypatch.setattr(REPAIR, "correction", wrong)
    dense = lively()
    model = pruned(dense, "masks" if masks else "channels")
    before, weight = bits(model), model.features[8].weight.detach().clone()
    with caplog.at_level(logging.INFO, "tp_vgg"):
        result = tp_vgg.repair(model, dense, PIXELS)
    assert "features.8" not in changed(before, model)
    assert torch.equal(model.features[8].weight, weight)
    layer = result.layers["features.8"]
    assert layer.outcome == "kept" and layer.before == layer.after > 0
    assert result.layers["features.11"].outcome == "refitted"
    notes = [note for note in caplog.messages if "features.8 keeps its weights" in note]
    assert len(notes) == 1 and "on 6 held-out images" in notes[0] and "\n" not in notes[0]


def test_after_an_interrupt_the_layers_before_are_repaired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dense = lively()
    model = pruned(dense, "masks")
    before = bits(model)
    calls = []
    error = REPAIR.relative_error

    def interrupted(layer: nn.Module, pairs) -> float:
        calls.append(layer)
        found = error(layer, pairs)
        if calls.count(model.features[8]) == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(REPAIR, "relative_error", interrupted)
    model.train()
    with pytest.raises(KeyboardInterrupt):
        tp_vgg.repair(model, dense, PIXELS)
    assert changed(before, model) == {"features.0", "features.1", "features.4", "features.5"}
    layer = model.features[8]
    assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
    assert model.training


# Batch norm


def test_an_interrupted_rebase_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = lively().features[1]
    statistics = ChannelStatistics()
    statistics.add(FLOATS[:, :1].expand(-1, 8, -1, -1))
    before, copies, copy_ = bits(norm), [], torch.Tensor.copy_

    def interrupted(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        copies.append(value)
        if len(copies) == 3:
            raise KeyboardInterrupt
        return copy_(tensor, value)

    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rebase(norm, statistics)
    assert same(before, bits(norm))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_rebased_batch_norm_computes_the_same(scale: float) -> None:
    norm = lively().features[1]
    outputs = torch.randn(40, 8, 6, 6, generator=GENERATOR) * scale + scale
    outputs[:, 3] = 2.5
    statistics = ChannelStatistics()
    for block in outputs.split(7):
        statistics.add(block)
    before = norm(outputs).detach()
    rebase(norm, statistics)
    assert torch.allclose(norm.running_mean, outputs.mean((0, 2, 3)), rtol=1e-4)
    assert torch.allclose(norm.running_var, outputs.var((0, 2, 3)), rtol=1e-4)
    with torch.no_grad():
        assert (norm(outputs) - before).abs().max() <= 1e-5 * before.abs().max()
        norm.train()
        spread = (norm(outputs) - before).abs().max() / before.abs().max()
    assert spread < 1e-2  # training starts from the same function


def test_a_batch_norm_without_finite_statistics_stays_as_it_is() -> None:
    norm = lively().features[1]
    before = bits(norm)
    for value in (math.nan, math.inf, 1e30):
        statistics = ChannelStatistics()
        outputs = torch.ones(4, 8, 3, 3)
        outputs[0, 2] = value
        statistics.add(outputs)
        rebase(norm, statistics)
        assert same(before, bits(norm))


@pytest.mark.parametrize("shape", [(30, 4), (30, 4, 5, 2)])
def test_statistics_of_blocks_are_those_of_the_whole(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=GENERATOR) * 3 + 100
    statistics = ChannelStatistics()
    for block in values.split([1, 12, 17]):
        statistics.add(block)
    channels = values.double().transpose(0, 1).flatten(1)
    assert torch.allclose(statistics.mean, channels.mean(1), rtol=1e-6)
    assert torch.allclose(statistics.variance, channels.var(1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["channels", "zeros"])
def test_rebasing_keeps_the_logits_and_recalibrating_then_changes_little(
    kind: str, trained, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = trained("bn-linear")
    images = digits.normalisation(digits.test.images)
    after, moved = {}, {}
    for way in ("rebased", "not"):
        with monkeypatch.context() as patch:
            if way == "not":
                patch.setattr(REPAIR, "rebase", lambda *_: None)
            model = pruned(dense, kind)
            tp_vgg.repair(model, dense, digits.train, limit=600)
        with torch.no_grad():
            after[way] = model(images)
        counted = tp_vgg.accuracy(model, digits.test).accuracy
        recalibrate(model, digits.train, digits.normalisation)
        with torch.no_grad():
            difference = (model(images) - after[way]).norm() / after[way].norm()
        moved[way] = float(difference), counted - tp_vgg.accuracy(model, digits.test).accuracy
    scale = float(after["not"].abs().max())
    assert (after["rebased"] - after["not"]).abs().max() < 1e-3 * scale
    assert moved["rebased"][0] < 0.1 and moved["rebased"][0] < 0.7 * moved["not"][0]
    assert moved["rebased"][1] < 2


def test_rebasing_alone_keeps_the_logits_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer keeps its weights, so that re-basing is all that is done."""
    monkeypatch.setattr(REPAIR, "relative_error", lambda *_: 1.0)
    model, dense = some_pruned()
    before = bits(model)
    with torch.no_grad():
        logits = model(FLOATS)
        tp_vgg.repair(model, dense, PIXELS)
        assert (model(FLOATS) - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert changed(before, model) == {f"features.{place}" for place in (12, 16, 19, 23, 26)}


def test_a_masked_batch_norm_is_left_alone() -> None:
    model, dense = some_pruned()
    norm = model.features[12]
    prune.random_unstructured(norm, "weight", 0.5)
    before = bits(norm)
    result = tp_vgg.repair(model, dense, PIXELS)
    assert same(before, bits(norm))
    assert result.layers["features.11"].outcome == "refitted"


def test_a_padding_given_as_a_word_is_the_same() -> None:
    (one, dense), (other, _) = some_pruned(), some_pruned()
    other.features[11].padding = "same"
    tp_vgg.repair(one, dense, PIXELS)
    tp_vgg.repair(other, dense, PIXELS)
    assert_close(one, other)


# Images

WAYS: dict[str, Callable[[], object]] = {
    "split": lambda: Split(PIXELS, LABELS),
    "pair": lambda: (PIXELS, LABELS),
    "arrays": lambda: (PIXELS.numpy(), LABELS.numpy()),
    "array": PIXELS.numpy,
    "floats": lambda: FLOATS,
    "doubles": FLOATS.double,
    "channels last": lambda: PIXELS.to(memory_format=torch.channels_last),
    "labels of another form": lambda: (PIXELS, None),
    "nonsense labels": lambda: [FLOATS, torch.full((60,), math.nan)],
    "too few labels": lambda: (PIXELS, torch.tensor([-1])),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_bits_of_a_tensor(way: str) -> None:
    (one, dense), (other, _) = some_pruned(), some_pruned()
    expected = tp_vgg.repair(one, dense, PIXELS)
    assert tp_vgg.repair(other, dense, WAYS[way]()) == expected
    assert same(bits(one), bits(other))


BATCHES: dict[str, Callable[[], object]] = {
    "loader": lambda: DataLoader(TensorDataset(FLOATS, LABELS), batch_size=16),
    "pixel loader": lambda: DataLoader(TensorDataset(PIXELS, LABELS), batch_size=16),
    "loader without labels": lambda: DataLoader(FLOATS, batch_size=16),
    "loader of one": lambda: DataLoader(TensorDataset(FLOATS), batch_size=16),
    "three batches": lambda: [FLOATS[:10], FLOATS[10:30], FLOATS[30:]],
    "two batches": lambda: [FLOATS[:10], FLOATS[10:]],
    "tuple of two": lambda: (PIXELS[:10], PIXELS[10:]),
    "two arrays": lambda: [PIXELS[:10].numpy(), PIXELS[10:].numpy()],
    "one batch": lambda: [FLOATS],
    "pairs": lambda: [(FLOATS[:10], None), (FLOATS[10:], "cat")],
    "triples": lambda: [(FLOATS[:10], 1, 2), (FLOATS[10:], 1, 2)],
}


@pytest.mark.parametrize("way", BATCHES)
def test_every_kind_of_batches_gives_the_same(way: str) -> None:
    _, dense = some_pruned()
    found = unlabelled("images", BATCHES[way](), dense, 1000, 0)
    assert torch.equal(found, FLOATS)
    assert torch.equal(unlabelled("images", BATCHES[way](), dense, 25, 0), FLOATS[:25])
    model, _ = some_pruned()
    result = tp_vgg.repair(model, dense, BATCHES[way]())
    assert (result.images, result.held_out) == (54, 6)


def test_images_of_a_tensor_are_drawn_by_the_seed() -> None:
    model = lively()
    draws = [unlabelled("images", PIXELS, model, 20, seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    every = unlabelled("images", FLOATS, model, 60, 0)
    assert torch.equal(every.flatten(1).sum(1).sort()[0], FLOATS.flatten(1).sum(1).sort()[0])


@pytest.mark.parametrize("limit", [2, 25, np.int64(60), 1000])
def test_no_more_images_are_used_than_the_limit(limit: int) -> None:
    model, dense = some_pruned()
    result = tp_vgg.repair(model, dense, PIXELS, limit=limit)
    assert result.images + result.held_out == min(60, limit)
    assert result.held_out == max(1, min(60, limit) // 10)


def test_a_loader_is_read_no_further_than_the_limit() -> None:
    class Batches(list):
        def __iter__(self):
            yield FLOATS[:10]
            yield FLOATS[10:20]
            raise AssertionError("read on")

    model, dense = some_pruned()
    assert tp_vgg.repair(model, dense, Batches(), limit=15).images == 14


@pytest.mark.parametrize("way", ["tensor", "loader"])
def test_images_that_look_unnormalised_are_said_once(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, dense = some_pruned()
    images = PIXELS.float() / 255
    tp_vgg.repair(model, dense, images if way == "tensor" else DataLoader(images, batch_size=10))
    assert sum("not normalised?" in note for note in caplog.messages) == 1


def test_float_images_need_no_normalisation() -> None:
    model, dense = some_pruned()
    model.meta, dense.meta = {}, {}
    assert tp_vgg.repair(model, dense, FLOATS).layers["features.11"].outcome == "refitted"


# Refusals


def with_attributes(spec: VGGSpec, **attributes: object):
    model = lively(spec)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def parametrised():
    model, _ = some_pruned()
    parametrizations.weight_norm(model.features[4])
    return model


def inferred():
    with torch.inference_mode():
        return lively()


def sharing():
    model, dense = some_pruned()
    model.classifier = dense.classifier
    return {"model": model, "dense": dense}


def overlapping():
    model, dense = some_pruned()
    model_bias, dense_bias = model.classifier[6].bias, dense.classifier[6].bias
    values = torch.arange(len(model_bias) + 1.0)
    model_bias.data, dense_bias.data = values[:-1], values[1:]
    return {"model": model, "dense": dense}


def padded_otherwise(**settings: object):
    model, _ = some_pruned()
    for name, value in settings.items():
        setattr(model.features[11], name, value)
    return model


REFUSED: dict[str, tuple[Callable[[], dict[str, object]], str]] = {
    "itself": (lambda: dict.fromkeys(("model", "dense"), lively()), "dense: is the model itself"),
    "shared tensors": (sharing, r"dense: shares tensors .* copy\.deepcopy\(model\)"),
    "overlapping tensors": (overlapping, "dense: shares tensors"),
    "dense padding": (
        lambda: {"dense": padded_otherwise(padding=(2, 2))},
        r"dense: features\.11: .*; build the network from its spec",
    ),
    "padding mode": (
        lambda: {
            "model": padded_otherwise(
                padding_mode="reflect", _reversed_padding_repeated_twice=[1] * 4
            )
        },
        r"model: features\.11: ",
    ),
    "smaller dense": (
        lambda: dict(zip(("dense", "model"), some_pruned(), strict=True)),
        r"dense: features\.8: the model's 16 channels are not among its 8; give the network that",
    ),
    "other kept": (
        lambda: {"dense": some_pruned(**{"features.8": 0.25})[0], "model": of_kept([0, 1, 2, 3])},
        r"dense: features\.8: the model's .* are not among its 12",
    ),
    "no kept": (
        lambda: {"model": with_attributes(some_pruned()[0].spec)},
        r"dense: features\.8: the model's 8 channels are not among its 16",
    ),
    "wrong kept": (
        lambda: {"model": with_attributes(SMALL, kept={"features.8": ["a"]})},
        r"model: kept: features\.8: must be 16 .*; model\.kept = \{\} starts anew",
    ),
    "dense with wrong kept": (
        lambda: {"dense": with_attributes(SMALL, kept={"features.8": [0] * 16})},
        r"dense: kept: features\.8: .*; dense\.kept = \{\} starts anew",
    ),
    "other head": (lambda: {"dense": lively(replace(SMALL, hidden=()))}, "dense: .* other layers"),
    "no batch norm": (lambda: {"dense": lively(replace(SMALL, batch_norm=False))}, "dense: "),
    "other classes": (lambda: {"dense": lively(replace(SMALL, num_classes=5))}, "dense: "),
    "other pool": (lambda: {"dense": lively(replace(SMALL, pool=7))}, "dense: "),
    "other depth": (
        lambda: {"dense": lively(VGGSpec((8,) * 10, hidden=(32, 28)))},
        "dense: vgg13_bn of other layers than the model, a vgg11_bn",
    ),
    "half": (lambda: {"model": some_pruned()[0].half()}, r"model: .*float16; .* model\.float\(\)"),
    "double dense": (lambda: {"dense": lively().double()}, r"dense: .*float64"),
    "without values": (lambda: {"dense": lively().to("meta")}, "dense: .* meta device"),
    "model without values": (lambda: {"model": lively().to("meta")}, "model: .* meta device"),
    "parametrised": (
        lambda: {"model": parametrised()},
        r"model: features\.4: .*remove_parametrizations",
    ),
    "inferred": (lambda: {"model": inferred()}, r"model: .*inference_mode\(\)"),
    "wrapped": (lambda: {"model": nn.DataParallel(some_pruned()[0])}, r"model: .* \.module"),
    "no network": (lambda: {"dense": nn.Linear(2, 2)}, "dense: "),
    "no images": (lambda: {"images": PIXELS[:0]}, "images: has no images"),
    "no batches": (lambda: {"images": []}, "images: has no images"),
    "one image": (lambda: {"images": PIXELS[:1]}, "images: 1 is too few; give 2 or more"),
    "a single image": (lambda: {"images": PIXELS[0]}, "images: one image of shape"),
    "wrong size": (lambda: {"images": PIXELS[..., :28, :28]}, "images: images of 28x28 pixels"),
    "gray": (lambda: {"images": PIXELS[:, :1]}, r"images: .* images\.expand"),
    "channels behind": (lambda: {"images": PIXELS.permute(0, 2, 3, 1)}, r"images: .*permute"),
    "whole numbers": (lambda: {"images": PIXELS.long()}, "images: .*int64"),
    "NaN": (lambda: {"images": FLOATS * math.nan}, "images: .*NaN"),
    "meta images": (lambda: {"images": PIXELS.to("meta")}, "images: .*meta device"),
    "meta pair": (lambda: {"images": (FLOATS.to("meta"), LABELS)}, "images: .*meta device"),
    "sparse images": (lambda: {"images": FLOATS.to_sparse()}, r"images: .*to_dense\(\)"),
    "dicts": (lambda: {"images": [{"pixels": PIXELS}]}, "images: batch 0: .*got an object"),
    "iterator": (lambda: {"images": iter([FLOATS])}, "images: .*list of the batches"),
    "a late wrong batch": (lambda: {"images": [FLOATS, FLOATS[..., 1:]]}, "images: batch 1: "),
    "unknown layer": (lambda: {"layers": ["features.1"]}, r"layers: 'features\.1' is not one of"),
    "a string": (lambda: {"layers": "features.8"}, r"layers: must be a list such as \['features"),
    "no layers": (lambda: {"layers": []}, "layers: no names"),
    "numbers": (lambda: {"layers": [8]}, "layers: must be strings"),
    "limit": (lambda: {"limit": 1}, "limit: 1: must be a whole number"),
    "seed": (lambda: {"seed": -1}, "seed: -1"),
    "flip": (lambda: {"flip": "no"}, "flip: "),
}


def of_kept(channels: list[int]):
    """A network whose features.8 has these channels of the dense one."""
    model = lively(SMALL.with_widths({"features.8": len(channels)}))
    model.kept = {"features.8": channels}
    return model


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_line_and_changes_nothing(case: str) -> None:
    change, said = REFUSED[case]
    model, dense = some_pruned()
    arguments = {"model": model, "dense": dense, "images": PIXELS, **change()}
    networks = [
        arguments[name]
        for name in ("model", "dense")
        if not next(arguments[name].parameters()).is_meta  # type: ignore[attr-defined]
    ]
    before = [bits(network) for network in networks]
    if case == "other kept":
        tp_vgg.prune_structured(arguments["dense"], {})
    with pytest.raises(BadInput, match=said) as refusal:
        tp_vgg.repair(**arguments)
    text = str(refusal.value)
    assert text.isprintable() and len(text) < 300
    assert all(map(same, before, map(bits, networks)))


# Numbers


def killed(model, names: list[str]) -> None:
    """Let half of the channels of these layers be 0 for every image."""
    with torch.no_grad():
        for name in names:
            layer = model.get_submodule(name)
            half = len(layer.weight) // 2
            layer.weight[:half] = 0
            layer.bias[:half] = -5


@pytest.mark.parametrize("kind", ["channels", "zeros"])
@pytest.mark.parametrize("variant", ["plain-hidden", "plain-linear"])
def test_dead_channels_do_no_harm(variant: str, kind: str) -> None:
    dense = lively(VARIANTS[variant])
    killed(dense, ["features.0", "features.6", "features.16"])
    assert_repaired(pruned(dense, kind), dense)


def assert_repaired(model, dense, images: torch.Tensor = FLOATS) -> None:
    with torch.no_grad():
        wanted = dense(images).double()
        before = (model(images) - wanted).norm()
        result = tp_vgg.repair(model, dense, images)
        after = (model(images) - wanted).norm()
    assert after < before
    assert all(value.isfinite().all() for value in model.state_dict().values())
    for layer in result.layers.values():
        assert 0 <= layer.after <= layer.before < math.inf


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("variant", ["plain-linear", "bn-hidden"])
def test_large_and_small_activations_are_repaired(variant: str, scale: float) -> None:
    dense = scaled(variant, scale)
    assert_repaired(pruned(dense, "channels"), dense)


def test_activations_whose_squares_overflow_have_finite_errors() -> None:
    dense = scaled("plain-linear", 1e22)
    model = pruned(dense, "channels")
    before = bits(model)
    result = tp_vgg.repair(model, dense, FLOATS)
    assert {layer.outcome for layer in result.layers.values()} == {"unchanged", "kept"}
    assert all(math.isfinite(layer.before) for layer in result.layers.values())
    assert same(before, bits(model))


def scaled(variant: str, scale: float):
    """A lively network whose activations are ``scale`` times as large."""
    dense = lively(VARIANTS[variant])
    with torch.no_grad():
        dense.features[0].weight *= scale
        dense.features[0].bias *= scale
        if dense.spec.batch_norm:
            dense.features[1].running_mean *= scale
            dense.features[1].running_var *= scale**2
        else:
            for row in dense.spec.rows[1:]:
                dense.get_submodule(row.name).bias *= scale
    return dense


@pytest.mark.parametrize("variant", ["plain-linear", "bn-hidden"])
def test_a_network_that_is_not_finite_keeps_its_weights(variant: str) -> None:
    dense = lively(VARIANTS[variant])
    with torch.no_grad():
        dense.features[0].weight[0, 0, 0, 0] = math.nan
    model = copy.deepcopy(dense)
    name = dense.spec.conv_names[2]
    tp_vgg.prune_unstructured(model, {name: 0.5})
    before = bits(model)
    result = tp_vgg.repair(model, dense, PIXELS)
    now = bits(model)
    assert all(torch.equal(now[key].nan_to_num(), before[key].nan_to_num()) for key in before)
    assert "refitted" not in {layer.outcome for layer in result.layers.values()}


@pytest.mark.parametrize("count", [2, 3, 9])
@pytest.mark.parametrize("variant", TRAINED)
def test_few_images_do_no_harm(variant: str, count: int, trained, digits) -> None:
    dense = trained(variant)
    for kind in ("channels", "zeros"):
        model = pruned(dense, kind)
        result = tp_vgg.repair(model, dense, digits.train, limit=count)
        assert (result.images, result.held_out) == (count - 1, 1)
        outcomes = [layer.outcome for layer in result.layers.values()]
        assert outcomes.count("refitted") > 5
        for layer in result.layers.values():
            assert 0 <= layer.after <= layer.before < math.inf


@pytest.mark.parametrize("value", [0, 255])
def test_images_of_one_colour_are_repaired(value: int) -> None:
    model, dense = some_pruned()
    tp_vgg.repair(model, dense, torch.full((20, 3, 32, 32), value, dtype=torch.uint8))
    with torch.no_grad():
        assert model(FLOATS).isfinite().all()


@pytest.mark.parametrize("kind", ["channels", "zeros"])
def test_layers_of_one_channel_are_repaired(kind: str) -> None:
    dense = lively(replace(SMALL, widths=(2, 3, 2, 2, 3, 2, 2, 2), hidden=(2, 3)), seed=5)
    model = copy.deepcopy(dense)
    if kind == "channels":
        tp_vgg.prune_structured(model, dict.fromkeys(model.spec.prunable, 0.5))
        assert 1 in model.spec.widths
    else:
        tp_vgg.prune_unstructured(model, 0.5)
    assert_repaired(model, dense)


def test_layers_without_any_weight_left_get_another_bias() -> None:
    dense = lively()
    model = copy.deepcopy(dense)
    with torch.no_grad():
        for name in ("features.8", "classifier.3"):
            model.get_submodule(name).weight.zero_()
    result = tp_vgg.repair(model, dense, FLOATS)
    for name in ("features.8", "classifier.3"):
        layer = model.get_submodule(name)
        assert not layer.weight.any()
        assert not torch.equal(layer.bias, dense.get_submodule(name).bias)
        assert result.layers[name].outcome == "refitted"
        assert result.layers[name].after == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("kind", ["channels", "zeros"])
@pytest.mark.parametrize(
    "spec",
    [
        replace(SMALL, image_size=64),
        replace(SMALL, image_size=64, pool=7),
        replace(SMALL, pool=7),
        replace(SMALL, image_size=96, hidden=(), batch_norm=False),
        VGGSpec((6,) * 13, hidden=()),
    ],
    ids=["averaged", "unequal copies", "equal copies", "large", "vgg16"],
)
def test_other_shapes_are_repaired(spec: VGGSpec, kind: str) -> None:
    side = spec.image_size
    images = torch.randn(40, 3, side, side, generator=torch.Generator().manual_seed(0))
    dense = lively(spec)
    assert_repaired(pruned(dense, kind), dense, images)


@pytest.mark.parametrize(
    ("side", "images"), [(32, 100), (64, 100), (96, 56), (224, 10), (725, 1), (2000, 1)]
)
def test_blocks_of_large_images_have_fewer(side: int, images: int) -> None:
    assert paired_walk.block_size(side) == images


# Segments


@pytest.mark.parametrize("variant", VARIANTS)
def test_segments_compute_the_logits(variant: str) -> None:
    model = lively(VARIANTS[variant])
    parts = segments(model)
    assert [part.name for part in parts] == [row.name for row in model.spec.rows]
    with torch.no_grad():
        logits, values = model(FLOATS[:4]), FLOATS[:4]
        for part in parts:
            assert model.get_submodule(part.name) is part.layer
            norms = [module for module in part.rest if isinstance(module, nn.BatchNorm2d)]
            assert norms == ([] if part.norm is None else [part.norm])
            values = part.rest(part.layer(values))
    assert torch.equal(values, logits)
    assert len(parts[-1].rest) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["channels", "zeros"])
def test_a_gpu_repairs_as_the_cpu_does(kind: str) -> None:
    dense = lively()
    model = pruned(dense, kind)
    on_gpu, dense_on_gpu = (copy.deepcopy(network).cuda() for network in (model, dense))
    results = [tp_vgg.repair(model, dense, PIXELS), tp_vgg.repair(on_gpu, dense_on_gpu, PIXELS)]
    assert_close(model, on_gpu.cpu())
    for name, layer in results[0].layers.items():
        assert results[1].layers[name].after == pytest.approx(layer.after, rel=1e-3, abs=1e-6)
