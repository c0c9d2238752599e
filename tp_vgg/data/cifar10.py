"""CIFAR-10 is read from a whole copy, or downloaded; a broken copy is named, never unpickled."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import socket
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from tp_vgg.errors import BadInput, WorkFailed

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

log = logging.getLogger(__name__)

ARCHIVE_BYTES = 170_498_071
"""Size of the archive of the python version."""
_WAIT = 60.0
"""Seconds without a byte after which a download fails."""
_OTHER_VERSIONS = {
    "cifar-10-batches-bin": "binary",
    "cifar-10-binary.tar.gz": "binary",
    "cifar-10-batches-mat": "MATLAB",
    "cifar-10-matlab.tar.gz": "MATLAB",
}
_UNREADABLE = (
    pickle.UnpicklingError,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
)
"""Errors of a pickle that does not hold what is expected."""


def cifar10_parts(data_dir: Path) -> tuple[CIFAR10, CIFAR10]:
    """Return torchvision's CIFAR-10, (train, test), from ``data_dir``; it is downloaded if missing.

    No network is used if the batches or the archive are there. Files are checked by MD5 before they
    are unpacked or read.

    Raises :class:`BadInput` for a copy that is broken or can't be read, and :class:`WorkFailed` if
    the download fails or the archive can't be unpacked; nothing of it is left then.
    """
    from torchvision.datasets import CIFAR10

    _check_directory(data_dir)
    base = data_dir / CIFAR10.base_folder
    fault = _fault(base)
    if fault and not _unpacked(data_dir, fault):
        if base.exists():
            raise BadInput(_fix(fault, base))
        _download(data_dir)
    try:
        return CIFAR10(str(data_dir), train=True), CIFAR10(str(data_dir), train=False)
    except _UNREADABLE as error:
        fault = _fault(base) or f"{base}: can't be read ({_reason(error)})"
        raise BadInput(_fix(fault, base)) from None


def _check_directory(data_dir: Path) -> None:
    if data_dir.exists() and not data_dir.is_dir():
        raise BadInput(f"--data-dir: {data_dir}: is not a directory")
    try:
        names = set(os.listdir(data_dir))
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInput(
            f"--data-dir: {data_dir}: can't be read ({error.strerror}); change its permissions, or "
            "give another"
        ) from None
    if "data_batch_1" in names:
        raise BadInput(
            f"--data-dir: {data_dir}: holds the batches themselves; give the directory around it "
            f"({data_dir.absolute().parent}), and leave its name as cifar-10-batches-py"
        )


def _fault(base: Path) -> str | None:
    """Return what is wrong with the first batch that is not whole; None if all are."""
    from torchvision.datasets import CIFAR10, cifar

    files = [*CIFAR10.train_list, *CIFAR10.test_list]
    for name, md5 in [*files, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]:
        path = base / name
        try:
            if cifar.check_integrity(str(path), md5):
                continue
            if path.exists():
                return f"{path}: {_kind(path)} (its MD5 is not that of CIFAR-10's {name})"
        except OSError as error:
            return f"{path}: can't be opened ({error.strerror})"
        return f"{path}: is missing"
    return None


def _unpacked(data_dir: Path, fault: str) -> bool:
    """Unpack the archive if there is one; return False if there is none."""
    from torchvision.datasets import CIFAR10, cifar
    from torchvision.datasets.utils import extract_archive

    archive = data_dir / CIFAR10.filename
    if not (archive.exists() or archive.is_symlink()):
        return False
    try:
        whole = cifar.check_integrity(str(archive), CIFAR10.tgz_md5)
        kind = "" if whole else _kind(archive, ARCHIVE_BYTES)
    except OSError as error:
        raise BadInput(_fix(f"{archive}: can't be opened ({error.strerror})", archive)) from None
    if not whole:
        raise BadInput(
            _fix(f"{archive}: {kind} (its MD5 is not that of CIFAR-10's archive)", archive)
        )
    if (data_dir / CIFAR10.base_folder).exists():
        log.info(f"{fault}; all batches are unpacked again from {archive}")
    try:
        extract_archive(str(archive), str(data_dir))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise WorkFailed(
            f"{archive}: could not be unpacked ({_reason(error)}); give --data-dir a directory "
            "that can be written, with 200 MB free"
        ) from None
    return True


def _download(data_dir: Path) -> None:
    """Download into a directory of its own, so that the final names hold whole files alone."""
    from torchvision.datasets import CIFAR10

    new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="cifar-10.", suffix=".partial", dir=data_dir))
    except OSError as error:
        raise BadInput(
            f"--data-dir: {data_dir}: can't be written ({error.strerror}), and CIFAR-10 is not in "
            "it; give another"
        ) from None
    try:
        with contextlib.redirect_stdout(sys.stderr), _patience():
            CIFAR10(str(work), train=False, download=True)
        for name in (CIFAR10.base_folder, CIFAR10.filename):
            # Another process may have been faster.
            if (work / name).exists() and not (data_dir / name).exists():
                (work / name).replace(data_dir / name)
    except (*_UNREADABLE, HTTPException, tarfile.TarError) as error:
        raise WorkFailed(
            f"CIFAR-10 could not be downloaded from {CIFAR10.url} ({_reason(error)})"
            f"{_other_version(data_dir)}; put {CIFAR10.filename} in a directory and give "
            "--data-dir, or try --dataset digits"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):
                data_dir.rmdir()  # only if it is empty


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Let connections fail after a silence, for the duration of the block; urllib waits forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_WAIT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _other_version(data_dir: Path) -> str:
    for name, version in _OTHER_VERSIONS.items():
        if (data_dir / name).exists():
            return f"; {data_dir / name} is the {version} version, and the python version is needed"
    return ""


def _kind(path: Path, whole_bytes: int = 0) -> str:
    """Return what a file that is not whole looks like; raise ``OSError`` if it can't be read."""
    if not path.is_file():
        return "is a link to a missing file" if path.is_symlink() else "is not a regular file"
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    size = path.stat().st_size
    if not size:
        return "is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not the data"
    if size < whole_bytes:
        return f"is truncated or another file: {size:,} of {whole_bytes:,} bytes"
    return "is damaged or another file"


def _fix(fault: str, broken: Path) -> str:
    if "can't be opened" in fault:
        return f"{fault}; change its permissions, or give --data-dir with another copy"
    return (
        f"{fault}; delete {'it' if fault.startswith(f'{broken}: ') else broken} so that it is "
        "downloaded again, or give --data-dir with a whole copy"
    )


def _reason(error: BaseException) -> str:
    text = str(error).strip("<>").splitlines()
    return ascii(text[0])[1:-1][:120] if text and text[0] else type(error).__name__
