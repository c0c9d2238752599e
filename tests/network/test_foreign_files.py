"""Checkpoints that others wrote load with the author's logits and a note, or are refused."""

from __future__ import annotations

import argparse
import gzip
import io
import re
import tarfile
import warnings
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

from tp_vgg.errors import BadInput
from tp_vgg.network.checkpoint import is_foreign, load, save
from tp_vgg.network.vgg.spec import STAGES

X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WIDTHS = {11: (8, 12, 16, 16, 20, 20, 24, 24), 13: (8, 8, 12, 12, 16, 16, 20, 20, 24, 24)}
LAST = 24


def conv(before: int, width: int, *, norm: str | None, bias: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(before, width, 3, padding=1, bias=bias)]
    if norm:
        layers.append(nn.BatchNorm2d(width, affine=norm != "plain"))
    return [*layers, nn.ReLU()]


def blocks(depth: int = 11, **options) -> list[list[list[nn.Module]]]:
    """The layers of each conv, by stage."""
    widths = iter(WIDTHS[depth])
    before, stages = 3, []
    for length in STAGES[depth]:
        stage = []
        for width in [next(widths) for _ in range(length)]:
            stage.append(conv(before, width, **{"norm": "bn", **options}))
            before = width
        stages.append(stage)
    return stages


def flat(stages, between=lambda: [nn.MaxPool2d(2)]) -> nn.Sequential:
    """All convs in one Sequential, the layers of ``between`` behind each stage."""
    layers: list[nn.Module] = []
    for stage in stages:
        layers += [layer for block in stage for layer in block]
        layers += between()
    return nn.Sequential(*layers)


def linear(bias: bool = True, first: int = LAST) -> list[nn.Linear]:
    return [nn.Linear(a, b, bias) for a, b in ((first, 20), (20, 20), (20, 10))]


class Net(nn.Module):
    """The usual network of an author: features, a flat map, a head under any name."""

    def __init__(self, features=None, head=None, name="classifier", side=1, **options):
        super().__init__()
        self.features = features or flat(blocks(**options))
        self.side, self.name = side, name
        setattr(self, name, head or nn.Linear(LAST * side**2, 10))

    def forward(self, x):
        maps = nn.functional.adaptive_avg_pool2d(self.features(x), self.side)
        return getattr(self, self.name)(maps.flatten(1))


class Fcs(nn.Module):
    """A head of linears that are attributes, with ReLU in forward."""

    def __init__(self, *names: str, bias: bool = True):
        super().__init__()
        self.names = names
        for name, layer in zip(names, linear(bias), strict=True):
            setattr(self, name, layer)

    def forward(self, x):
        for name in self.names[:-1]:
            x = getattr(self, name)(x).relu()
        return getattr(self, self.names[-1])(x)


class Staged(nn.Module):
    """Stages under names of their own, and fc."""

    def __init__(self, make, norm="bn"):
        super().__init__()
        self.stages = []
        for number, stage in enumerate(blocks(norm=norm), 1):
            for name, module in make(number, stage).items():
                setattr(self, name, module)
                self.stages.append(module)
            self.stages.append(nn.MaxPool2d(2))
        self.fc = nn.Linear(LAST, 10)

    def forward(self, x):
        for module in self.stages:
            x = module(x)
        return self.fc(x.flatten(1))


class Normalised(nn.Module):
    """A network that normalises its images."""

    def __init__(self):
        super().__init__()
        self.net = Net()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1))

    def forward(self, x):
        return self.net((x - self.mean) / self.std)


def caffe(number, stage):
    layers = {}
    for i, (one, norm, relu) in enumerate(stage, 1):
        layers |= {f"conv{number}_{i}": one, f"bn{number}_{i}": norm, f"relu{number}_{i}": relu}
    return layers


def blocked(number, stage):
    return {f"block{number}": nn.Sequential(*[layer for block in stage for layer in block])}


def named(number, stage):
    parts = OrderedDict()
    for i, (one, norm, relu) in enumerate(stage, 1):
        parts |= {f"conv{i}": one, f"bn{i}": norm, f"relu{i}": relu}
    return {f"stage{number}": nn.Sequential(parts)}


def in_rows() -> nn.Sequential:
    """Each conv with its batch norm and ReLU in a Sequential of its own."""
    layers: list[nn.Module] = []
    for stage in blocks():
        layers += [*(nn.Sequential(*block) for block in stage), nn.MaxPool2d(2)]
    return nn.Sequential(*layers)


