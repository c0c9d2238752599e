"""Copies of CIFAR-10 as they come: whole, broken, another version, none."""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from helpers.commands import one_line
from torchvision.datasets import CIFAR10, cifar

from tp_vgg.data.cifar10 import cifar10_parts
from tp_vgg.errors import BadInput, WorkFailed

pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will")  # tarfile, in torchvision


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a small CIFAR-10, packed and unpacked, whose MD5s torchvision expects."""
    data, rng = tmp_path / "data", np.random.default_rng(0)
    base = data / CIFAR10.base_folder
    base.mkdir(parents=True)
    sums = {}
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        batch = {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), "labels": [*range(10)]}
        (base / name).write_bytes(pickle.dumps(batch))
        sums[name] = md5(base / name)
    names = {"label_names": [f"class {i}" for i in range(10)]}
    (base / "batches.meta").write_bytes(pickle.dumps(names))
    archive = data / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as file:
        file.add(base, CIFAR10.base_folder)
    for each in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, each, [[n, sums[n]] for n, _ in getattr(CIFAR10, each)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(base / "batches.meta")})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    return data


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A network that is down; the list has the directories that a download was asked for."""
    asked: list[str] = []

    def refuse(_url, root, **_):
        asked.append(str(root))
        (Path(root) / CIFAR10.filename).write_bytes(b"half")
        raise URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(cifar, "download_and_extract_archive", refuse)
    return asked


@pytest.mark.parametrize("gone", ["", CIFAR10.filename, CIFAR10.base_folder])
def test_a_whole_copy_needs_no_network(gone: str, whole: Path, network: list[str]) -> None:
    if gone == CIFAR10.filename:
        (whole / gone).unlink()
    elif gone:
        for path in (whole / gone).iterdir():
            path.unlink()
        (whole / gone).rmdir()
    train, test = cifar10_parts(whole)
    assert (len(train.data), len(test.data), network) == (50, 10, [])


def test_a_broken_batch_is_unpacked_again_from_a_whole_archive(
    whole: Path, network: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    batch = whole / CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(b"")
    assert len(cifar10_parts(whole)[0].data) == 50
    assert network == []
    assert f"{batch}: is empty" in caplog.text


def _boom(path: Path) -> None:
    class Boom:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "executed"),)

    path.write_bytes(pickle.dumps(Boom()))


BREAK = {
    "missing": (Path.unlink, "is missing"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "page": (lambda path: path.write_text("\n<!DOCTYPE html><p>404"), "is a web page"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:99]), "is "),
    "hostile": (_boom, "is damaged or another file"),
    "directory": (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
    "link": (lambda path: (path.unlink(), path.symlink_to("none")), "is a link to a missing file"),
}


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_broken_batch_is_named_and_never_unpickled(
    name: str, how: str, whole: Path, network: list[str]
) -> None:
    (whole / CIFAR10.filename).unlink()
    path = whole / CIFAR10.base_folder / name
    BREAK[how][0](path)
    with pytest.raises(BadInput) as caught:
        cifar10_parts(whole)
    text = one_line(f"error: {caught.value}\n")
    assert f"{path}: " in text
    assert "--data-dir" in text
    if how != "link":
        assert BREAK[how][1] in text
        assert f"delete {path.parent} so that it is downloaded again" in text
    assert network == []
    assert not (path.parent / "executed").exists()


@pytest.mark.parametrize("how", sorted({*BREAK} - {"missing"}))
def test_a_broken_archive_is_named_and_kept(how: str, whole: Path, network: list[str]) -> None:
    base = whole / CIFAR10.base_folder
    (base / "data_batch_1").unlink()
    archive = whole / CIFAR10.filename
    BREAK[how][0](archive)
    before = sorted(os.listdir(whole))
    with pytest.raises(BadInput) as caught:
        cifar10_parts(whole)
    text = str(caught.value)
    assert f"{archive}: is " in text
    assert "delete it so that it is downloaded again, or give --data-dir" in text
    if how == "cut":
        assert "truncated or another file: 99 of 170,498,071 bytes" in text
    assert (sorted(os.listdir(whole)), network) == (before, [])


def test_what_cant_be_opened_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(path: str, _md5: str) -> bool:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(cifar, "check_integrity", check)
    with pytest.raises(BadInput, match=r"can't be opened \(Permission denied\); change its perm"):
        cifar10_parts(whole)

    def listdir(_path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(BadInput, match=r"data: can't be read \(Permission denied\)"):
        cifar10_parts(whole)


def test_a_pickle_of_something_else_is_refused_in_one_line(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    for raw in (b"", b"\x80\x04", pickle.dumps([1]), pickle.dumps({"data": 1}), b"cno\nsuch\n."):
        (whole / CIFAR10.base_folder / "data_batch_2").write_bytes(raw)
        with pytest.raises(BadInput, match=r"can't be read \(.*delete it so that"):
            cifar10_parts(whole)


@pytest.mark.parametrize("name", ["", "cifar-10-batches-bin", "cifar-10-matlab.tar.gz"])
def test_a_failed_download_leaves_nothing_and_names_the_ways_out(
    name: str, tmp_path: Path, network: list[str]
) -> None:
    data = tmp_path / "new"
    if name:
        (data / name).mkdir(parents=True)
    with pytest.raises(WorkFailed) as caught:
        cifar10_parts(data)
    text = str(caught.value)
    for part in ("name resolution", CIFAR10.url, CIFAR10.filename, "--data-dir", "digits"):
        assert part in text
    assert len(network) == 1
    if name:
        assert f"{data / name} is the " in text
        assert "version, and the python version is needed" in text
        assert os.listdir(data) == [name]
    else:
        assert not data.exists()


def test_an_interrupted_download_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def interrupt(_url, root, **_):
        (Path(root) / CIFAR10.filename).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar, "download_and_extract_archive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cifar10_parts(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_download_appears_whole_under_its_names(whole: Path, tmp_path: Path, monkeypatch) -> None:
    def download(_url, root, *, filename, md5):
        assert Path(root).name.endswith(".partial")
        (Path(root) / filename).write_bytes((whole / filename).read_bytes())
        with tarfile.open(whole / filename) as file:
            file.extractall(root, filter="data")

    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    train, _ = cifar10_parts(tmp_path / "new")
    assert len(train.data) == 50
    assert sorted(os.listdir(tmp_path / "new")) == [CIFAR10.base_folder, CIFAR10.filename]


def test_the_batches_own_directory_is_told_from_the_one_around_it(whole: Path) -> None:
    with pytest.raises(BadInput, match="give the directory around it"):
        cifar10_parts(whole / CIFAR10.base_folder)
    with pytest.raises(BadInput, match="is not a directory"):
        cifar10_parts(whole / CIFAR10.filename)


@pytest.mark.parametrize(("name", "status"), [("data_batch_3", 2), (CIFAR10.base_folder, 1)])
def test_the_exit_status_tells_a_broken_copy_from_a_failed_download(
    name: str, status: int, whole: Path, call
) -> None:
    (whole / CIFAR10.filename).unlink()
    base = whole / CIFAR10.base_folder
    if name == base.name:
        base.rename(whole / "elsewhere")
    else:
        (base / name).unlink()
    found, out, err = call("train", "--data-dir", whole)
    assert (found, out) == (status, "")
    assert str(whole) in one_line(err) or "could not be downloaded" in err
