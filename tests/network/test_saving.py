"""`save` writes what `load` reads back with the same logits, or nothing at all."""

from __future__ import annotations

import copy
import enum
import io
import logging
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, VARIANTS, lively, weights
from torch import nn
from torch.nn.utils import parametrizations, prune

from tp_vgg.errors import BadInput
from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.export import export
from tp_vgg.pruning.structured import prune_structured

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module, images: torch.Tensor = X) -> torch.Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images)


def masked(spec=SMALL, *, bias: bool = False):
    model = lively(spec)
    for name in spec.prunable:
        prune.l1_unstructured(model.get_submodule(name), "weight", 0.5)
        if bias:
            prune.random_unstructured(model.get_submodule(name), "bias", 0.3)
    model(X)
    return model


def expected_of_masked(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(X)


def refused(model: object, path: Path, said: str) -> str:
    before = sorted(path.parent.iterdir())
    with pytest.raises(BadInput, match=said) as refusal:
        save(model, path)
    assert sorted(path.parent.iterdir()) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".sparse"])
@pytest.mark.parametrize("bias", [False, True])
def test_masks_become_zeros_and_stay_on_the_model(bias: bool, suffix: str, tmp_path: Path) -> None:
    model = masked(bias=bias)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save(model, tmp_path / f"m{suffix}")
    again = load(tmp_path / f"m{suffix}")
    assert torch.equal(logits(again), expected_of_masked(model))
    assert (again.features[4].weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert not (again.features[4].weight[again.features[4].weight == 0].signbit()).any()
    after = model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[k], before[k]) for k in before)
    assert prune.is_pruned(model)


def test_a_mask_of_a_mask_is_baked(tmp_path: Path) -> None:
    model = masked()
    prune.ln_structured(model.features[8], "weight", 0.25, n=2, dim=0)
    save(model, tmp_path / "m.pth")
    assert torch.equal(logits(load(tmp_path / "m.pth")), expected_of_masked(model))


WRAPPED = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_left_out(name: str, make_model, tmp_path: Path) -> None:
    model = make_model()
    save(WRAPPED[name](model), tmp_path / "m.pth")
    assert torch.equal(logits(load(tmp_path / "m.pth")), logits(model))


def compiled_in_place(model) -> None:
    model.compile(backend="eager")


def compiled_forward(model) -> None:
    model.forward = torch.compile(model.forward, backend="eager")


def parallel_features(model) -> None:
    model.features = nn.DataParallel(model.features)


def compiled_classifier(model) -> None:
    model.classifier = torch.compile(model.classifier, backend="eager")


def weight_norm(model) -> None:
    parametrizations.weight_norm(model.features[4])


def old_weight_norm(model) -> None:
    nn.utils.weight_norm(model.features[4])


def spectral_norm(model) -> None:
    parametrizations.spectral_norm(model.classifier[0])


def old_spectral_norm(model) -> None:
    nn.utils.spectral_norm(model.classifier[0])


def other_dropout(model) -> None:
    model.classifier[2], model.classifier[5] = nn.Dropout(0.1), nn.Identity()


def not_in_place(model) -> None:
    model.features[2] = nn.ReLU()


def observed(model) -> None:
    model.features[2].register_forward_hook(lambda *_: None)


def without_bias(model) -> None:
    model.features[0].bias = None


def batch_norm_without_scale(model) -> None:
    model.features[1] = nn.BatchNorm2d(8, affine=False).eval()


def counted_by_thop(model) -> None:
    model.features[0].register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))


def float_counter(model) -> None:
    model.features[1].num_batches_tracked = torch.tensor(3.0)


def in_channels_last(model) -> None:
    model.to(memory_format=torch.channels_last)


def frozen_and_training(model) -> None:
    model.train().requires_grad_(False)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:.*weight_norm")