def head(before=(), between=(nn.ReLU,), **options) -> nn.Sequential:
    """Three linears in a Sequential, with layers before the first and between."""
    first, *rest = linear(**options)
    layers = [*(make() for make in before), first]
    for layer in rest:
        layers += [*(make() for make in between), layer]
    return nn.Sequential(*layers)


def seq(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every tensor affects the logits, which are of order 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif value.ndim > 1 and "mask" not in name and value.numel() > 3:
                fan = value[0].numel()
                value.normal_(0, (2 / fan) ** 0.5, generator=generator)
            elif value.ndim == 1 and value.is_floating_point() and "mask" not in name:
                value.normal_(0.3, 0.3, generator=generator)
    return model.eval()


def masked(model: nn.Module) -> nn.Module:
    for module in lively(model).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(module, "weight", 0.5)
            prune.random_unstructured(module, "bias", 0.3)
    return model.eval()


def normed(model: nn.Module, apply) -> nn.Module:
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            apply(module)
    return model


def old_weight_norm(module):
    import warnings

    from torch.nn.utils import weight_norm

    with warnings.catch_warnings(action="ignore"):
        weight_norm(module)


AUTHORS = {
    "torchvision": (Net, None),
    "without batch norm": (lambda: Net(norm=None), None),
    "VGG-13": (lambda: Net(depth=13), None),
    "7x7 head": (lambda: Net(side=7), "head folded"),
    "DataParallel": (lambda: nn.DataParallel(Net()), "'module.' removed"),
    "compiled": (lambda: torch.compile(Net(), backend="eager"), "'_orig_mod.' removed"),
    "compiled DataParallel": (
        lambda: nn.DataParallel(torch.compile(Net(), backend="eager")),
        "'module.' and '_orig_mod.' removed",
    ),
    "DataParallel on features": (
        lambda: Net(nn.DataParallel(flat(blocks()))),
        "'module.' removed",
    ),
    "SWA": (lambda: torch.optim.swa_utils.AveragedModel(Net()), "dropped.*'n_averaged'"),
    "prefix of a Sequential": (
        lambda: seq(OrderedDict(backbone=Net())),
        r"names: 'backbone\.' in front of every name removed",
    ),
    "two prefixes": (
        lambda: seq(OrderedDict(model=seq(OrderedDict(vgg=Net())))),
        r"'model\.vgg\.' in front",
    ),
    "masks": (
        lambda: masked(Net(head=head())),
        r"masks of torch.nn.utils.prune applied to 22 tensors \(\d\d\.\d% of",
    ),
    "weight norm": (
        lambda: normed(Net(), parametrizations.weight_norm),
        "weight norm applied to 9 layers",
    ),
    "old weight norm": (lambda: normed(Net(), old_weight_norm), "weight norm applied to 9 layers"),
    "convs without bias": (lambda: Net(bias=False), "without a bias.*'features.0'"),
    "last linear without bias": (
        lambda: Net(head=nn.Linear(LAST, 10, bias=False)),
        "without a bias.*'classifier'",
    ),
    "hidden linears without bias": (
        lambda: Net(head=Fcs("fc1", "fc2", "fc3", bias=False)),
        "without a bias.*fc1.*fc2.*fc3",
    ),
    "batch norm without scale": (lambda: Net(norm="plain"), "without scale and shift get 1 and 0"),
    "dropout first": (
        lambda: Net(
            head=head([nn.Dropout], [nn.ReLU, nn.Dropout])
        ),
        "'classifier.1', 'classifier.4', 'classifier.7' read as 'classifier.0'",
    ),
    "no dropout": (
        lambda: Net(head=head()),
        "'classifier.0', 'classifier.2', 'classifier.4' read as",
    ),
    "fc": (lambda: Net(name="fc"), "head: 'fc' read as 'classifier'"),
    "linear": (lambda: Net(name="linear"), "head: 'linear' read"),
    "Sequential of one": (lambda: Net(head=seq(nn.Linear(LAST, 10))), "'classifier.0' read as"),
    "classifier.fc": (
        lambda: Net(head=seq(OrderedDict(drop=nn.Dropout(), fc=nn.Linear(LAST, 10)))),
        "'classifier.fc' read as",
    ),
    "fc1, fc2, fc3": (lambda: Net(head=Fcs("fc1", "fc2", "fc3"), name="top"), "'top.fc1'"),
    "names without numbers": (lambda: Net(head=Fcs("b", "a", "out")), "'classifier.b'"),
    "one Sequential": (
        lambda: seq(*flat(blocks()), nn.Flatten(), nn.Linear(LAST, 10)),
        "convs: '0', '4', '8', ... read as 'features.0'",
    ),
    "layers": (
        lambda: seq(OrderedDict(layers=flat(blocks()), flat=nn.Flatten(), out=nn.Linear(LAST, 10))),
        "convs: 'layers.0', 'layers.4'",
    ),
    "dropout behind pools": (
        lambda: Net(flat(blocks(), lambda: [nn.MaxPool2d(2), nn.Dropout()])),
        "layout: VGG-11's is assumed",
    ),
    "a Sequential per conv": (lambda: Net(in_rows()), "layout: VGG-11's is assumed.*convs: 'f"),
    "caffe's names": (lambda: Staged(caffe), "layout.*convs: 'conv1_1', 'conv2_1', 'conv3_1'"),
    "a Sequential per stage": (lambda: Staged(blocked), "layout.*convs: 'block1.0'"),
    "named in stages": (lambda: Staged(named), "layout.*convs: 'stage1.conv1'"),
    "Sequentials in a Sequential": (
        lambda: seq(flat(blocks()), nn.Flatten(), head([nn.Dropout])),
        "convs: '0.0', '0.4', '0.8', ... read as",
    ),
    "double": (lambda: Net().double(), "rounded from float64 to float32"),
    "half": (lambda: Net().half(), "upcast from float16 to float32"),
    "bfloat16": (lambda: Net().bfloat16(), "upcast from bfloat16 to float32"),
}  # fmt: skip


def without_last_pool(**options) -> nn.Sequential:
    return nn.Sequential(*list(flat(blocks(**options)))[:-1])


class Slimming(nn.Module):
    """The VGG of network slimming: no last max-pool, an average pool in forward."""

    def __init__(self, name="feature", bias=False):
        super().__init__()
        self.name = name
        setattr(self, name, without_last_pool(bias=bias))
        self.classifier = nn.Linear(LAST, 10)

    def forward(self, x):
        return self.classifier(nn.functional.avg_pool2d(getattr(self, self.name)(x), 2).flatten(1))


class Timm(nn.Module):
    """timm's VGG: the head's linears are convs, but for the last."""

    def __init__(self):
        super().__init__()
        self.features = flat(blocks())
        convs = {"fc1": nn.Conv2d(LAST, 20, 7), "act1": nn.ReLU(), "fc2": nn.Conv2d(20, 20, 1)}
        self.pre_logits = seq(OrderedDict(convs, act2=nn.ReLU()))
        self.head = seq(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(20, 10)))

    def forward(self, x):
        maps = nn.functional.adaptive_avg_pool2d(self.features(x), 7)
        return self.head(self.pre_logits(maps))


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, lambda m: seq(OrderedDict(vgg=m))])
def test_the_vgg_of_network_slimming_is_refused_with_the_reason(wrap, file) -> None:
    with pytest.raises(
        BadInput, match=r"an average pool behind the last conv.*rename 'feature.' to"
    ):
        load(file(wrap(Slimming()).state_dict()))


