"""A split holds uint8 images and int64 labels, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tp_vgg.data import Split
from tp_vgg.errors import BadInput

IMAGES = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
LABELS = torch.arange(6)


def test_images_and_labels_in_the_right_form_are_taken() -> None:
    assert len(Split(IMAGES, LABELS)) == 6
    assert len(Split(IMAGES[:0], LABELS[:0])) == 0
    assert len(Split(IMAGES, LABELS).take(np.array([4, 1]))) == 2


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (IMAGES.float() / 255, r"float32; .*\(images \* 255\)\.round\(\)\.to\(torch\.uint8\)"),
        (IMAGES.double(), "float64"),
        (IMAGES.half(), "float16"),
        (IMAGES.bool(), "bool; convert"),
        (IMAGES.int(), "int32; convert"),
        (IMAGES.permute(0, 2, 3, 1), r"\[6, 32, 32, 3\]; .*images\.permute\(0, 3, 1, 2\)"),
        (IMAGES.permute(0, 2, 3, 1).float(), r"permute"),
        (IMAGES[0], r"images\[None\]"),
        (IMAGES[:, :1], r"images\.expand\(-1, 3, -1, -1\)"),
        (IMAGES[:, :, 0], r"got \[6, 3, 32\]"),
        (IMAGES.numpy(), r"a ndarray; torch\.from_numpy\(images\)"),
        (list(IMAGES), "got a list"),
        (None, "got null"),
    ],
)
def test_other_images_are_refused_with_the_fix(images: object, said: str) -> None:
    with pytest.raises(BadInput, match=f"^images: .*{said}") as refusal:
        Split(images, LABELS)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS.int(), r"int32 instead of int64; .*labels\.long\(\)"),
        (LABELS.float(), "float32 instead of int64"),
        (LABELS.bool(), "bool instead of int64"),
        (LABELS[:5], r"must be int64 \[6\], one per image, got \[5\]"),
        (LABELS[:, None], r"got \[6, 1\]"),
        (torch.eye(6), r"got \[6, 6\]"),
        (torch.tensor(3), r"got \[\]"),
        (LABELS.numpy(), r"torch\.as_tensor\(labels\)"),
        (list(range(6)), "got a list"),
        (LABELS.to("meta"), "on meta, the images on cpu"),
    ],
)
def test_other_labels_are_refused_with_the_fix(labels: object, said: str) -> None:
    with pytest.raises(BadInput, match=f"^labels: .*{said}"):
        Split(IMAGES, labels)
