"""Images of another size than 32, and the arguments of ``load_data``."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tp_vgg.data import datasets
from tp_vgg.data.datasets import load_data
from tp_vgg.data.split import Split
from tp_vgg.errors import BadInput, WorkFailed

DIGITS = "c19dc34e775a2afd0b2de46704dfb846eda1a91c89c7ab8f13b66f6ca8bbb777"


def test_digits_are_enlarged_and_at_32_stay_what_they_were(digits) -> None:
    assert (digits.fingerprint, digits.image_size) == (DIGITS, 32)
    large = load_data("digits", "unused", "cpu", image_size=48)
    assert large.image_size == 48
    assert large.fingerprint != DIGITS
    assert torch.equal(large.test.labels, digits.test.labels)
    small = torch.nn.functional.avg_pool2d(large.test.images.float(), 6)
    assert (small - torch.nn.functional.avg_pool2d(digits.test.images.float(), 4)).abs().mean() < 4


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """CIFAR-10 as torchvision hands it over, with 60 images."""
    rng = np.random.default_rng(0)

    class Part:
        classes = tuple(f"class {i}" for i in range(10))

        def __init__(self, count: int) -> None:
            self.data = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            self.targets = [i % 10 for i in range(count)]

    parts = Part(100), Part(20)
    monkeypatch.setattr(datasets, "cifar10_parts", lambda _: parts)
    monkeypatch.setattr(datasets, "BLOCK", 7)
    return {"train": parts[0].data, "test": parts[1].data}


@pytest.mark.parametrize("size", [16, 40])
def test_cifar10_is_resized_after_the_limits(
    size: int, cifar10, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whole = load_data("cifar10", "x", "cpu")
    assert caplog.messages == []
    data = load_data("cifar10", "x", "cpu", image_size=size, limits=(30, None, None))
    assert caplog.messages == [f"cifar10: images are resized from 32x32 to {size}x{size}"]
    assert [len(part) for part in (data.train, data.val, data.test)] == [30, 10, 20]
    assert data.image_size == size
    images = data.test.images
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    exact = torch.nn.functional.interpolate(
        whole.test.images.float(), (size, size), mode="bilinear", antialias=True
    )
    assert (images - exact).abs().max() < 1.1
    sizes = {load_data("cifar10", "x", "cpu", image_size=s).fingerprint for s in (32, size, size)}
    assert sizes == {whole.fingerprint, data.fingerprint}
    assert len(sizes) == 2


def test_images_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tp_vgg.machine.memory.free_memory", lambda _: 2 << 30)
    few = Split(
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8).expand(50_000, -1, -1, -1),
        torch.zeros(50_000, dtype=torch.int64),
    )
    with pytest.raises(WorkFailed, match=r"50,000 images of 224x224 take 7,177 MiB .*--image-size"):
        datasets._resized(few, 224)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "cifar100"}, "'cifar100': is not a data set; give one of cifar10, folder, "),
        ({"name": "CIFAR10"}, "(nearest: cifar10)"),
        ({"name": "digit"}, "(nearest: digits)"),
        ({"name": None}, "None: is not a data set"),
        ({"name": ["digits"]}, "is not a data set"),
        ({"data_dir": ""}, "data_dir: is empty"),
        ({"data_dir": " "}, "data_dir: is empty"),
        ({"data_dir": "a\0b"}, "data_dir: holds a NUL byte"),
        ({"data_dir": None}, "data_dir: None is not a path"),
        ({"device": "cpux"}, "'cpux' is not one of"),
        ({"limits": (-1, None, None)}, "limits: train: -1 is not a whole number"),
        ({"limits": (None, 1.5, None)}, "limits: val: 1.5 is not"),
        ({"limits": (None, None, True)}, "limits: test: True is not"),
        ({"limits": (1, 2)}, "limits: (1, 2): give three"),
        ({"limits": 7}, "limits: 7: give three"),
        ({"image_size": 0}, "image_size: 0 is not a whole number from 8 to 1024"),
        ({"image_size": 7}, "image_size: 7"),
        ({"image_size": 1025}, "image_size: 1025"),
        ({"image_size": "32"}, "image_size: '32'"),
        ({"image_size": 32.0}, "image_size: 32.0"),
        ({"image_size": True}, "image_size: True"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_in_one_line(wrong: dict, said: str) -> None:
    arguments = {"name": "digits", "data_dir": "x", "device": "cpu", **wrong}
    with pytest.raises(BadInput) as caught:
        load_data(**arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_texts_do_for_path_and_device(image_folder: Path) -> None:
    ours = load_data("folder", str(image_folder), torch.device("cpu"))
    theirs = load_data("folder", image_folder, "cpu", limits=[None, np.int64(3), None])
    assert ours.fingerprint == theirs.fingerprint
    assert (theirs.train.images.device, len(theirs.val)) == (torch.device("cpu"), 3)
