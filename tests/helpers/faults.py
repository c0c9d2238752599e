"""Commands on a failing disk.

A process with torch loaded forks one child per command. It kills the child or fails a write at a
chosen moment, or limits the size of its files.

``python -m helpers.faults`` reads one request per line (JSON: ``args``, ``cwd``, ``fault``). It
answers each with one line: ``status`` (exit status, or minus the signal), ``out``, ``err``,
``points`` (moments passed) and ``synced`` (bytes synced to the disk, by inode).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class Disk:
    """A disk that counts moments and fails at one of them.

    At a moment a write, sync, rename or removal is about to happen, half done, or done.
    """

    def __init__(self, fault: dict[str, Any] | None) -> None:
        self.at: int = fault["at"] if fault else -1
        self.kind: str = fault["kind"] if fault else ""
        self.points = 0
        self.synced: dict[int, int] = {}

    def reach(self) -> None:
        self.points += 1
        if self.points != self.at:
            return
        if self.kind == "kill":
            self.told()
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(getattr(errno, self.kind), os.strerror(getattr(errno, self.kind)))

    def told(self) -> None:
        with Path(os.environ["TOLD"]).open("w") as file:
            json.dump({"points": self.points, "synced": self.synced}, file)

    def install(self) -> None:
        """Replace the functions that ``tp_vgg.files`` calls."""
        from tp_vgg.files import atomic, journal

        disk, fsync, replace, unlink, append = (
            self,
            os.fsync,
            Path.replace,
            Path.unlink,
            journal.Journal.append,
        )

        def synced(handle: int) -> None:
            disk.reach()
            fsync(handle)
            found = os.fstat(handle)
            disk.synced[found.st_ino] = found.st_size
            disk.reach()

        def replaced(self: Path, target: Any) -> Path:
            disk.reach()
            done = replace(self, target)
            disk.reach()
            return done

        def unlinked(self: Path, missing_ok: bool = False) -> None:
            disk.reach()
            unlink(self, missing_ok=missing_ok)

        def appended(self: journal.Journal, *entries: dict[str, Any]) -> None:
            if disk.points + 1 == disk.at:  # write a truncated line
                with self._path.open("ab") as file:
                    file.write(json.dumps(entries[0]).encode()[: disk.at % 40])
            disk.reach()
            append(self, *entries)

        def opened(handle: int, mode: str) -> BinaryIO:
            return _Torn(os.fdopen(handle, mode), disk)  # type: ignore[return-value]

        os.fsync, Path.replace, Path.unlink = synced, replaced, unlinked  # type: ignore[assignment]
        journal.Journal.append = appended  # type: ignore[method-assign]
        atomic.os = _Shadow(opened)  # type: ignore[assignment]


class _Shadow:
    """The module ``os`` with its ``fdopen`` replaced."""

    def __init__(self, opened: Any) -> None:
        self.fdopen = opened

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class _Torn:
    """A file that passes a moment half-way through each large write."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) > 64:
            self._file.write(view[: len(view) // 2])
            self._file.flush()
            self._disk.reach()
            self._file.write(view[len(view) // 2 :])
        else:
            self._file.write(view)
        return len(view)

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def lose_unsynced(directory: Path, synced: dict[str, int], rng: np.random.Generator) -> None:
    """Cut files as a power failure may: the synced bytes stay, the rest ends anywhere."""
    for path in directory.rglob("*"):
        if path.is_file() and path.name != ".lock":
            found, sure = path.stat(), synced.get(str(path.stat().st_ino), 0)
            if found.st_size > sure:
                os.truncate(path, int(rng.integers(sure, found.st_size)))


class Server:
    """The process that forks the children."""

    def __init__(self, told: Path) -> None:
        self._told = told
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.faults"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TOLD": str(told), "OMP_NUM_THREADS": "1"},
        )

    def __call__(
        self, args: list[Any], cwd: Path, fault: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps({"args": list(map(str, args)), "cwd": str(cwd), "fault": fault}) + "\n"
        )
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return {**answer, **json.loads(self._told.read_text())}

    def close(self) -> None:
        self._process.communicate()


def _serve() -> None:
    import torch

    import tp_vgg.network.vgg.spec
    import tp_vgg.stages.run
    import tp_vgg.training.trainer
    from helpers import quick
    from tp_vgg.cli import execute
    from tp_vgg.latency.table import cases_of
    from tp_vgg.stages.options import BenchmarkOptions

    torch.set_num_threads(1)
    tp_vgg.stages.run.BENCHMARK = BenchmarkOptions(cases_of(("folded",), ("fp32",), (1,)), 9)
    tp_vgg.training.trainer.SAVE_EVERY = 0.0
    tp_vgg.network.vgg.spec.STAGE_WIDTHS = (8, 12, 16, 20, 24)
    with contextlib.ExitStack() as for_good:
        for shortened in (quick.undrawn(), quick.brief(), quick.digits_once()):
            for_good.enter_context(shortened)
        for_good.pop_all()
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(None):
        few = [
            "--dataset",
            "digits",
            "--head",
            "linear",
            "--limit-train",
            "32",
            "--limit-val",
            "20",
            "--limit-test",
            "20",
            "-q",
            "--out",
        ]
        assert execute(["structured", "--ratio", "0.5", "--finetune-epochs", "1", *few, home]) == 0
    gc.freeze()  # All modules are loaded; the children need not scan them.
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            child = os.fork()
            if not child:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.chdir(request["cwd"])
                fault = request["fault"]
                limited = bool(fault) and fault["kind"] == "limit"
                disk = Disk(None if limited else fault)
                disk.install()
                before = resource.getrlimit(resource.RLIMIT_FSIZE)
                if limited:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (fault["at"], before[1]))
                status = 70
                try:
                    status = execute(request["args"])
                except Exception:  # noqa: BLE001  the test sees it on stderr
                    import traceback

                    traceback.print_exc()
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)
                    disk.told()
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            _, ended = os.waitpid(child, 0)
            out.seek(0)
            err.seek(0)
            sys.stdout.write(
                json.dumps(
                    {
                        "status": os.waitstatus_to_exitcode(ended),
                        "out": out.read(),
                        "err": err.read(),
                    }
                )
                + "\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    _serve()
