"""Public functions check what they are given, and say in one line what to give instead."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, lively, weights
from torch import nn
from torch.nn.utils import parametrizations, prune

import tp_vgg
from tp_vgg.data import Split
from tp_vgg.errors import BadInput
from tp_vgg.latency import benchmark
from tp_vgg.network.count import layer_sparsity
from tp_vgg.network.export import export
from tp_vgg.network.masks import has_masks


def split(count: int = 20, side: int = 32, classes: int = 10) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % classes)


def masked(amount: float = 0.5, *, bias: bool = False):
    model = lively()
    for name in SMALL.prunable:
        prune.l1_unstructured(model.get_submodule(name), "weight", amount)
    if bias:
        prune.random_unstructured(model.features[0], "bias", 0.5)
    return model


def structured(model, **options):
    return tp_vgg.prune_structured(model, **{"ratios": {"features.0": 0.5}, **options})


def unstructured(model, **options):
    return tp_vgg.prune_unstructured(model, **{"sparsity": 0.5, **options})


def swept(model, **options):
    options = {"split": split(), "levels": [0.5], "layers": ["features.0"], **options}
    return tp_vgg.sweep(model, options.pop("split"), **options)


def timed(model, **options):
    defaults = {"modes": ["eager"], "dtypes": ["fp32"], "batch_sizes": [1], "trials": 9}
    return tp_vgg.measure_latency(
        options.pop("models", {"dense": model}), **{**defaults, "probes": False, **options}
    )


DOORS = {"structured": structured, "unstructured": unstructured, "sweep": swept, "latency": timed}


def refused(door, said: str, model=None, **options) -> None:
    """Check that the door refuses, in one line, and leaves the model as it was."""
    model = lively() if model is None else model
    plain = isinstance(model, nn.Module) and not next(model.parameters()).is_meta
    before = weights(model) if plain else None
    with pytest.raises(BadInput, match=said) as refusal:
        door(model, **options)
    assert "\n" not in str(refusal.value)
    if plain:
        assert torch.equal(weights(model), before)


NUMBERS = {
    "float32": np.float32(0.5),
    "float64": np.float64(0.5),
    "array": np.array(0.5),
    "tensor": torch.tensor(0.5),
    "half": torch.tensor(0.5, dtype=torch.bfloat16),
    "zero": np.int64(0),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_and_torch_are_numbers(name: str) -> None:
    value = NUMBERS[name]
    kept = 8 if name == "zero" else 4
    model = lively()
    structured(model, ratios={"features.0": value}, round_to=np.int64(1), seed=np.int32(0))
    assert model.spec.widths[0] == kept
    for scope in ("layer", "global"):
        model = lively()
        unstructured(model, sparsity=value, scope=scope)
        zeros = 1 - np.mean([bool(w) for w in weights_of(model)])
        assert zeros == pytest.approx(float(value), abs=0.01)
    unstructured(model := lively(), sparsity={"features.4": value})
    assert layer_sparsity(model)["features.4"] == pytest.approx(float(value), abs=0.01)
    assert swept(lively(), levels=[value]).points[0].ratio == float(value)


def weights_of(model):
    return torch.cat([model.get_submodule(n).weight.flatten() for n in model.spec.prunable])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "got a boolean"),
        (np.bool_(True), "got a boolean"),
        (torch.tensor(True), "got a boolean"),
        ("0.5", "got a string"),
        (np.str_("0.5"), "got a string"),
        ([0.5], "got a list"),
        (None, "got null"),
        (torch.zeros(2), "got a Tensor"),
        (0.5j, "got a complex"),
        (float("nan"), "finite"),
        (1, "1 or more"),
        (np.float32(-0.5), "negative"),
    ],
)
def test_what_is_no_fraction_is_refused(value: object, said: str) -> None:
    for door, options in (
        (structured, {"ratios": {"features.0": value}}),
        (unstructured, {"sparsity": {"features.0": value}}),
        (unstructured, {"sparsity": value}),
        (unstructured, {"sparsity": value, "scope": "global"}),
        (swept, {"levels": [0.25, value]}),
    ):
        refused(door, said, **options)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([0.5], "ratios: must be an object such as .*got a list"),
        (0.5, "ratios: must be an object such as .*got a number"),
        ("ratios.json", "ratios: must be an object such as .*got a string"),
        ({0: 0.5}, "ratios: 0: a number, not the name of a layer"),
        ({"features.1": 0.5}, "no prunable layer"),
    ],
)
def test_ratios_are_an_object(ratios: object, said: str) -> None:
    refused(structured, said, ratios=ratios)


CLOSED = [
    (structured, "importance", ["l1", "bn"], "importance"),
    (unstructured, "scope", ["layer", "global"], "scope"),
    (swept, "kind", ["structured", "unstructured"], "kind"),
    (swept, "precision", ["auto", "fp32"], "precision"),
    (swept, "importance", ["l1", "l2"], "importance"),
]


@pytest.mark.parametrize(
    ("door", "option", "good", "name"), CLOSED, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_sets_of_names_are_closed(door, option: str, good: list[str], name: str) -> None:
    for value in good:
        door(lively(), **{option: value})
    wrong = [good[0].title(), good[0].upper(), f" {good[0]}", "", None, 1, [good[0]], {}]
    for value in wrong:
        refused(door, f"{name} .*is not one of .*{good[1]}", **{option: value})


@pytest.mark.parametrize("value", ["Eager", "EAGER", "", None, 3])
def test_modes_dtypes_and_formats_are_closed(value, tmp_path) -> None:
    refused(timed, "modes", modes=[value])
    refused(timed, "dtypes", dtypes=[value])
    with pytest.raises(BadInput, match=r"form .*is not one of onnx, safetensors, sparse, torch"):
        export(lively(), tmp_path / "m", value)
    with pytest.raises(BadInput, match=r"kind .*is not one of structured, unstructured"):
        tp_vgg.read_ratios("examples/ratios.json", value)
    assert not list(tmp_path.iterdir())


def test_a_plan_for_the_kind_in_another_case_is_no_plan(tmp_path) -> None:
    (tmp_path / "r.json").write_text('{"features.0": 0.5}')
    assert tp_vgg.read_ratios(str(tmp_path / "r.json"), plan_dirs=[str(tmp_path)]).values
    with pytest.raises(BadInput, match="kind 'Structured' is not one of"):
        tp_vgg.read_ratios(tmp_path / "r.json", "Structured")
    with pytest.raises(BadInput, match="plan_dirs: must be a list"):
        tp_vgg.read_ratios(tmp_path / "r.json", plan_dirs="runs")
    with pytest.raises(BadInput, match=r"path: .* is not a path"):
        tp_vgg.read_ratios(3)


@pytest.mark.parametrize(
    ("door", "options", "said"),
    [
        (structured, {"round_to": 0}, "round_to: 0: must be a whole number of at least 1"),
        (structured, {"round_to": 2.0}, "round_to: 2.0"),
        (structured, {"round_to": True}, "round_to: True"),
        (structured, {"round_to": "8"}, "round_to: '8'"),
        (structured, {"seed": 0.5}, "seed: 0.5"),
        (swept, {"seed": "0"}, "seed: '0'"),
        (swept, {"levels": "0.5"}, "levels: must be a list such as .*a string"),
        (swept, {"levels": 0.5}, "levels: must be a list such as .*a number"),
        (swept, {"levels": ["0.5"]}, "--levels: must be a number"),
        (swept, {"levels": np.array([[0.5]])}, "--levels: must be a number.*ndarray"),
        (swept, {"layers": "features.0"}, "is one name; give a list"),
        (swept, {"layers": 3}, "layers: must be a list"),
        (swept, {"layers": [3]}, "layers: must be strings, got 3"),
        (swept, {"journal": 3}, "journal: .* is not a path"),
        (swept, {"recalibrate": True}, "recalibrate: must be a tp_vgg.data.Split.*a boolean"),
        (swept, {"recalibrate": split(side=64)}, "recalibrate: images of 64x64"),
        (timed, {"modes": "eager"}, "modes: must be a list such as .*got 'eager', a string"),
        (timed, {"dtypes": "fp32"}, "dtypes: must be a list"),
        (timed, {"batch_sizes": 1}, "batch_sizes: must be a list"),
        (timed, {"batch_sizes": [1.0]}, "batch-sizes: 1.0"),
        (timed, {"batch_sizes": "1"}, "batch_sizes: must be a list"),
        (timed, {"trials": 9.0}, "trials: 9.0"),
        (timed, {"trials": "9"}, "trials: '9'"),
        (timed, {"threads": True}, "threads: True"),
        (timed, {"device": 0}, "device: must be auto"),
        (timed, {"device": "CPU"}, "device"),
        (timed, {"models": lively()}, "models: must map names to networks.*got a VGG"),
        (timed, {"models": [lively()]}, "models: must map names to networks.*got a list"),
        (timed, {"models": {1: lively()}}, "models: the names: must be strings"),
        (timed, {"models": {"a": "m.pth"}}, "models: a: must be a network.*a string"),
        (timed, {"models": {}}, "give one or more models"),
    ],
)
def test_types_are_checked(door, options: dict, said: str) -> None:
    refused(door, said, **options)


def test_iterables_of_any_kind_are_lists() -> None:
    expected = swept(lively(), levels=[0.25, 0.5], layers=["features.0", "features.4"])
    for levels, layers in (
        ((x for x in (0.25, 0.5)), (x for x in ("features.0", "features.4"))),
        (np.array([0.25, 0.5]), np.array(["features.0", "features.4"])),
        (torch.tensor([0.25, 0.5]), {"features.0": 0, "features.4": 0}.keys()),
    ):
        assert swept(lively(), levels=levels, layers=layers) == expected


def test_sizes_of_numpy_are_numbers(monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "measure", lambda _, settings, *__, **___: settings)
    settings = timed(lively(), batch_sizes=np.array([1, 4]), trials=np.int64(9))
    assert [case.batch_size for case in settings.cases] == [1, 4]
    assert settings.trials == 9
    assert timed(lively(), device=torch.device("cpu"), threads=np.int64(1)).trials == 9


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.utils.data.DataLoader([0]), "got a DataLoader"),
        ((3, 4), r"tp_vgg\.data\.Split\(images, labels\).*got a tuple whose batch 0 is a number"),
        (None, "got null"),
        (split(0), "split: has no images"),
        (split(side=64), "images of 64x64 pixels; the network takes 32x32"),
        (Split(split().images[:, :, :16], split().labels), "images of 16x32 pixels"),
        (split(classes=11), "labels: from 0 to 10; the network has 10 classes"),
        (Split(split().images, split().labels - 1), "labels: from -1 to 8"),
        (Split(split().images.to("meta"), split().labels.to("meta")), "labels|on meta"),
    ],
)
def test_a_split_must_fit_the_network(given: object, said: str) -> None:
    refused(swept, said, split=given)


@pytest.mark.parametrize(("asked", "expected"), [(0.3, 0.5), (0.5, 0.5), (0.7, 0.7), (0, 0.5)])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_that_are_there_count(asked: float, expected: float, scope: str) -> None:
    model = masked(0.5, bias=True)
    gone = {name: model.get_submodule(name).weight == 0 for name in SMALL.prunable}
    bias = model.features[0].bias.detach().clone()
    unstructured(model, sparsity=asked, scope=scope)
    assert not has_masks(model)
    assert set(model.state_dict()) == set(lively().state_dict())
    zeros = float((weights_of(model) == 0).float().mean())
    assert zeros == pytest.approx(expected, abs=0.003)
    for name, before in gone.items():
        assert (model.get_submodule(name).weight[before] == 0).all()
    assert torch.equal(model.features[0].bias, bias)


@pytest.mark.parametrize("order", list(itertools.permutations((0.2, 0.6, 0.4))))
def test_pruning_twice_is_pruning_to_the_larger_sparsity(order) -> None:
    once, often = lively(), lively()
    unstructured(once, sparsity=0.6)
    for value in order:
        unstructured(often, sparsity=value)
    assert torch.equal(weights(often), weights(once))


def test_a_refused_sparsity_leaves_the_masks() -> None:
    model = masked()
    refused(unstructured, "no prunable layer", model, sparsity={"features.1": 0.5})
    assert has_masks(model)


@pytest.mark.parametrize("door", [structured, swept])
@pytest.mark.parametrize("bias", [False, True])
def test_masked_models_are_refused_with_the_fix(door, bias: bool) -> None:
    model = lively()
    prune.random_unstructured(model.features[0], "bias" if bias else "weight", 0.5)
    refused(door, r"has weight masks; .*torch\.nn\.utils\.prune\.remove", model)
    prune.remove(model.features[0], "bias" if bias else "weight")
    door(model)


def test_a_masked_model_is_timed_with_its_zeros(monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "measure", lambda models, *_, **__: models)
    dense, model = lively(), masked()
    given = timed(None, models={"dense": dense, "masked": model})
    assert given["dense"] is dense and has_masks(model)
    assert not has_masks(given["masked"])
    assert layer_sparsity(given["masked"])["features.4"] == pytest.approx(0.5, abs=0.01)


def average_pool(model) -> None:
    model.features[28] = nn.AvgPool2d(2)


def doubled(model) -> None:
    model.features[0].register_forward_hook(lambda _m, _i, output: 2 * output)


def other_head(model) -> None:
    model.classifier[6] = nn.Linear(28, 100)


def parametrized(model) -> None:
    parametrizations.weight_norm(model.features[0])


def in_double(model) -> None:
    model.double()


def without_values(model) -> None:
    model.to("meta")


@pytest.mark.parametrize(
    ("change", "said", "doors"),
    [
        (average_pool, r"features\.28: AvgPool2d.*has MaxPool2d", "structured sweep latency"),
        (doubled, r"features\.0: has a forward hook", "structured sweep latency"),
        (other_head, r"classifier\.6\.weight: shape \[100, 28\], its spec says \[10, 28\]",
         "structured sweep latency"),
        (parametrized, r"features\.0", "structured unstructured sweep latency"),
        (in_double, r"float64; .*model\.float\(\)", "structured sweep"),
        (without_values, "meta device", "structured unstructured sweep latency"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)  # fmt: skip
def test_a_module_that_its_spec_does_not_describe_is_refused(change, said, doors) -> None:
    for door in doors.split():
        model = lively()
        change(model)
        refused(DOORS[door], said, model)


@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_network_is_refused(door: str) -> None:
    compiled = torch.compile(lively(), backend="eager")
    refused(
        DOORS[door],
        r"wrapped in OptimizedModule; give the network inside, its \._orig_mod",
        compiled,
    )
    refused(DOORS[door], r"wrapped in DataParallel; .* its \.module", nn.DataParallel(lively()))
    with pytest.raises(BadInput, match=r"must be a network of tp_vgg\.build"):
        DOORS[door]("m.pth")


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
@pytest.mark.parametrize("door", [structured, swept])
def test_a_criterion_without_its_gradients_is_refused(door, importance: str) -> None:
    refused(
        door, f"{importance} reads gradients, and features.0 has none; first", importance=importance
    )
    model = lively()
    model(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    door(model, importance=importance)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"table": {"points": []}}, "table: must be the result of tp_vgg.sweep, got an object"),
        ({"budget": "macs=0.5"}, "--budget: must be an object .*a string"),
        ({"budget": 0.5}, "--budget: must be an object .*a number"),
        ({"budget": {"Macs": 0.5}}, "--budget: 'Macs' is not one of"),
        ({"budget": {"macs": "0.5"}}, "--budget macs: must be a number"),
        ({"budget": {"macs": np.bool_(True)}}, "--budget macs: must be a number"),
        ({"round_to": 2.5}, "--round-to: 2.5"),
        ({"round_to": True}, "--round-to: True"),
    ],
)
def test_what_makes_no_plan_is_refused(options: dict, said: str) -> None:
    table = swept(lively())
    assert tp_vgg.make_plan(table, {"macs": np.float32(1)}, round_to=np.int64(1)).ratios is not None
    with pytest.raises(BadInput, match=said):
        tp_vgg.make_plan(**{"table": table, "budget": {"macs": 0.9}, **options})


def test_a_spec_takes_numbers_of_numpy_and_build_takes_a_spec() -> None:
    widths = np.array(SMALL.widths)
    assert replace(SMALL, widths=tuple(widths), num_classes=np.int64(10)) == SMALL
    assert type(replace(SMALL, widths=list(widths)).widths[0]) is int
    for given in ("vgg11_bn", SMALL.to_dict(), None):
        with pytest.raises(BadInput, match=r"spec: must be a tp_vgg\.VGGSpec, got .*preset"):
            tp_vgg.build(given)