def layout_notes(author: nn.Module, file) -> list[str]:
    return [n for n in load(file(author.state_dict())).meta["notes"] if n.startswith("layout")]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Net(without_last_pool()),
        lambda: Slimming("features"),
        lambda: Slimming(bias=True),
        lambda: Net(),
        lambda: Net(norm=None),
        lambda: Net(head=head(between=[nn.Identity, nn.Identity])),
        lambda: Net(without_last_pool(), head([nn.Dropout], [nn.ReLU, nn.Dropout])),
        lambda: Net(head=nn.Linear(LAST * 49, 10), side=7),
    ],
)
def test_what_no_name_shows_is_said_to_be_assumed_in_one_note(make, file) -> None:
    """An average pool in place of the last max-pool leaves no trace in a state dict."""
    author = make()
    (note,) = layout_notes(author, file)
    assert "max-pool behind convs 1, 2, 4, 6, 8, also behind the last one (an average pool" in note
    hidden = any(re.search(r"classifier\.[1-9]", name) for name in author.state_dict())
    assert ("with ReLU between them" in note) == hidden
    norms = any("running_mean" in name for name in author.state_dict())
    assert ("eps 1e-5" in note) == norms


def test_nothing_is_assumed_of_torchvisions_own_names(file) -> None:
    first, *rest = head(between=[nn.ReLU, nn.Dropout])
    author = Net(head=seq(nn.Linear(LAST * 49, first.out_features), *rest), side=7)
    assert layout_notes(author, file) == []


