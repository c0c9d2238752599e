"""torchvision's VGG modules, and those laid out as they, become networks of tp_vgg."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import tp_vgg
from tp_vgg.data import Split
from tp_vgg.errors import BadInput
from tp_vgg.network.vgg.spec import ARCHS, VGGSpec


@pytest.fixture(scope="module", autouse=True)
def thin():
    """torchvision's VGGs at an eighth of their width."""
    with pytest.MonkeyPatch.context() as patch:
        cfgs = {
            key: [value if value == "M" else value // 8 for value in config]
            for key, config in torchvision.models.vgg.cfgs.items()
        }
        patch.setattr("torchvision.models.vgg.cfgs", cfgs)
        patch.setattr("torchvision.models.vgg.nn", SimpleNamespace(**vars(nn)))
        patch.setattr("torchvision.models.vgg.nn.Linear", Narrow)
        yield


class Narrow(nn.Linear):
    """A linear layer of torchvision's head at a fraction of its width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        inputs = {512 * 49: 64 * 49, 4096: 48}.get(inputs, inputs)
        super().__init__(inputs, 48 if outputs == 4096 else outputs)
        self.__class__ = nn.Linear


def theirs(arch: str = "vgg11_bn", classes: int = 1000) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(arch, num_classes=classes)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return model


def logits(model: nn.Module, side: int = 32) -> torch.Tensor:
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_arch_gives_the_same_logits(arch: str) -> None:
    model = theirs(arch, classes=7)
    ours = tp_vgg.from_torchvision(model)
    assert (ours.spec.arch, ours.spec.num_classes, ours.spec.pool) == (arch, 7, 7)
    assert torch.equal(logits(ours), logits(model))
    assert torch.equal(logits(ours, 64), logits(model, 64)), "the head is not folded"
    assert not ours.training and model.training


@pytest.mark.parametrize(
    "head",
    [
        lambda m: m.classifier.__setitem__(6, nn.Linear(48, 3)),
        lambda m: setattr(m, "classifier", nn.Sequential(nn.Linear(64 * 49, 5))),
        lambda m: setattr(m, "classifier", nn.Linear(64 * 49, 5)),
        lambda m: m.classifier.insert(0, nn.Dropout()),
        lambda m: (setattr(m, "avgpool", nn.AdaptiveAvgPool2d(1)),
                   setattr(m, "classifier", nn.Linear(64, 4))),
        lambda m: nn.utils.prune.l1_unstructured(m.features[4], "weight", 0.5),
        lambda m: setattr(m, "features", nn.DataParallel(m.features)),
        lambda m: m.double(),
    ],
    ids=["last", "sequential", "linear", "dropout", "global pool", "masked", "parallel", "double"],
)  # fmt: skip
def test_a_changed_head_a_mask_and_a_wrapper_are_no_obstacle(head) -> None:
    model = theirs()
    head(model)
    ours = tp_vgg.from_torchvision(nn.DataParallel(model))
    model = model.eval().float()
    with torch.no_grad():
        images = torch.randn(3, 3, 32, 32)
        assert torch.allclose(ours(images), model(images), rtol=1e-5, atol=1e-6)


def test_it_shares_no_memory_and_leaves_the_module_alone() -> None:
    model = theirs(classes=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours = tp_vgg.from_torchvision(model)
    with torch.no_grad():
        for value in ours.parameters():
            value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_normalisation_and_image_size_are_the_callers(tmp_path: Path) -> None:
    model = theirs(classes=4)
    ours = tp_vgg.from_torchvision(
        model, image_size=np.int64(64), mean=(0, 0.5, 1), std=np.full(3, 0.5)
    )
    assert (ours.spec.image_size, ours.meta["mean"]) == (64, [0.0, 0.5, 1.0])
    assert "notes" not in ours.meta
    tp_vgg.save(ours, tmp_path / "m.pth")
    assert torch.equal(logits(tp_vgg.load(tmp_path / "m.pth"), 64), logits(model, 64))
    assumed = tp_vgg.from_torchvision(model)
    assert assumed.meta["mean"] == [0.4914, 0.4822, 0.4465]
    normalisation, size = assumed.meta["notes"]
    assert "CIFAR-10" in normalisation and "image size assumed to be 32" in size
    assert tp_vgg.from_torchvision(model, image_size=32).meta["notes"] == [normalisation]


def test_it_goes_through_every_public_function(tmp_path: Path) -> None:
    model = theirs(classes=4)
    ours = tp_vgg.from_torchvision(model)
    split = Split(torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 4)
    table = tp_vgg.sweep(ours, split, levels=[0.5], layers=["features.0"])
    assert table.baseline.correct == int(
        (logits_of(model, ours, split).argmax(1) == split.labels).sum()
    )
    tp_vgg.prune_unstructured(ours, 0.5)
    assert tp_vgg.prune_structured(ours, {"features.0": 0.5, "classifier.0": 0.25}).proof.holds
    tp_vgg.save(ours, tmp_path / "m.sparse")
    assert torch.equal(logits(tp_vgg.load(tmp_path / "m.sparse")), logits(ours))


def logits_of(model: nn.Module, ours: nn.Module, split: Split) -> torch.Tensor:
    from tp_vgg.data.split import Normalisation

    with torch.no_grad():
        return copy.deepcopy(model).eval()(Normalisation.of(ours.meta)(split.images))


def pytorch_cifar() -> nn.Module:
    """The VGG of a repository for CIFAR-10 that many checkpoints come from: one linear layer."""

    class CifarVGG(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            width = 3
            for value in torchvision.models.vgg.cfgs["A"]:
                if value == "M":
                    layers.append(nn.MaxPool2d(2, 2))
                else:
                    layers += [nn.Conv2d(width, value, 3, padding=1, bias=False)]
                    layers += [nn.BatchNorm2d(value), nn.ReLU()]
                    width = value
            self.features = nn.Sequential(*layers, nn.AvgPool2d(1, 1))
            self.classifier = nn.Linear(64, 10)

        def forward(self, x):
            return self.classifier(self.features(x).flatten(1))

    torch.manual_seed(0)
    return CifarVGG()


def test_another_module_that_computes_a_vgg_will_do() -> None:
    model = pytorch_cifar()
    ours = tp_vgg.from_torchvision(model)
    assert (ours.spec.head, ours.spec.pool) == ("linear", 1)
    assert torch.allclose(logits(ours), logits(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (torchvision.models.resnet18, "ResNet: 0 convs.*torch-pruning directly"),
        (torchvision.models.squeezenet1_0, "SqueezeNet: 25 convs.*not a VGG"),
        (lambda: nn.Linear(2, 2), "Linear: .*not a VGG"),
        (lambda: "vgg11", "must be a torch.nn.Module, got a string"),
        (lambda: theirs().state_dict(), "got an OrderedDict"),
        (lambda: tp_vgg.build(VGGSpec((4,) * 8)), "a network of tp_vgg already"),
    ],
)
def test_what_is_no_vgg_is_refused(make, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        tp_vgg.from_torchvision(make())


def test_a_vgg_with_another_activation_is_refused() -> None:
    model = theirs()
    model.features[2] = nn.LeakyReLU()
    with pytest.raises(BadInput, match=r"features\.2: LeakyReLU.*vgg11_bn has ReLU"):
        tp_vgg.from_torchvision(model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "std: missing"),
        ({"std": (0.5, 0.5, 0.5)}, "mean: missing"),
        ({"mean": (0.5,), "std": (0.5, 0.5, 0.5)}, "^mean: must be three finite numbers, got"),
        ({"mean": "0.5", "std": "0.5"}, "^mean: must be three finite numbers, got '0.5'"),
        ({"mean": 0.5, "std": 0.5}, "^mean: must be three finite numbers, got 0.5"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, "^std: must be three numbers above 0"),
        ({"image_size": 31}, "image_size: 31: must be a whole number from 32 to 1024"),
        ({"image_size": 32.5}, "image_size: 32.5"),
        ({"image_size": True}, "image_size: True"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        tp_vgg.from_torchvision(theirs(), **options)


DOORS = {
    "save": lambda model, path: tp_vgg.save(model, path),
    "structured": lambda model, _: tp_vgg.prune_structured(model, {"features.0": 0.5}),
    "unstructured": lambda model, _: tp_vgg.prune_unstructured(model, 0.5),
    "latency": lambda model, _: tp_vgg.measure_latency({"a": model}),
    "sweep": lambda model, _: tp_vgg.sweep(
        model, Split(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([0]))
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_names_the_way(door: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"give tp_vgg\.from_torchvision\(model\)$"):
        DOORS[door](theirs(), tmp_path / "m.pth")
    for other in (nn.Sequential(nn.Conv2d(3, 8, 3)), torchvision.models.squeezenet1_1()):
        with pytest.raises(BadInput, match=r"for other networks use torch-pruning directly$"):
            DOORS[door](other, tmp_path / "m.pth")
    assert not list(tmp_path.iterdir())
