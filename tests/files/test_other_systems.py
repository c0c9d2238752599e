"""Systems that lack what POSIX has: the modules are hidden from a Linux process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from tp_vgg.errors import BadInput
from tp_vgg.files import atomic, lock
from tp_vgg.files.lock import locked
from tp_vgg.machine import memory

WINDOWS = """
import asyncio, os, sys  # asyncio of Linux needs os.sysconf
for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty"):
    sys.modules[name] = None
for name in ("sysconf", "sched_getaffinity", "geteuid", "getuid", "fork", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)
"""
"""Hides from Python what Windows does not have."""


def python(code: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WINDOWS + code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def test_every_module_is_imported_without_posix() -> None:
    code = """
import importlib, pathlib, tp_vgg
root = pathlib.Path(tp_vgg.__file__).parent
names = [".".join(("tp_vgg", *path.relative_to(root).with_suffix("").parts))
         for path in root.rglob("*.py") if path.stem != "__main__"]
for name in names:
    importlib.import_module(name.removesuffix(".__init__"))
print(len(names))
"""
    assert int(python(code)) > 100


def test_a_run_directory_is_worked_in_without_posix(tmp_path: Path) -> None:
    code = f"""
import logging, pathlib, torch
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from tp_vgg.files.atomic import write_text
from tp_vgg.files.lock import locked
from tp_vgg.machine.memory import PeakMemory, free_memory
with locked(pathlib.Path({str(tmp_path)!r})):
    write_text(pathlib.Path({str(tmp_path)!r}, "file"), "text")
assert free_memory(torch.device("cpu")) > 0
assert PeakMemory(torch.device("cpu")).bytes() >= 0
"""
    assert "can't be locked here; run one command at a time in it" in python(code)
    assert sorted(os.listdir(tmp_path)) == [".lock", "file"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_of(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_args: object, **_options: object) -> bool:
        raise OSError(code, os.strerror(code))

    caplog.set_level("INFO")
    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    assert "can't be locked here" in caplog.text


def test_another_error_of_the_lock_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> bool:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    with pytest.raises(OSError, match="broken"), locked(tmp_path):
        pass


def test_the_holder_is_read_past_the_byte_that_windows_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_LEAD", "\n")
    said = f"in use by process {os.getpid()}; wait for it"
    with locked(tmp_path), pytest.raises(BadInput, match=said), locked(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == f"\n{os.getpid()}\n"


def test_a_refused_command_leaves_the_holders_pid(tmp_path: Path) -> None:
    with locked(tmp_path):
        for _ in range(3):
            with (
                pytest.raises(BadInput, match=f"in use by process {os.getpid()};"),
                locked(tmp_path),
            ):
                pass
    with locked(tmp_path):
        pass


def test_directories_are_synced_where_they_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: (opened.append(path), real(path, *rest))[1])
    atomic.sync_directory(tmp_path)
    assert opened == [tmp_path]
    monkeypatch.setattr(atomic.os, "name", "nt")
    atomic.sync_directory(tmp_path)
    assert opened == [tmp_path]


@pytest.mark.parametrize("error", [AttributeError, ValueError, OSError])
def test_unknown_memory_is_taken_for_4_gib(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sysconf(_name: str) -> int:
        raise error

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert memory._physical_memory() == 4 << 30