def test_timms_head_is_read(file) -> None:
    author = lively(Timm())
    model = load(file(author.state_dict()), mean=[0.5] * 3, std=[0.5] * 3, image_size=64)
    assert model.spec.pool == 7
    images = torch.rand(2, 3, 64, 64)
    check(model, author, "head: timm's 'pre_logits'", images)
    check(load(file(author.state_dict())), author, "head folded")


def test_a_mask_leaves_no_negative_zeros(file) -> None:
    model = load(file(masked(Net()).state_dict()))
    for value in model.parameters():
        assert not (value.signbit() & (value == 0)).any()


def logits(model: nn.Module, images: torch.Tensor = X) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(images)


def check(model, author: nn.Module, note: str | None = None, images=X) -> None:
    torch.testing.assert_close(
        logits(model, images), logits(author.float(), images), rtol=1e-5, atol=2e-5
    )
    if note:
        assert re.search(note, "; ".join(model.meta["notes"])), model.meta["notes"]
    assert is_foreign(model)


@pytest.fixture
def file(tmp_path: Path):
    def write(value: object, name: str = "m.pth", **options) -> Path:
        torch.save(value, tmp_path / name, **options)
        return tmp_path / name

    return write


@pytest.mark.parametrize("case", AUTHORS)
def test_an_authors_network_loads_with_its_logits_and_a_note(case: str, file) -> None:
    make, note = AUTHORS[case]
    author = make()
    lively(author) if case != "masks" else author
    expected = logits(author.float()).std()
    assert expected > 0.01
    author = author.to({"double": torch.float64, "half": torch.float16}.get(case, torch.float32))
    author = author.bfloat16() if case == "bfloat16" else author
    check(load(file(author.state_dict())), author, note)


def test_masks_may_be_bool(file) -> None:
    author = masked(Net())
    state = {k: v.bool() if k.endswith("_mask") else v for k, v in author.state_dict().items()}
    check(load(file(state)), author, "masks")


@pytest.mark.parametrize("case", ["torchvision", "masks", "dropout first", "caffe's names", "fc"])
def test_safetensors_get_the_same_treatment(case: str, tmp_path: Path) -> None:
    make, note = AUTHORS[case]
    author = make() if case == "masks" else lively(make())
    path = tmp_path / "m.safetensors"
    save_file({name: value.clone() for name, value in author.state_dict().items()}, path)
    check(load(path), author, note)


def test_linears_whose_order_safetensors_lost_are_refused(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in Net(head=Fcs("b", "a", "out")).state_dict().items()}
    state["classifier.b.weight"] = torch.randn(24, 24)
    state["classifier.b.bias"] = torch.randn(24)
    state["classifier.a.weight"] = torch.randn(24, 24)
    state["classifier.a.bias"] = torch.randn(24)
    state["classifier.out.weight"] = torch.randn(10, 24)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(BadInput, match="linears that do not read each other in one clear order"):
        load(tmp_path / "m.safetensors")


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    made = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(X).sum().backward()
    made.step()
    return made


