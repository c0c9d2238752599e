from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tp_vgg.data import folder
from tp_vgg.data.augment import PAD, augment
from tp_vgg.data.datasets import load_data
from tp_vgg.data.split import Normalisation, Split, stratified
from tp_vgg.errors import BadInput, WorkFailed

CPU = torch.device("cpu")


def counts(split: Split) -> list[int]:
    return torch.bincount(split.labels).tolist()


def test_digits_are_real_scans_in_fixed_splits(digits) -> None:
    assert [len(s) for s in (digits.train, digits.val, digits.test)] == [1295, 143, 359]
    assert digits.train.images.shape[1:] == (3, 32, 32)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.is_contiguous(memory_format=torch.channels_last)
    for split in (digits.train, digits.val, digits.test):
        assert max(counts(split)) <= 1.12 * min(counts(split)), "stratified"
    again = load_data("digits", Path("x"), CPU)
    assert again.fingerprint == digits.fingerprint
    assert torch.equal(again.val.images, digits.val.images)
    assert not digits.flip


def test_no_image_is_in_two_splits(digits) -> None:
    hashes = [
        {image.numpy().tobytes() for image in s.images}
        for s in (digits.train, digits.val, digits.test)
    ]
    assert sum(map(len, hashes)) == len(set.union(*hashes)) >= 1790


def test_limits_take_stratified_subsets_and_keep_the_fingerprint(digits) -> None:
    few = load_data("digits", Path("x"), CPU, limits=(100, 50, 10_000))
    assert [len(s) for s in (few.train, few.val, few.test)] == [100, 50, 359]
    assert counts(few.val) == [5] * 10
    assert few.fingerprint == digits.fingerprint


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(0, 250), st.integers(0, 3)
)
def test_stratified_is_in_proportion(labels: list[int], n: int, seed: int) -> None:
    array = np.array(labels)
    picked = stratified(array, n, seed)
    assert len(picked) == min(n, len(array)) == len(set(picked.tolist()))
    assert (np.diff(picked) > 0).all()
    for label in set(labels):
        exact = labels.count(label) * min(n, len(array)) / len(array)
        assert abs(int((array[picked] == label).sum()) - exact) < 1


def test_normalisation_is_torchvisions() -> None:
    from torchvision.transforms.v2 import functional as tv

    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    expected = tv.normalize(tv.to_dtype(images, torch.float32, scale=True), list(mean), list(std))
    assert torch.allclose(Normalisation(mean, std)(images), expected, atol=1e-6)