@pytest.mark.parametrize(
    "change",
    [
        compiled_in_place, compiled_forward, parallel_features, compiled_classifier,
        weight_norm, old_weight_norm, spectral_norm,
        old_spectral_norm, other_dropout, not_in_place, observed, without_bias,
        batch_norm_without_scale, counted_by_thop, float_counter, in_channels_last,
        frozen_and_training,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_what_loses_nothing_is_done(change, make_model, tmp_path: Path) -> None:
    model = make_model()
    change(model)
    training = [part.training for part in model.modules()]
    hooks = [len(part._forward_hooks) for part in model.modules()]
    save(model, tmp_path / "m.pth")
    assert [part.training for part in model.modules()] == training
    assert [len(part._forward_hooks) for part in model.modules()] == hooks
    with torch.no_grad():
        expected = model.eval()(X)
    assert torch.allclose(logits(load(tmp_path / "m.pth")), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_cast(dtype: torch.dtype, make_model, tmp_path: Path) -> None:
    model = make_model().to(dtype)
    save(model, tmp_path / "m.pth")
    again = load(tmp_path / "m.pth")
    assert all(value.dtype == torch.float32 for value in again.parameters())
    assert torch.equal(weights(again).float(), weights(model).float())
    assert next(model.parameters()).dtype == dtype


@pytest.mark.parametrize("make", ["linear", "last", "deeper", "dropout first", "narrower"])
def test_the_spec_follows_the_modules(make: str, tmp_path: Path, caplog) -> None:
    model = lively(replace(SMALL, hidden=()) if make in ("linear", "deeper") else SMALL)
    del model.meta["classes"]
    torch.manual_seed(0)
    if make == "linear":
        model.classifier = nn.Linear(24, 100)
    elif make == "last":
        model.classifier[6] = nn.Linear(28, 3)
    elif make == "deeper":
        model.classifier = nn.Sequential(nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 7))
    elif make == "dropout first":
        model.classifier = nn.Sequential(nn.Dropout(), nn.Linear(24, 5))
    else:
        model.classifier[0], model.classifier[3] = nn.Linear(24, 11), nn.Linear(11, 28)
    model.eval()
    spec = model.spec
    with caplog.at_level(logging.INFO, "tp_vgg"):
        save(model, tmp_path / "m.pth")
    again = load(tmp_path / "m.pth")
    assert torch.equal(logits(again), logits(model))
    assert again.spec.num_classes == logits(model).shape[1]
    assert model.spec == spec != again.spec
    assert "differ from its spec" in caplog.text


def test_class_names_that_no_longer_fit_are_refused(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.classifier[6] = nn.Linear(28, 3)
    said = refused(model, tmp_path / "m.pth", "meta: classes: 10 names.*3 classes")
    assert "model.meta['classes']" in said and "m.pth" in said
    model.meta["classes"] = ["a", "b", "c"]
    save(model, tmp_path / "m.pth")
    assert load(tmp_path / "m.pth").meta["classes"] == ["a", "b", "c"]


class Shade(enum.IntEnum):
    DARK = 3


PLAIN = {
    "tuple": ((1, (2, 3)), [1, [2, 3]]),
    "float32": (np.float32(0.5), 0.5),
    "int64": (np.int64(7), 7),
    "bool": (np.bool_(True), True),
    "array": (np.arange(3), [0, 1, 2]),
    "scalar tensor": (torch.tensor(2.5), 2.5),
    "tensor": (torch.tensor([[1, 2]]), [[1, 2]]),
    "path": (Path("a/b"), "a/b"),
    "version": (torch.__version__, str(torch.__version__)),
    "keys": ({0: "a", 1.5: "b"}, {"0": "a", "1.5": "b"}),
    "enum": (Shade.DARK, 3),
    "size": (torch.Size([1, 2]), [1, 2]),
    "text": (np.str_("x"), "x"),
    "nothing": (None, None),
}


def check_plain(value: object) -> None:
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        list(map(check_plain, value.values()))
    elif isinstance(value, list):
        list(map(check_plain, value))
    else:
        assert type(value) in (str, int, float, bool, type(None))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("case", PLAIN)
def test_meta_is_made_plain(case: str, suffix: str, make_model, tmp_path: Path) -> None:
    model = make_model()
    value, plain = PLAIN[case]
    model.meta["note"] = {"inside": value}
    save(model, tmp_path / f"m{suffix}")
    found = load(tmp_path / f"m{suffix}").meta["note"]["inside"]
    assert found == plain
    check_plain(found)
    assert model.meta["note"]["inside"] is value


@pytest.mark.parametrize(
    "mean",
    [
        (0.5, 0.5, 0.5), [0, 1, 0], np.full(3, 0.5), torch.full((3, 1, 1), 0.5),
        torch.full((1, 3, 1, 1), 0.5), [np.float32(0.5)] * 3,
    ],
    ids=["tuple", "ints", "array", "tensor", "image tensor", "float32"],
)  # fmt: skip
def test_the_normalisation_becomes_three_floats(mean, make_model, tmp_path: Path) -> None:
    model = make_model()
    model.meta.update(mean=mean, std=(1, 2, 3), classes=range(10))
    model.meta["classes"] = tuple(range(10))
    save(model, tmp_path / "m.pth")
    meta = load(tmp_path / "m.pth").meta
    assert meta["mean"] == np.asarray(mean).flatten().tolist()
    assert all(type(value) is float for value in [*meta["mean"], *meta["std"]])
    assert meta["classes"] == list("0123456789")


CYCLE: list = []
CYCLE.append(CYCLE)
SHARED: list = []
LONG_SHARED: list = ["x" * 100_000] * 100
for _ in range(28):
    SHARED = [SHARED, SHARED]
    LONG_SHARED = [LONG_SHARED, LONG_SHARED]
UNPLAIN = {
    "object": (object(), "meta: note: an object"),
    "set": ({1}, "meta: note: a set can't be saved"),
    "function": (print, "meta: note: a builtin_function_or_method"),
    "module": (nn.ReLU(), "meta: note: a ReLU"),
    "complex": (1j, "meta: note: a complex"),
    "bytes": (b"x", "meta: note: bytes"),
    "large": (torch.zeros(20_000), "meta: note: 20000 numbers"),
    "on meta": (torch.zeros(3, device="meta"), "meta: note"),
    "cycle": (CYCLE, "meta: note: nested over"),
    "key": ({(1, 2): 3}, r"meta: note: the key \(1, 2\) is a tuple"),
    "two keys": ({1: 2, "1": 3}, "meta: note: the key '1' is there twice"),
    "long": ("x" * (2 << 20), "meta: note: over 1 MiB"),
    "shared": (SHARED, "meta: note: over 1 MiB"),
    "shared texts": (LONG_SHARED, "meta: note: over 1 MiB"),
    "empty rows": (np.empty((10**9, 0)), "meta: note: 1000000000 numbers"),
    "huge key": ({10**5000: 1}, "meta: note: a key of over 128 bits"),
    "huge": (10**5000, "meta: note: an integer of over 128 bits"),
}


@pytest.mark.parametrize("case", UNPLAIN)
def test_meta_that_can_not_be_plain_is_refused(case: str, make_model, tmp_path: Path) -> None:
    model = make_model()
    value, said = UNPLAIN[case]
    model.meta["note"] = value
    refused(model, tmp_path / "m.pth", said)


def in_place(name: str, make):
    def change(model) -> None:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, make())

    return change


def inserted(index: int, make):
    return lambda model: model.features.insert(index, make())


def doubling(model) -> None:
    model.features[0].register_forward_hook(lambda _m, _i, output: 2 * output)


def prepared(model) -> None:
    model.register_forward_pre_hook(lambda _m, inputs: (inputs[0] / 2,))


def epsilon(model) -> None:
    model.features[1].eps = 0.1


def no_statistics(model) -> None:
    model.features[1] = nn.BatchNorm2d(8, track_running_stats=False)


def own_forward(model) -> None:
    class Own(type(model)):
        def forward(self, x):
            return super().forward(x).relu()

    model.__class__ = Own


def replaced_forward(model) -> None:
    model.features[2].forward = lambda x: x.abs()


EDITS = {
    "average pool": (in_place("features.28", lambda: nn.AvgPool2d(2)), r"features\.28: AvgPool2d"),
    "leaky": (in_place("features.2", lambda: nn.LeakyReLU(0.1)), r"features\.2: LeakyReLU"),
    "no activation": (in_place("features.2", nn.Identity), r"features\.2: Identity"),
    "padding": (
        in_place("features.0", lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")),
        r"features\.0: Conv2d\(3, 8.*circular",
    ),
    "dilation": (
        in_place("features.0", lambda: nn.Conv2d(3, 8, 3, padding=2, dilation=2)),
        r"features\.0: Conv2d.*dilation",
    ),
    "stride": (
        in_place("features.3", lambda: nn.MaxPool2d(3, 2, padding=1)),
        r"features\.3: MaxPool2d\(kernel_size=3",
    ),
    "kernel": (
        in_place("features.0", lambda: nn.Conv2d(3, 8, 5, padding=2)),
        r"features\.0\.weight: shape \[8, 3, 5, 5\]",
    ),
    "inserted": (inserted(3, nn.Tanh), r"features\.3: Tanh"),
    "appended": (lambda m: m.features.append(nn.Tanh()), r"features\.29: Tanh"),
    "extra weights": (
        lambda m: m.features.append(nn.GroupNorm(1, 24)),
        r"features\.29\.weight: not a tensor of vgg11_bn",
    ),
    "hook": (doubling, "features.0: has a forward hook"),
    "pre-hook": (prepared, "model: has a forward hook"),
    "epsilon": (epsilon, r"features\.1: BatchNorm2d\(8, eps=0.1"),
    "no statistics": (no_statistics, r"features\.1: batch norm without running statistics"),
    "softmax": (
        lambda m: m.classifier.append(nn.Softmax(1)),
        r"classifier\.7: Softmax",
    ),
    "own forward": (own_forward, r"Own\.forward"),
    "replaced forward": (replaced_forward, r"features\.2: its forward was replaced"),
    "missing": (lambda m: delattr(m, "avgpool"), "avgpool: missing"),
    "fewer convs": (lambda m: m.features.__delitem__(25), "7 convs"),
    "no head": (in_place("classifier", nn.Identity), "0 linears"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_a_module_that_computes_something_else_is_refused(
    case: str, make_model, tmp_path: Path
) -> None:
    model = make_model()
    change, said = EDITS[case]
    change(model)
    model.eval()
    assert "m.pth: not saved: " in refused(model, tmp_path / "m.pth", said)


def test_the_fix_for_an_edited_module_works(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.features[28] = nn.AvgPool2d(2)
    assert "export(model, path, 'torch')" in refused(model, tmp_path / "m.pth", "AvgPool2d")
    assert export(model, str(tmp_path / "m.pt2"), "torch") < 1e-4
    assert (tmp_path / "m.pt2").exists()


def corrupted(name: str, value: float):
    def change(model) -> None:
        with torch.no_grad():
            model.state_dict()[name].view(-1)[0] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (corrupted("features.4.weight", float("nan")), r"features\.4\.weight: holds NaN"),
        (corrupted("classifier.6.bias", float("inf")), r"classifier\.6\.bias: holds NaN"),
        (corrupted("features.1.running_var", -1.0), r"running_var: holds a variance below 0"),
        (lambda m: m.meta.pop("mean"), "meta: mean"),
        (lambda m: m.meta.update(std=[0, 1, 1]), "meta: std"),
        (lambda m: m.meta.update(mean=[0.5]), "meta: mean"),
        (lambda m: m.meta.update(classes="cat"), "meta: classes"),
        (lambda m: m.kept.update({"features.0": [1, 2]}), r"kept: features\.0: must be 8"),
        (lambda m: m.kept.update({"other": [1]}), "kept: 'other'"),
        (lambda m: setattr(m, "kept", [1]), "kept: must be an object"),
        (lambda m: setattr(m, "meta", None), r"\.meta must be a dict"),
        (lambda m: setattr(m, "spec", {"widths": [1]}), r"\.spec a tp_vgg.VGGSpec"),
        (lambda m: delattr(m, "kept"), r"has no \.kept"),
        (lambda m: m.to("meta"), "on the meta device and has no values"),
        (lambda m: [nn.init.zeros_(p) for p in m.parameters()], "every parameter is zero"),
    ],
)
def test_what_load_refuses_is_not_written(change, said: str, make_model, tmp_path: Path) -> None:
    model = make_model()
    change(model)
    for suffix in (".pth", ".sparse"):
        refused(model, tmp_path / f"m{suffix}", said)


def test_a_double_beyond_float32_is_refused(make_model, tmp_path: Path) -> None:
    model = make_model().double()
    corrupted("classifier.6.weight", 1e300)(model)
    refused(model, tmp_path / "m.pth", r"classifier\.6\.weight: holds NaN or infinity")


def holder():
    outer = nn.Module()
    outer.net = lively()
    return outer


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("m.pth", "model: must be a network of .*got a string"),
        (None, "got null"),
        ({"features.0.weight": torch.zeros(1)}, "got an object"),
        (nn.Linear(2, 2), "Linear is not a network of tp_vgg; .*torch-pruning directly"),
        (holder(), r"it holds one: give model\.net"),
    ],
)
def test_what_is_no_network_is_refused(model: object, said: str, tmp_path: Path) -> None:
    refused(model, tmp_path / "m.pth", said)


@pytest.mark.parametrize("path", [None, 3, io.BytesIO()], ids=["none", "number", "file"])
def test_a_path_is_a_name(path: object, make_model) -> None:
    with pytest.raises(BadInput, match=r"path: .* is not a path"):
        save(make_model(), path)


def test_missing_directories_are_made(make_model, tmp_path: Path) -> None:
    save(make_model(), str(tmp_path / "a" / "b" / "m.pth"))
    assert load(tmp_path / "a" / "b" / "m.pth").spec == SMALL


@pytest.mark.parametrize("name", VARIANTS)
def test_a_pruned_and_masked_network_comes_back(name: str, tmp_path: Path) -> None:
    spec = VARIANTS[name]
    model = lively(spec)
    prune_structured(model, {"features.0": 0.5})
    prune.l1_unstructured(model.get_submodule(spec.conv_names[2]), "weight", 0.5)
    model.kept = {layer: np.array(indices) for layer, indices in model.kept.items()}
    with torch.inference_mode():
        save(model, tmp_path / "m.pth")
    again = load(tmp_path / "m.pth")
    assert again.spec == model.spec
    assert all(type(index) is int for indices in again.kept.values() for index in indices)
    assert torch.equal(logits(again), expected_of_masked(model))


def test_an_unreadable_hook_is_refused_in_one_line(make_model, tmp_path: Path) -> None:
    class Logger:
        def __init__(self) -> None:
            self.file = Path("/dev/null").open("w")  # noqa: SIM115

        def hook(self, *_: object) -> None:
            """Do nothing."""

    model, logger = make_model(), Logger()
    model.features[0].register_forward_hook(logger.hook)
    refused(model, tmp_path / "m.pth", "can't be copied .*; remove the hooks")
    logger.file.close()


class Bounded(nn.Module):
    """An author's activation, which is ReLU up to 6."""

    def forward(self, x):
        return nn.functional.relu6(x)


class Nearly(nn.Module):
    """An author's activation that noise can't tell from ReLU."""

    def forward(self, x):
        return nn.functional.leaky_relu(x, 1e-7)


class Same(nn.Module):
    """An author's activation that is ReLU."""

    def forward(self, x):
        return x * (x > 0)


ALMOST = {
    "ReLU6": nn.ReLU6,
    "Hardtanh": lambda: nn.Hardtanh(0, 100),
    "wide Hardtanh": lambda: nn.Hardtanh(0, 1e9),
    "LeakyReLU": lambda: nn.LeakyReLU(1e-5),
    "smallest LeakyReLU": lambda: nn.LeakyReLU(1e-9),
    "sharp Softplus": lambda: nn.Softplus(1e4),
    "Bounded": Bounded,
    "Nearly": Nearly,
}
EQUAL = {
    "ReLU": nn.ReLU,
    "Threshold": lambda: nn.Threshold(0, 0),
    "LeakyReLU of 0": lambda: nn.LeakyReLU(0.0),
    "unbounded Hardtanh": lambda: nn.Hardtanh(0, float("inf")),
    "Same": Same,
}


@pytest.mark.parametrize("place", [2, 10])
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("case", ALMOST)
def test_an_activation_that_is_relu_on_some_images_only_is_refused(
    case: str, small: bool, place: int, tmp_path: Path
) -> None:
    model = lively()
    if small:
        model.features[1].weight.data.mul_(1e-3)
    model.features[place] = ALMOST[case]()
    refused(model, tmp_path / "m.pth", rf"features\.{place}: .*other logits")
    with pytest.raises(BadInput, match=rf"features\.{place}: "):
        prune_structured(model, {"features.0": 0.5})


@pytest.mark.parametrize("case", EQUAL)
def test_an_activation_that_is_relu_is_saved(case: str, tmp_path: Path) -> None:
    model = lively()
    for place in (2, 6):
        model.features[place] = EQUAL[case]()
    save(model, tmp_path / "m.pth")
    assert torch.equal(logits(load(tmp_path / "m.pth")), logits(model))
    assert not model.features[2]._forward_hooks


def hold(model, name: str, value: object) -> None:
    setattr(model, name, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: hold(m, "cache", [m(X)]), "model: attribute cache: can't be copied"),
        (lambda m: hold(m, "lock", threading.Lock()), "model: attribute lock: can't be"),
        (
            lambda m: hold(m.features[4], "lock", {"a": threading.Lock()}),
            r"features\.4: attribute lock: can't be copied",
        ),
    ],
)
def test_an_attribute_that_cannot_be_copied_is_named(change, said: str, tmp_path: Path) -> None:
    model = lively()
    change(model)
    refused(model, tmp_path / "m.pth", said)


def test_a_counter_of_one_element_is_saved(tmp_path: Path) -> None:
    model = lively()
    model.features[1].num_batches_tracked = torch.tensor([3])
    save(model, tmp_path / "m.pth")
    assert torch.equal(load(tmp_path / "m.pth").features[1].num_batches_tracked, torch.tensor(3))