WRAPPED = {
    "state_dict": (lambda s, _: {"epoch": 1, "state_dict": s, "best_prec1": 92.3}, "'state_dict'"),
    "model": (lambda s, _: {"model": s}, "'model'"),
    "net": (lambda s, _: {"net": s, "acc": 92.3, "epoch": 147}, "'net'"),
    "model_state_dict": (
        lambda s, o: {"model_state_dict": s, "optimizer_state_dict": o, "loss": 0.1},
        "'model_state_dict'",
    ),
    "params": (lambda s, _: {"params": s}, "'params'"),
    "of a name of its own": (lambda s, o: {"my_vgg": s, "optimizer": o}, "'my_vgg'"),
    "two levels": (lambda s, o: {"checkpoint": {"model": s, "optimizer": o}}, "'checkpoint.model"),
    "model's name beside": (lambda s, _: {"model": "vgg11_bn", "state_dict": s}, "'state_dict'"),
    "weights and their mean": (
        lambda s, _: {"ema": {k: v * 0 + 1 for k, v in s.items()}, "state_dict": s},
        "'state_dict'; the file also has 'ema', not read",
    ),
    "mean only": (lambda s, _: {"ema_state_dict": s, "decay": 0.999}, "'ema_state_dict'"),
    "flat": (lambda s, o: {**s, "epoch": 3, "optimizer": o}, "not read: 'epoch', 'optimizer'"),
    "objects beside": (
        lambda s, _: {
            "state_dict": s,
            "best_acc": np.float64(0.93),
            "args": argparse.Namespace(lr=0.1, out=Path("x")),
            "history": defaultdict(list, loss=[np.float32(1.0)]),
            "rng": np.ones(3),
            "device": torch.device("cpu"),
            "size": torch.Size([3]),
        },
        "'state_dict'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("case", WRAPPED)
def test_a_state_dict_is_found_among_what_training_saves(case: str, protocol: int, file) -> None:
    author = lively(Net())
    made = optimizer(author).state_dict()
    author.zero_grad()
    wrap, note = WRAPPED[case]
    path = file(wrap(author.state_dict(), made), "m.pth.tar", pickle_protocol=protocol)
    check(load(path), author, note)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch_save_loads(protocol: int, archive: bool, file) -> None:
    author = lively(Net(head=head()))
    path = file(
        {"state_dict": author.state_dict(), "tags": {"a", "b"}, "blob": b"x" * 300},
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=archive,
    )
    check(load(path), author)


COUNTERS = {
    "float": lambda t: t.float() + 3,
    "int32": torch.Tensor.int,
    "one element": lambda t: t.view(1),
}


@pytest.mark.parametrize("case", COUNTERS)
def test_a_counter_of_another_kind_is_no_fault(case: str, file) -> None:
    author = lively(Net())
    state = {
        k: COUNTERS[case](v) if k.endswith("num_batches_tracked") else v
        for k, v in author.state_dict().items()
    }
    model = load(file(state))
    check(model, author, "num_batches_tracked converted to one int64 number")
    assert model.features[1].num_batches_tracked.dtype == torch.int64
    assert model.features[1].num_batches_tracked.shape == ()


def test_counters_of_a_profiler_and_a_loss_are_dropped(file) -> None:
    author = lively(Net())
    extras = ("total_ops", "features.total_ops", "features.0.total_ops", "classifier.total_params")
    state = {**author.state_dict(), **{name: torch.zeros(1).double() for name in extras}}
    state["criterion.weight"] = torch.ones(10)
    check(load(file(state)), author, "dropped, not part of the network: 'total_ops'")


def test_without_a_hint_the_normalisation_and_size_are_said_to_be_assumed(file) -> None:
    model = load(file(Net().state_dict()))
    assert model.meta["mean"] == [0.4914, 0.4822, 0.4465] and model.spec.image_size == 32
    assert model.meta["notes"][0] == (
        "normalisation: CIFAR-10's is assumed (mean 0.4914,0.4822,0.4465, std "
        "0.247,0.2435,0.2616); give mean and std (--mean, --std) if it was trained with others"
    )
    assert "image size: 32 is assumed" in model.meta["notes"][1]


def test_given_values_are_taken_and_said(file) -> None:
    path = file(lively(Net(side=7)).state_dict())
    model = load(path, mean=(0.5, 0.4, 0.3), std=np.array([0.2, 0.25, 0.5]), image_size=64)
    assert (model.meta["mean"], model.meta["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.5])
    assert model.spec.image_size == 64 and model.spec.pool == 7
    assert model.meta["notes"][:2] == [
        "normalisation: mean 0.5,0.4,0.3, std 0.2,0.25,0.5, as given",
        "image size: 64, as given",
    ]
    assert not [note for note in model.meta["notes"] if "head folded" in note]


WRONG = {
    "no std": ({"mean": [0.5] * 3}, "std: missing; give both mean and std"),
    "no mean": ({"std": [0.5] * 3}, "mean: missing; give both"),
    "two": ({"mean": [0.5] * 2, "std": [0.5] * 3}, "mean: must be three finite numbers"),
    "nan": ({"mean": [0.5, 0.5, float("nan")], "std": [0.5] * 3}, "mean: must be three finite"),
    "text": ({"mean": "0.5", "std": [0.5] * 3}, "mean: must be three finite"),
    "number": ({"mean": 0.5, "std": [0.5] * 3}, "mean: must be three finite"),
    "zero": ({"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, "std: must be three numbers above 0"),
    "infinite": ({"mean": [0.5] * 3, "std": [float("inf")] * 3}, "std: must be three finite"),
    "small": ({"image_size": 31}, "image_size: 31: must be a whole number from 32 to 1024"),
    "large": ({"image_size": 2000}, "image_size: 2000: must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_refused_by_name(case: str, file) -> None:
    values, said = WRONG[case]
    with pytest.raises(BadInput, match=said):
        load(file(Net().state_dict()), **values)


def test_values_that_contradict_a_checkpoint_of_tp_vgg_are_refused(tmp_path: Path, file) -> None:
    model = load(file(Net().state_dict()), mean=[0.5] * 3, std=[0.25] * 3)
    save(model, tmp_path / "own.pth")
    again = load(tmp_path / "own.pth", mean=[0.5] * 3, std=[0.25] * 3, image_size=32)
    assert again.meta["mean"] == [0.5] * 3 and not is_foreign(again)
    with pytest.raises(BadInput, match=r"own\.pth: std: 0\.2,0\.2,0\.2 given, but the file says 0"):
        load(tmp_path / "own.pth", mean=[0.5] * 3, std=[0.2] * 3)
    with pytest.raises(BadInput, match=r"image_size: 64 given, but the file says 32; leave"):
        load(tmp_path / "own.pth", image_size=64)


def test_mean_std_and_classes_beside_the_weights_are_taken(file) -> None:
    names = [f"class {i}" for i in range(10)]
    extras = {"mean": (0.5, 0.4, 0.3), "std": [0.2, 0.25, 0.5], "classes": names}
    path = file({"state_dict": Net().state_dict(), **extras})
    model = load(path)
    assert (model.meta["mean"], model.meta["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.5])
    assert model.meta["classes"] == names
    assert "taken from the file" in model.meta["notes"][0]
    with pytest.raises(BadInput, match=r"mean: 0\.1,0\.1,0\.1 given, but the file says 0\.5,0"):
        load(path, mean=[0.1] * 3, std=[0.2, 0.25, 0.5])


def test_a_value_that_float32_rounds_is_no_contradiction(file) -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
    beside = {"mean": torch.tensor(mean), "std": torch.tensor(std)}
    path = file({"state_dict": Net().state_dict(), **beside})
    assert load(path, mean=mean, std=std).meta["mean"] == beside["mean"].tolist()
    with pytest.raises(BadInput, match=r"std: .* given, but the file says"):
        load(path, mean=mean, std=[0.247, 0.2435, 0.2617])


def test_a_network_that_normalises_its_images_gives_its_mean_and_std(file) -> None:
    author = lively(Normalised())
    model = load(file(author.state_dict()))
    assert model.meta["mean"] == pytest.approx([0.5, 0.4, 0.3])
    mean, std = (torch.tensor(model.meta[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        torch.testing.assert_close(model((X - mean) / std), author(X), rtol=1e-5, atol=2e-5)


def without(part: str):
    return lambda: {k: v for k, v in Net().state_dict().items() if part not in k}


def with_(**tensors):
    return lambda: {**Net().state_dict(), **tensors}


def flat_names() -> dict:
    state = {}
    convs = [layer for layer in Net(norm=None).features if isinstance(layer, nn.Conv2d)]
    for i, module in enumerate(convs):
        state |= {f"conv{i + 1}.weight": module.weight, f"conv{i + 1}.bias": module.bias}
    return {**state, "fc.weight": torch.ones(10, LAST), "fc.bias": torch.ones(10)}


def shifted(at: int) -> dict:
    """A pool is added before the conv of index ``at``."""
    layers = list(flat(blocks()))
    layers.insert(at, nn.MaxPool2d(2))
    return Net(nn.Sequential(*layers)).state_dict()


def early_relu() -> dict:
    stages = blocks()
    for stage in stages:
        for block in stage:
            block[1], block[2] = block[2], block[1]
    return Net(flat(stages)).state_dict()


def instance_norm() -> dict:
    stages = [
        [[layer if i != 1 else nn.InstanceNorm2d(1) for i, layer in enumerate(b)] for b in stage]
        for stage in blocks()
    ]
    return Net(flat(stages)).state_dict()


def no_statistics() -> dict:
    stages = blocks()
    for stage in stages:
        for block in stage:
            block[1] = nn.BatchNorm2d(block[0].out_channels, track_running_stats=False)
    return Net(flat(stages)).state_dict()


def from_torchvision(name: str, **options):
    def make():
        import torchvision

        with torch.device("meta"):
            model = getattr(torchvision.models, name)(**options)
        return {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in model.state_dict().items()}

    return make


REFUSED = {
    "ResNet": (from_torchvision("resnet18"), "looks like a ResNet.*torch_pruning.pruner.Magn"),
    "MobileNet": (from_torchvision("mobilenet_v2"), "looks like a MobileNet"),
    "DenseNet": (from_torchvision("densenet121"), "looks like a DenseNet"),
    "ViT": (from_torchvision("vit_b_32"), "looks like a vision transformer"),
    "AlexNet": (from_torchvision("alexnet"), "looks like an AlexNet"),
    "MLP": (lambda: head().state_dict(), "a network of linear layers only"),
    "9 convs": (
        lambda: Net(seq(*flat(blocks()), nn.Conv2d(LAST, LAST, 3))).state_dict(),
        "9 convs and 1 linears, where a VGG has 8, 10, 13 or 16",
    ),
    "no linear": (without("classifier"), "no linear layer"),
    "optimizer": (
        lambda: {"optimizer": optimizer(Net()).state_dict(), "epoch": 1},
        "holds only 'optimizer', 'epoch'",
    ),
    "bare optimizer": (lambda: optimizer(Net()).state_dict(), "state dict of an optimizer"),
    "empty": (dict, "an empty dict"),
    "list": (lambda: [1, 2], "a value of type list of 2"),
    "tensor": (lambda: torch.ones(3), r"one tensor of shape \[3\]"),
    "two state dicts": (
        lambda: {"teacher": Net().state_dict(), "student": Net().state_dict()},
        "several state dicts: 'teacher', 'student'",
    ),
    "whole module": (
        lambda: nn.Sequential(nn.ReLU()),
        r"holds pickled objects.*\('torch\.nn\.modules.*save its state_dict",
    ),
    "module in a wrapper": (lambda: {"model": Net(), "epoch": 3}, "save its state_dict instead"),
    "spectral norm": (
        lambda: normed(Net(), parametrizations.spectral_norm).state_dict(),
        "remove_parametrizations",
    ),
    "old spectral norm": (
        lambda: normed(Net(), torch.nn.utils.spectral_norm).state_dict(),
        "remove_spectral_norm",
    ),
    "mask without its tensor": (
        with_(**{"features.0.weight_mask": torch.ones(8, 3, 3, 3)}),
        "'?features.0.weight_mask'?: the layer computes",
    ),
    "no running statistics": (
        no_statistics,
        "needs track_running_stats=True.*: 'features.1.weight'",
    ),
    "batch norm in the head": (
        lambda: Net(head=head(between=[lambda: nn.BatchNorm1d(20), nn.ReLU])).state_dict(),
        "batch norm that is behind no conv, such as in the head: 'classifier.1'",
    ),
    "batch norm behind some convs": (without("features.1."), "batch norm behind some convs only"),
    "batch norm behind ReLU": (early_relu, "not directly behind its conv: 'features.0', 'featu"),
    "InstanceNorm": (instance_norm, "do not show a VGG-11's pools"),
    "a pool inside of a stage": (lambda: shifted(11), "do not show a VGG-11's pools"),
    "two pools behind a stage": (lambda: shifted(7), "do not show a VGG-11's pools"),
    "a layer before the first conv": (
        lambda: Net(seq(nn.MaxPool2d(2), *flat(blocks()))).state_dict(),
        "do not show a VGG-11's pools.*: 'features.1', 'features.5'",
    ),
    "a layer before the network": (
        lambda: seq(nn.InstanceNorm2d(3), Net()).state_dict(),
        "another layer in front, such as a normalisation; save the VGG's own state_dict",
    ),
    "a pool before each stage's convs": (
        lambda: Staged(
            lambda number, stage: {
                f"block{number}": seq(nn.Identity(), *blocked(number, stage)[f"block{number}"])
                if number > 1
                else blocked(number, stage)["block1"]
            }
        ).state_dict(),
        "do not show a VGG-11's pools",
    ),
    "convs named one after the other": (flat_names, "do not show a VGG-11's pools.*'conv1', 'co"),
    "PReLU": (
        with_(**{"features.2.weight": torch.ones(1)}),
        "tensors of no layer of a VGG: 'features.2.weight'",
    ),
    "1x1 conv": (
        lambda: {**Net().state_dict(), "features.11.weight": torch.ones(16, 16, 1, 1)},
        r"a kernel of \(1, 1\): 'features.11'",
    ),
    "grey images": (
        lambda: {**Net().state_dict(), "features.0.weight": torch.ones(8, 1, 3, 3)},
        "images of 1 channels, must be 3",
    ),
    "2x2 map": (
        lambda: Net(side=2).state_dict(),
        "classifier: 96 input columns for 24 channels; must be 24 or 1176",
    ),
    "two linears without ReLU": (
        lambda: Net(head=head(between=())).state_dict(),
        "linears that do not read each other in one clear order",
    ),
    "integers": (lambda: {k: v.int() for k, v in Net().state_dict().items()}, "dtype int32; must"),
    "float8": (
        lambda: {k: v.to(torch.float8_e4m3fn) for k, v in Net().state_dict().items()},
        "float8",
    ),
    "mean alone": (with_(mean=torch.ones(3)), "tensors of no layer of a VGG: 'mean'"),
    "mean of 0..255": (
        with_(mean=torch.ones(3) * 125, std=torch.ones(3)),
        r"mean in the file: 125,125,125 is of pixels in 0\.\.255",
    ),
    "control characters": (with_(**{"\x1b[31m\n": torch.ones(1)}), r"'\\x1b\[31m\\n'"),
    "long names": (with_(**{"a" * 500: torch.ones(1)}), r"'a{26}\.\.\."),
}


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_vgg_is_refused_in_one_line(case: str, file) -> None:
    make, said = REFUSED[case]
    path = file(make())
    with pytest.raises(BadInput, match=said) as refusal:
        load(path)
    line = str(refusal.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable() and line.isascii() and len(line) < len(str(path)) + 300


def onnx_bytes() -> bytes:
    return b"\x08\x08\x12\x07pytorch\x1a\x052.0.0" + bytes(100)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.ones(3))
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("m.pth"))
    return file.getvalue()


def safetensors() -> bytes:
    from safetensors.torch import save as to_bytes

    return to_bytes({"a": torch.ones(1)})


def script() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(nn.Linear(1, 1)), file)
    return file.getvalue()


def program() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(1, 1), (torch.ones(1, 1),)), file)
    return file.getvalue()


OTHERS = {
    "TorchScript": (script, r"TorchScript program; .*torch\.jit\.load\(PATH\)\.state_dict\(\)"),
    "torch.export": (program, r"torch\.export program; .*torch\.export\.load\(PATH\)\.state_dict"),
    "ONNX": (onnx_bytes, "an ONNX file"),
    "tar": (tar, "a tar archive; unpack it first"),
    "gzip": (lambda: gzip.compress(b"x"), "a gzip archive; unpack it first"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file, such as Keras writes"),
    "LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    "HTML": (lambda: b"\n<!DOCTYPE html><p>404", "an HTML page"),
    "npz": (npz, r"NumPy arrays \(\.npz\)"),
    "npy": (lambda: b"\x93NUMPY\x01\x00" + bytes(80), r"a NumPy array \(\.npy\)"),
    "safetensors": (safetensors, "rename it so that it ends in .safetensors"),
    "empty": (lambda: b"", "an empty file"),
    "pickle": (lambda: b"\x80\x04]\x94.", "a pickle that torch.save did not write"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", OTHERS)
def test_files_of_other_programs_are_named(case: str, tmp_path: Path) -> None:
    make, said = OTHERS[case]
    (tmp_path / "m.pth").write_bytes(make())
    with pytest.raises(BadInput, match=said):
        load(tmp_path / "m.pth")


def test_a_torch_file_under_the_name_of_safetensors_is_named(file) -> None:
    with pytest.raises(BadInput, match=r"if torch\.save wrote it, rename it to \.pth"):
        load(file(Net().state_dict(), "m.safetensors"))
