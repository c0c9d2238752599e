"""What Pillow warns of while a folder is decoded: it names no file, so nothing is shown."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from PIL import Image

from tp_vgg.data import folder


@pytest.fixture
def odd(tmp_path: Path) -> list[Path]:
    """A JPEG whose EXIF data end early, and an image of many pixels."""
    paths = [tmp_path / "exif.jpg", tmp_path / "large.png"]
    Image.new("RGB", (64, 64)).save(
        paths[0], exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0"
    )
    Image.new("RGB", (300, 300)).save(paths[1])
    return paths


def test_images_that_are_decoded_all_the_same_are_not_warned_of(odd, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 300 - 1)
    with warnings.catch_warnings(record=True, action="always") as shown:
        _, reasons = folder._decode(odd, 32, "", quiet=True)
        assert not reasons
        assert not shown
        warnings.warn("a user's own", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["a user's own"]
