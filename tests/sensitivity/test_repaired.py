"""Recalibrated sweeps agree with pruning, recalibrating and evaluating each network by itself."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from helpers.networks import SMALL, VARIANTS

from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput
from tp_vgg.machine.distributed import ALONE
from tp_vgg.pruning.calibration import calibration_sample
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.structured import prune_structured
from tp_vgg.pruning.unstructured import prune_unstructured
from tp_vgg.sensitivity.engine import Engine
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.sweep import sweep

LEVELS = (0.0, 0.25, 0.5, 0.75)


def pruned_and_recalibrated(model, kind: Kind, layer: str, level: float, train):
    """Prune the whole network, then renew the statistics of each batch norm whose input changed."""
    pruned = copy.deepcopy(model)
    if kind == "structured":
        prune_structured(pruned, {layer: level})
    else:
        prune_unstructured(pruned, {layer: level})
    names = [name for name, _ in pruned.named_modules()]
    unchanged = {f"features.{int(layer.split('.')[1]) + 1}"} if kind == "structured" else set()
    for name in names[names.index(layer) :]:
        module = pruned.get_submodule(name)
        if isinstance(module, torch.nn.BatchNorm2d) and name not in unchanged:
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        pruned(Normalisation.of(model.meta)(calibration_sample(train).images))
    return pruned.eval()


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
@pytest.mark.parametrize("variant", ["bn-linear", "bn-hidden", "bn-unfolded"])
def test_logits_are_those_of_each_network_recalibrated(
    variant: str, kind: Kind, make_model, few_digits
) -> None:
    model = make_model(VARIANTS[variant])
    few = ("features.0", "features.8", "features.25", "classifier.0")
    layers = tuple(name for name in model.spec.prunable if name in few)
    resolved = ResolvedSweep.of(
        SweepQuestion(kind, LEVELS, layers, precision="fp32", repair="recalibrate"),
        model,
        calibration_sample(few_digits.train),
    )
    engine = Engine(model, few_digits.val, resolved, ALONE)
    images = Normalisation.of(model.meta)(few_digits.val.images)
    for layer in layers:
        logits = engine.logits(layer)
        for place, level in enumerate(LEVELS):
            network = pruned_and_recalibrated(model, kind, layer, level, few_digits.train)
            with torch.inference_mode():
                expected = network(images)
            # Sums run in another order; wrong statistics would differ by far more.
            assert (logits[place] - expected).abs().max() <= 1e-4 * expected.abs().max(), (
                layer,
                level,
            )
    assert not model.training


def test_the_table_says_so_and_drops_are_smaller(digits) -> None:
    from helpers.training import fit

    from tp_vgg.network.vgg.model import build
    from tp_vgg.training.recipe import Recipe

    torch.manual_seed(0)
    model = build(replace(SMALL, widths=(16, 24, 32, 32, 40, 40, 48, 48), hidden=()))
    model.meta = {"mean": list(digits.normalisation.mean), "std": list(digits.normalisation.std)}
    fit(model, digits, Recipe(epochs=4, lr=0.05, batch_size=32))
    options = {"levels": (0.5, 0.75), "precision": "fp32"}
    plain, renewed = (
        sweep(model, digits.test, **options),
        sweep(model, digits.test, recalibrate=digits.train, **options),
    )
    assert (plain.repair, renewed.repair) == ("none", "recalibrate")
    assert plain.key != renewed.key
    assert sum(p.drop for p in renewed.points) < 0.8 * sum(p.drop for p in plain.points)
    assert type(plain).from_dict(renewed.to_dict()) == renewed
    old = {name: value for name, value in plain.to_dict().items() if name != "repair"}
    assert type(plain).from_dict(old) == plain


def test_without_batch_norm_there_is_nothing_to_recalibrate(
    make_model, few_digits, call, small: list
) -> None:
    with pytest.raises(BadInput, match="no batch norm"):
        sweep(make_model(VARIANTS["plain-linear"]), few_digits.val, recalibrate=few_digits.train)
    status, _, err = call(
        "sensitivity", "--arch", "vgg11", "--kind", "structured", "--recalibrate", "--out", "o"
    )
    assert (status, "no batch norm" in err) == (2, True)


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_on_the_command_line_it_is_another_sweep(kind: str, call, at_home, small: list) -> None:
    options = [*small, "--kind", kind, "--levels", "0.5", "--out", "o"]
    assert call("sensitivity", *options)[0] == 0
    before = (at_home / f"o/records/{kind}_sensitivity.json").read_bytes()
    status, _, err = call("sensitivity", *options, "--recalibrate")
    assert status == 0, err
    assert (at_home / f"o/records/{kind}_sensitivity.json").read_bytes() != before
    assert "nothing to do" in call("sensitivity", *options, "--recalibrate")[2]
