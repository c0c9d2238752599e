"""Folders as people have them: hidden files, odd classes, wrong layouts, links."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tp_vgg.data import folder
from tp_vgg.data.datasets import load_data
from tp_vgg.errors import BadInput

HIDDEN = [
    ".DS_Store", "._0.png", ".hidden.jpg", ".ipynb_checkpoints/0-checkpoint.png", ".git/a.png",
    ".thumbnails/0.png", "__MACOSX/0.png", "Thumbs.db", "desktop.ini", "@eaDir/0.png",
]  # fmt: skip


def picture(path: Path, side: int = 32, shade: int = 77) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (shade,) * 3).save(path, "PNG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 10), ("test", 2)):
        for shade, name in enumerate(("cat", "dog")):
            for i in range(count):
                picture(tmp_path / "pets" / split / name / f"{i}.png", shade=100 * shade + i)
    return tmp_path / "pets"


def refusal(root: Path) -> str:
    with pytest.raises(BadInput) as caught:
        folder.read_folder(root, 32)
    text = str(caught.value)
    assert "\n" not in text
    assert str(root) in text
    return text


@pytest.mark.parametrize("where", ["", "train", "test/cat", "train/dog/deeper"])
@pytest.mark.parametrize("name", HIDDEN)
def test_files_of_the_system_are_no_images_and_no_classes(
    name: str, where: str, root: Path
) -> None:
    (root / "train" / "dog" / "deeper").mkdir()
    before = load_data("folder", root, "cpu")
    path = root / where / name
    if path.suffix in (".png", ".jpg"):
        picture(path)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0")
    after = load_data("folder", root, "cpu")
    assert (after.classes, after.fingerprint) == (("cat", "dog"), before.fingerprint)


def test_files_of_the_system_do_not_make_the_cache_invalid(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_data("folder", root, "cpu").fingerprint
    for name in HIDDEN:
        (root / "train" / "cat" / name).parent.mkdir(exist_ok=True)
        (root / "train" / "cat" / name).write_bytes(b"\0")
    monkeypatch.setattr(folder, "_decode", pytest.fail)
    assert load_data("folder", root, "cpu").fingerprint == before


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (["fox"], [], "only one has 'fox' (train/); add"),
        ([], ["fox"], "only one has 'fox' (test/); add"),
        (["a", "b", "c"], ["d"], "only one has 'a', 'b', 'c' (train/), 'd' (test/); add"),
        (list("abcdefg"), [], "'a', 'b', 'c' and 4 more (train/)"),
        (["Fox"], ["fox"], "'Fox' and 'fox' differ in case or blanks: rename one"),
        (["fox "], ["fox"], "'fox' and 'fox ' differ in case or blanks: rename one"),
        (["caf\u00e9"], ["cafe\u0301"], "differ in case or blanks: rename one"),
    ],
)
def test_odd_classes_are_named_with_their_split(
    train: list[str], test: list[str], said: str, root: Path
) -> None:
    for split, names in (("train", train), ("test", test)):
        for name in names:
            picture(root / split / name / "0.png")
    assert said in refusal(root)


def test_a_file_in_place_of_a_class_is_named(root: Path) -> None:
    shutil.rmtree(root / "test" / "dog")
    (root / "test" / "dog").write_bytes(b"x")
    assert f"{root}/test/dog is not a directory: move it away" in refusal(root)


def test_classes_that_differ_in_case_alone_are_told(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for split in ("train", "test"):
        picture(root / split / "Cat" / "0.png")
    assert len(load_data("folder", root, "cpu").classes) == 3
    assert any("'Cat' and 'cat' are different classes" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "fox has no images: it is empty; put images (.jpg"),
        ([".DS_Store", "Thumbs.db"], "it is empty"),
        ([".a.png"], "only names with a leading dot"),
        (["a.gif", "b.GIF", "c.txt"], "only files .gif (2), .txt (1); convert them"),
        (["a.heic"], "only files .heic (1); convert"),
        (["README"], "only files without a suffix (1)"),
        (list(map("x.{}".format, "abcdef")), "and 3 more suffixes"),
    ],
)
def test_a_class_without_images_says_what_lies_there(
    files: list[str], said: str, root: Path
) -> None:
    (root / "train" / "fox").mkdir()
    for name in files:
        (root / "train" / "fox" / name).write_bytes(b"x")
    text = refusal(root)
    assert said in text
    assert f"{root}/train/fox has no images" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("val", "no test/ directory, but val/; if its images are for testing, rename or link it"),
        ("valid", "but valid/"),
        ("Test", "no test/ directory, but 'Test'; rename it to test"),
        ("other", "no test/ directory; expected test/CLASS/IMAGE"),
    ],
)
def test_a_split_of_another_name_is_not_guessed_but_named(name: str, said: str, root: Path) -> None:
    (root / "test").rename(root / name)
    assert said in refusal(root)


def test_the_directory_around_the_folder_is_told_from_it(root: Path) -> None:
    assert f"but pets/ has; give --data-dir {root}" in refusal(root.parent)
    assert "no train/ directory, only 'cat', 'dog'" in refusal(root / "train")


def test_images_beside_the_classes_are_counted(root: Path) -> None:
    shutil.rmtree(root / "train")
    for i in range(3):
        picture(root / "train" / f"{i}.png")
    text = refusal(root)
    assert "no class directories" in text
    assert "3 images beside them" in text


def test_links_that_lead_nowhere_or_around_are_named(root: Path) -> None:
    (root / "train" / "cat" / "again").symlink_to(root / "train", target_is_directory=True)
    assert "train/cat/again" in refusal(root)
    (root / "train" / "cat" / "again").unlink()
    (root / "train" / "cat" / "gone.png").symlink_to(root / "nowhere")
    with pytest.raises(OSError, match="is a link to a file that is missing") as caught:
        folder.read_folder(root, 32)
    assert str(caught.value.filename).endswith("gone.png")
    shutil.rmtree(root / "test")
    (root / "train" / "cat" / "gone.png").unlink()
    (root / "test").write_bytes(b"")
    assert "test: is not a directory" in refusal(root)
    (root / "test").unlink()
    (root / "test").symlink_to(root / "nowhere")
    assert "test: is a link to a directory that is missing" in refusal(root)


def test_linked_splits_and_classes_are_followed(root: Path, tmp_path: Path) -> None:
    before = load_data("folder", root, "cpu").fingerprint
    (root / "test").rename(tmp_path / "elsewhere")
    (root / "test").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert load_data("folder", root, "cpu").fingerprint == before


@pytest.mark.parametrize("name", ["", "train", "train/cat", "test/cat/deep"])
def test_a_directory_that_cant_be_read_is_named(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "test" / "cat" / "deep").mkdir()
    if not name:
        shutil.rmtree(root / "train")  # so that the names in the root are looked at
    real = os.scandir

    def scandir(path):
        if Path(path) == root / name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert f"{root / name}: can't be read (Permission denied)" in refusal(root)


def test_names_and_fingerprint_are_known_without_opening_an_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder.cached_fingerprint(root, 32) is None
    found = load_data("folder", root, "cpu", image_size=48).fingerprint
    monkeypatch.setattr(folder, "_decode", pytest.fail)
    monkeypatch.setattr(folder, "read_cache", pytest.fail)
    assert folder.class_names(root) == ("cat", "dog")
    assert folder.cached_fingerprint(root, 48) == folder.folder_fingerprint(root, 48) == found
    assert folder.cached_fingerprint(root, 32) is None
    assert folder.cached_fingerprint(root, 48, skip_corrupt=True) is None
    (root / "test" / "dog").rename(root / "test" / "wolf")
    with pytest.raises(BadInput, match=r"'dog' \(train/\), 'wolf' \(test/\)"):
        folder.class_names(root)


def test_notes_say_once_per_load_that_images_were_resized(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load_data("folder", root, "cpu")
    folder.folder_fingerprint(root, 32)
    assert caplog.messages == [], "all images are of that size"
    said = f"images of {root} are resized to 64x64 (shorter side, then the central square)"
    folder.folder_fingerprint(root, 64)
    for _ in ("from the cache", "again"):
        caplog.clear()
        images = load_data("folder", root, "cpu", image_size=64).train.images
        assert images.shape[1:] == (3, 64, 64)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert caplog.messages == [said]