def test_measured_normalisation_centres_the_data(digits) -> None:
    everything = torch.cat([digits.normalisation(s.images) for s in (digits.train, digits.val)])
    assert abs(float(everything.mean())) < 1e-3
    assert float(everything.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_is_a_reflect_padded_crop_and_flip(flip: bool) -> None:
    """Every augmented image is one of the 81 crops of torch's reflect padding, or its mirror."""
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    split = Split(images, torch.arange(12))
    where = torch.tensor([5, 5, 0, 11, 7, 7, 7, 3] * 8)
    turn = (torch.arange(64) % 3 == 0) & flip
    shifts_drawn = torch.randint(-PAD, PAD + 1, (2, 64), generator=torch.Generator().manual_seed(0))
    found, labels = augment(split, torch.stack([where, *shifts_drawn, turn.long()]))
    assert torch.equal(labels, where)
    assert found.is_contiguous(memory_format=torch.channels_last)
    padded = torch.nn.functional.pad(images.float(), (PAD,) * 4, mode="reflect").to(torch.uint8)
    shifts, mirrored = set(), []
    for image, source in zip(found, where.tolist(), strict=True):
        crops = {
            (y, x): padded[source, :, y : y + 16, x : x + 16]
            for y in range(2 * PAD + 1)
            for x in range(2 * PAD + 1)
        }
        straight = [at for at, crop in crops.items() if torch.equal(crop, image)]
        turned = [at for at, crop in crops.items() if torch.equal(crop.flip(2), image)]
        assert straight or (flip and turned)
        shifts.update(straight or turned)
        mirrored.append(not straight)
    assert len(shifts) > 30
    assert mirrored == turn.tolist()
    asked = {(y + PAD, x + PAD) for y, x in shifts_drawn.T.tolist()}
    assert shifts == asked if not flip else shifts


def test_a_normaliser_gives_what_its_normalisation_gives(few_digits) -> None:
    there = few_digits.normalisation.on(CPU)
    assert torch.equal(
        there(few_digits.val.images), few_digits.normalisation(few_digits.val.images)
    )


def test_folder_images_become_rgb_32(image_folder: Path) -> None:
    data = load_data("folder", image_folder, CPU)
    assert [len(s) for s in (data.train, data.val, data.test)] == [36, 4, 12]
    assert data.classes == ("dark", "light")
    assert counts(data.val) == [2, 2]
    assert data.train.images.shape[1:] == (3, 32, 32)
    bright = data.test.images.float().mean((1, 2, 3)) > 100
    assert torch.equal(bright.long(), data.test.labels)


def test_folder_order_is_torchvisions(image_folder: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(str(image_folder / "test"))
    listing = folder._list(image_folder, "test")
    ours = [
        str(image_folder / "test" / name / entry[0]) for name in listing for entry in listing[name]
    ]
    assert ours == [path for path, _ in theirs.samples]


def test_second_start_reads_the_cache(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data("folder", image_folder, CPU)

    def decode_again(*_args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(folder, "_decode", decode_again)
    second = load_data("folder", image_folder, CPU)
    assert torch.equal(first.train.images, second.train.images)
    assert first.fingerprint == second.fingerprint
    assert first.normalisation == second.normalisation


def test_a_changed_file_is_never_served_from_the_cache(image_folder: Path) -> None:
    first = load_data("folder", image_folder, CPU)
    changed = image_folder / "test" / "dark" / "0.png"
    shutil.copy(image_folder / "test" / "dark" / "4.png", changed)
    os.utime(changed, ns=(1, 1))
    second = load_data("folder", image_folder, CPU)
    assert second.fingerprint != first.fingerprint
    cache = image_folder / folder.CACHE
    cache.write_bytes(cache.read_bytes()[:100])
    assert load_data("folder", image_folder, CPU).fingerprint == second.fingerprint, (
        "a torn cache is decoded again"
    )


def test_bad_folders_are_refused_by_name(image_folder: Path) -> None:
    (image_folder / "test" / "dark" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(BadInput, match=r"0\.png: can't be decoded"):
        load_data("folder", image_folder, CPU)
    shutil.rmtree(image_folder / "test" / "dark")
    with pytest.raises(BadInput, match="only one has 'dark'"):
        load_data("folder", image_folder, CPU)
    shutil.rmtree(image_folder / "test")
    with pytest.raises(BadInput, match="no test/ directory"):
        load_data("folder", image_folder, CPU)


def test_corrupt_images_are_counted_and_left_out_only_where_asked(
    image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whole = load_data("folder", image_folder, CPU)
    jpeg = image_folder / "train" / "light" / "19.png"
    jpeg.write_bytes(jpeg.read_bytes()[:200])  # truncated, as by a broken download
    (image_folder / "test" / "dark" / "3.png").write_bytes(b"not a picture")
    (image_folder / "train" / "light" / "3.png").write_bytes(b"")
    with pytest.raises(
        BadInput, match=r"light/19\.png: can't be decoded .*, nor can 1 more; .*--skip-corrupt"
    ) as refusal:
        load_data("folder", image_folder, CPU)
    assert "\n" not in str(refusal.value)
    caplog.clear()
    found = load_data("folder", image_folder, CPU, skip_corrupt=True)
    left_out = f"3 of 52 images in {image_folder} can't be decoded and are left out"
    assert caplog.messages[1:] == [left_out]
    caplog.clear()
    assert [len(s) for s in (found.train, found.val, found.test)] == [35, 3, 11]
    assert counts(found.test) == [5, 6]
    assert found.fingerprint != whole.fingerprint
    bright = found.test.images.float().mean((1, 2, 3)) > 100
    assert torch.equal(bright.long(), found.test.labels), "labels stay with their images"
    again = load_data("folder", image_folder, CPU, skip_corrupt=True)
    assert again.fingerprint == found.fingerprint
    assert caplog.messages[1:] == [left_out], "told from the cache too"
    with pytest.raises(BadInput, match="can't be decoded"):
        load_data("folder", image_folder, CPU)
    for path in (image_folder / "test" / "dark").iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"test/dark: none of its images can be decoded"):
        load_data("folder", image_folder, CPU, skip_corrupt=True)


def test_failed_download_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets.cifar as cifar

    def refuse(*_args, **_kwargs):
        raise OSError("unreachable\nand more")

    monkeypatch.setattr(cifar, "download_and_extract_archive", refuse)
    with pytest.raises(WorkFailed, match=r"unreachable.*--data-dir.*--dataset digits") as failure:
        load_data("cifar10", tmp_path, CPU)
    assert "\n" not in str(failure.value)


def test_cifar10_is_read_as_torchvision_stores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small data set in CIFAR-10's pickled format is read through the real torchvision class."""
    import pickle

    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        batch = {
            "data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(20)],
        }
        (base / name).write_bytes(pickle.dumps(batch))
    (base / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    )
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load_data("cifar10", tmp_path, CPU)
    assert [len(s) for s in (data.train, data.val, data.test)] == [90, 10, 20]
    assert counts(data.val) == [1] * 10
    first = pickle.loads((base / "test_batch").read_bytes())
    assert np.array_equal(data.test.images.numpy().reshape(20, -1), first["data"])
    assert data.normalisation == Normalisation()


@pytest.mark.parametrize("place", ["cpu", CPU])
@pytest.mark.parametrize("kind", [str, Path])
def test_text_is_a_path_and_a_device(kind: type, place: object, image_folder: Path) -> None:
    data = load_data("folder", kind(image_folder), place, quiet=True)
    assert data.train.labels.device == CPU


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": 3}, "3: is not a data set; give one of cifar10"),
        ({"name": None}, "None: is not a data set"),
        ({"data_dir": 3}, "data_dir: 3 is not a path"),
        ({"data_dir": None}, "data_dir: None is not a path"),
        ({"data_dir": ""}, "data_dir: is empty"),
        ({"device": 0}, "device: must be auto, cpu, cuda or cuda:N, got 0"),
        ({"device": None}, "device: must be auto, .*got None"),
        ({"device": "gpu"}, "device: 'gpu' is not one of auto, cpu, cuda, cuda:N"),
        ({"quiet": 1}, "quiet: 1: must be True or False"),
        ({"skip_corrupt": "no"}, "skip_corrupt: 'no': must be True or False"),
        ({"limits": 10}, "limits: 10: give three"),
        ({"image_size": "32"}, "image_size: '32' is not a whole number"),
    ],
)
def test_other_arguments_are_refused(options: dict[str, object], said: str) -> None:
    given = {"name": "digits", "data_dir": "data", "device": "cpu", **options}
    first = [given.pop(name) for name in ("name", "data_dir", "device")]
    with pytest.raises(BadInput, match=said) as refusal:
        load_data(*first, **given)
    assert "\n" not in str(refusal.value)
