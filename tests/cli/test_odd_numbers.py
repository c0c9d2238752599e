"""Data and networks that are odd but legal, or not legal: each works, or is refused in one line."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import files, one_line
from helpers.networks import SMALL
from PIL import Image
from torch import nn

from tp_vgg.data import folder
from tp_vgg.data.datasets import load_data
from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.evaluate import accuracy, classes_of
from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.criteria import CRITERIA
from tp_vgg.pruning.structured import prune_structured
from tp_vgg.sensitivity.sweep import sweep

CPU = torch.device("cpu")
GREY = np.linspace(0, 255, 64 * 64).reshape(64, 64)
"""Brightness that rises from row to row."""
PICTURE = Image.fromarray(GREY.astype(np.uint8)).convert("RGB")


def decode(*paths: Path) -> tuple[np.ndarray, dict[int, str]]:
    return folder._decode(list(paths), 32, "", True)


def pictures(
    root: Path, classes: list[str], train: int, test: int, mode: str = "RGB", side: int = 4
) -> Path:
    for split, count in (("train", train), ("test", test)):
        for place, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                shade = (97 * place + 31 * i) % 256
                Image.new("L", (side, side), shade).convert(mode).save(
                    root / split / name / f"{i}.png"
                )
    return root


# The pixels.

SAVED: dict[str, Callable[[Path], object]] = {
    "l.png": lambda path: PICTURE.convert("L").save(path),
    "la.png": lambda path: PICTURE.convert("LA").save(path),
    "rgba.png": lambda path: PICTURE.convert("RGBA").save(path),
    "one_bit.png": lambda path: PICTURE.convert("1").save(path),
    "palette.png": lambda path: PICTURE.convert("P").save(path, transparency=bytes(range(256))),
    "deep.png": lambda path: Image.fromarray((GREY * 257).astype(np.uint16)).save(path),
    "deep.tif": lambda path: Image.fromarray((GREY * 257).astype(np.uint16)).save(path),
    "deep.pgm": lambda path: path.write_bytes(
        b"P5 64 64 65535\n" + (GREY * 257).astype(">u2").tobytes()
    ),
    "cmyk.jpg": lambda path: PICTURE.convert("CMYK").save(path),
    "lab.tif": lambda path: PICTURE.convert("LAB").save(path),
    "animated.webp": lambda path: PICTURE.save(
        path, save_all=True, append_images=[Image.new("RGB", (64, 64))]
    ),
    "turned.jpg": lambda path: PICTURE.rotate(90).save(path, exif=_turn(6)),
}


def _turn(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


@pytest.mark.parametrize("name", SAVED)
def test_every_kind_of_pixel_keeps_its_brightness(name: str, tmp_path: Path) -> None:
    """Including 16-bit greys, which Pillow clips at 255, and photos rotated by EXIF."""
    SAVED[name](tmp_path / name)
    PICTURE.save(tmp_path / "rgb.png")
    images, reasons = decode(tmp_path / name, tmp_path / "rgb.png")
    assert not reasons
    found, plain = images.astype(int)
    rows = abs(found - plain).mean((1, 2))
    assert rows.max() < (40 if name == "one_bit.png" else 8)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_white_are_refused(dtype: type, tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(dtype)).save(tmp_path / "deep.tif")
    _, reasons = decode(tmp_path / "deep.tif")
    assert "no known white" in reasons[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (5000, 1)])
def test_a_line_of_pixels_is_an_image(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("L", size, 77).save(tmp_path / "line.png")
    images, reasons = decode(tmp_path / "line.png")
    assert not reasons
    assert (images == 77).all()


def test_a_file_is_decoded_by_the_formats_of_the_endings_alone(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    _, reasons = decode(tmp_path / "a.png")
    assert "cannot identify" in reasons[0]


# The folder.


def test_images_in_nested_directories_count_in_torchvisions_order(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = pictures(tmp_path / "p", ["b", "a"], 2, 1)
    for nested in ("y", "y-x", "y/z"):
        (root / "train" / "a" / nested).mkdir()
        Image.new("L", (2, 2)).save(root / "train" / "a" / nested / "0.png")
    listing = folder._list(root, "train")
    ours = [str(root / "train" / name / entry[0]) for name in listing for entry in listing[name]]
    assert ours == [path for path, _ in ImageFolder(str(root / "train")).samples]
    assert len(ours) == 7


def test_a_link_to_nothing_is_named(call, tmp_path: Path) -> None:
    root = pictures(tmp_path / "p", ["a"], 20, 1)
    (root / "train" / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    status, _, err = call("train", "--dataset", "folder", "--data-dir", root)
    assert (status, "gone.png" in one_line(err)) == (1, True)


def test_labels_follow_names_whatever_the_order_on_the_disk(tmp_path: Path) -> None:
    names = ["b", "B", "a", "10", "9"]
    root = pictures(tmp_path / "p", names, 10, 0)
    for name in reversed(names):
        for file in sorted(os.listdir(root / "train" / name)):
            os.link(root / "train" / name / file, root / "test" / name / file)
    data = load_data("folder", root, CPU)
    assert data.classes == ("10", "9", "B", "a", "b")
    seen = [
        {
            (int(label), int(image[0, 0, 0]))
            for image, label in zip(split.images, split.labels, strict=True)
        }
        for split in (data.train, data.test)
    ]
    assert seen[0] <= seen[1]
    assert len(seen[1]) == 50


@pytest.mark.parametrize(("train", "test", "said"), [(4, 1, "val 0"), (0, 1, "has no images")])
def test_too_few_images_are_refused(train: int, test: int, said: str, call, at_home: Path) -> None:
    root = pictures(at_home / "p", ["a", "b"], train, test)
    before = files(at_home)
    status, _, err = call("train", "--dataset", "folder", "--data-dir", root, "--out", "o", "-q")
    assert (status, said in one_line(err)) == (2, True)
    assert files(at_home) - before <= {f"p/{folder.CACHE}"}


def test_a_split_without_some_classes_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load_data("folder", pictures(tmp_path / "p", list("abcdefgh"), 2, 1, side=32), CPU)
    assert caplog.messages == ["folder: 7 of 8 classes have no image in val"]
    caplog.clear()
    load_data("digits", tmp_path, CPU, limits=(4, None, None))
    assert caplog.messages == ["digits: 6 of 10 classes have no image in train"]


# The whole chain, on few classes, many, and dead networks.


def chain(call, common: list, kind: str, pruning: list[str]) -> None:
    """Every stage works, and every JSON file is valid JSON."""
    for args in (
        ["sensitivity", "--kind", kind, "--levels", "0.5", "--layers", "features.4"],
        ["plan", "--kind", kind, "--budget", "drop=5", "--round-to", "1"],
        pruning,
        ["compare"],
    ):
        status, out, err = call(*args, *common, "--out", "o", "-q")
        assert status == 0, (args, err)
        assert "nan" not in out.lower()
    for path in Path("o").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("classes", "train", "mode"),
    [(1, 20, "1"), (2, 10, "RGBA"), (1000, 1, "L")],
    ids=["one", "two", "thousand"],
)
def test_a_folder_of_few_classes_or_many(
    classes: int, train: int, mode: str, call, at_home: Path, make_model: Callable[..., VGG]
) -> None:
    """Images of one pixel, one test image per class."""
    names = [f"c{i:04}" for i in range(classes)]
    pictures(at_home / "p", names, train, 1, mode, side=1)
    model = make_model(replace(SMALL, num_classes=classes))
    model.meta["classes"] = names
    save(model, "small.pth")
    common = ["--dataset", "folder", "--data-dir", "p", "--checkpoint", "small.pth"]
    chain(
        call,
        common,
        "unstructured",
        ["unstructured", "--ratios", "o/sparsity.json", "--finetune-epochs", "1"],
    )


def gammas_zero(model: VGG) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.zero_()


def equal_norms(model: VGG) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.fill_(0.01)


def one_class(model: VGG) -> None:
    model.get_submodule(model.spec.linear_names[-1]).weight.zero_()


@pytest.mark.parametrize("spoil", [gammas_zero, equal_norms, one_class])
def test_a_dead_network_goes_through(
    spoil: Callable[[VGG], None], call, at_home: Path, make_model
) -> None:
    model = make_model(replace(SMALL, hidden=()))
    with torch.no_grad():
        spoil(model)
    save(model, "small.pth")
    limits = ["--limit-train", "64", "--limit-val", "40", "--limit-test", "60"]
    pruning = ["structured", "--ratio", "0.5", "--importance", "bn", "--finetune-epochs", "0"]
    chain(
        call, ["--dataset", "digits", "--checkpoint", "small.pth", *limits], "structured", pruning
    )
    pruned = load("o/vgg11_digits_structured_pruned.pth")
    assert pruned.spec.widths == tuple(width // 2 for width in SMALL.widths)
    notes = json.loads(Path("o/records/given_baseline.json").read_text())["notes"]
    assert any("can't be told from chance" in note for note in notes)
    status, _, err = call(
        "plan", "--checkpoint", "small.pth", "--out", "o", "--budget", "drop=5", "--round-to", "1"
    )
    assert (status, "nothing to predict a drop from" in err) == (0, True)


# Not lamp: the score of a channel depends on the channels sorted after it, even if they are equal.
# Not obs: costs of equal channels differ by rounding.
@pytest.mark.parametrize(
    "importance", sorted(set(CRITERIA) - {"random", "taylor", "hessian", "lamp", "obs"})
)
def test_of_equal_channels_the_first_are_kept(importance: str, make_model) -> None:
    model = make_model(replace(SMALL, hidden=()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    kept = prune_structured(
        model, dict.fromkeys(model.spec.conv_names, 0.5), importance=importance
    ).kept
    assert kept == {
        name: list(range(width // 2)) for name, width in SMALL.prunable.items() if name in kept
    }
    assert len(kept) == 8


def test_chance_is_the_lower_end_of_the_interval() -> None:
    assert Accuracy.of(12, 100).chance_warnings(10)
    assert Accuracy.of(50, 50).chance_warnings(100)
    assert not Accuracy.of(30, 100).chance_warnings(10)


# NaN and infinity.


def test_a_class_that_is_not_a_number_is_never_right(few_digits, make_model) -> None:
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[0.0, 1.0], [nan, 0.0], [0.0, nan], [inf, 0.0], [0.0, -inf]])
    assert classes_of(logits).tolist() == [1, -1, -1, -1, -1]
    model = make_model()
    with torch.no_grad():
        model.get_submodule("features.0").weight.mul_(1e30)
        model.get_submodule("features.4").weight.mul_(1e30)
    model.meta.update(mean=[0.5] * 3, std=[0.2] * 3)
    assert accuracy(model, few_digits.val, Normalisation.of(model.meta)).correct == 0
    for kind in ("structured", "unstructured"):
        table = sweep(
            model, few_digits.val, kind=kind, levels=[0.5], layers=["features.8"], quiet=True
        )
        assert [table.baseline.correct, *(point.correct for point in table.points)] == [0, 0]


@pytest.mark.parametrize("option", ["--lr", "--distill-weight", "--distill-temperature"])
def test_nan_is_no_option(option: str, call, at_home: Path) -> None:
    status, _, err = call("structured", "--dataset", "digits", "--ratio", "0.5", option, "nan")
    assert (status, "NaN is not a number" in one_line(err)) == (2, True)
    assert files(at_home) == set()


def test_a_runaway_rate_leaves_no_model(call, at_home: Path, small: list) -> None:
    """The weights stay finite for the single epoch; the logits do not."""
    options = [*small[:-2], "--weights", small[-1], "--epochs", 1, "--lr", 100, "--out", "o", "-q"]
    status, _, err = call("train", *options)
    assert (status, "non-finite at step" in one_line(err), "smaller --lr" in err) == (1, True, True)
    assert files(at_home) == {"o/.lock"}


def test_a_network_of_zeros_is_refused(tmp_path: Path, make_model) -> None:
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    said = r"zero\.pth: (not saved: )?state_dict: every parameter is zero"
    with pytest.raises(BadInput, match=said):
        save(model, tmp_path / "zero.pth")
    torch.save(model.state_dict(), tmp_path / "zero.pth")
    with pytest.raises(BadInput, match=said):
        load(tmp_path / "zero.pth")
