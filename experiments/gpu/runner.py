"""A round runs steps until its time is over (no torch).

Each step is a process group of its own with a time box.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gpu.outputs import pack
from gpu.setting import Setting, record

SHORTEST = 5.0
"""A step is not begun if it has fewer seconds than this."""
LAST = 2.0
"""A step's time box ends at least this many seconds before the end of the round."""
PACK_EVERY = 15.0
"""Least seconds between two updates of files.tar.gz while steps run."""
KEPT = 6000
"""Characters that logs.txt keeps of a step's output, from its beginning and from its end."""


@dataclass
class Round:
    """A round lasts until its end, or until a signal cuts it short."""

    setting: Setting
    here: Path
    """The folder of the script and of the package `gpu`."""
    end: float
    """Unix time at which the round ends."""
    only: tuple[str, ...] = ()
    """The parts to do; all of them if empty."""
    started: float = field(default_factory=time.time)
    """Unix time at which the round began."""
    cut: int = 0
    """Number of the signal that cut the round short; 0 if none did."""
    failed: list[str] = field(default_factory=list)
    """Names of the steps and jobs that failed; stopped steps are not among them."""
    ended: int = 0
    """Number of steps that ended or were stopped."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _packed: float = 0.0

    @property
    def work(self) -> Path:
        """Return the directory of run directories, decoded images and caches."""
        return Path(self.setting.work)

    @property
    def out(self) -> Path:
        """Return the directory of the results."""
        return Path(self.setting.out)

    def left(self) -> float:
        """Return the seconds to the end of the round; negative after it."""
        return self.end - time.time()

    def cut_short(self, number: int, _frame: object = None) -> None:
        """Stop the running steps and begin no others; this is a signal handler."""
        self.cut, self.end = number, time.time()

    def wants(self, part: str) -> bool:
        """Return True if the part is to be done."""
        return not self.only or part in self.only

    def line(self, text: str) -> None:
        """Print a line, and append it to summary.txt; it is on the disk when this returns."""
        stamped = f"[{time.time() - self.started:6.1f} s] {text}\n"
        with self._lock:
            sys.stdout.write(stamped)
            sys.stdout.flush()
            with (self.out / "summary.txt").open("a") as file:
                file.write(stamped)
                file.flush()
                os.fsync(file.fileno())

    def record(self, kind: str, **data: object) -> None:
        """Append a line to results.jsonl."""
        record(self.out, kind, **data)

    def module(self, name: str, box: float, *arguments: str) -> int | None:
        """Run a module of the package `gpu` as a step; see :meth:`step`.

        ``box``: seconds. ``arguments``: those of the module's command line.
        """
        return self.step(
            " ".join((name, *arguments)), [sys.executable, "-m", f"gpu.{name}", *arguments], box
        )

    def step(self, name: str, command: list[str], box: float) -> int | None:
        """Run ``command`` for ``box`` seconds at most, and never past the round's end.

        Returns its exit status, −1 if it was stopped, and ``None`` if there was no time to begin
        it. The outcome is recorded, and the output goes to logs.txt.
        """
        limit = min(box, self.left() - LAST)
        if limit < SHORTEST:
            self.skip(name, f"{max(self.left(), 0):.0f} s left")
            return None
        log = self.work / "logs" / (re.sub(r"[^\w.-]+", "-", name) + ".txt")
        log.parent.mkdir(parents=True, exist_ok=True)
        begun = time.time()
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self.setting.root,
                env=self._environment(limit),
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            stopped = self._wait(process, begun + limit)
        self._ended(name, command, process.returncode, stopped, time.time() - begun, log)
        return -1 if stopped else process.returncode

    def skip(self, name: str, reason: str) -> None:
        """Print and record that a step is not begun."""
        self.line(f"{name}: not run, {reason}")
        self.record("step", name=name, outcome="not run")

    def together(self, jobs: Iterable[Callable[[], object]], at_once: int) -> None:
        """Run jobs in their order, ``at_once`` of them at the same time (in a dry run one).

        A job that raises is reported as failed, and the others run all the same.
        """
        with ThreadPoolExecutor(1 if self.setting.tiny else at_once) as pool:
            list(pool.map(self._guarded, jobs))

    def _guarded(self, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001
            name = getattr(job, "__name__", "a job")
            self.failed.append(name)
            self.line(f"{name}: failed: {type(error).__name__}: {error}")

    def pack(self, *, now: bool = True) -> None:
        """Update files.tar.gz; without ``now``, only every :data:`PACK_EVERY` seconds."""
        with self._lock:
            if now or time.time() - self._packed > PACK_EVERY:
                pack(self.work, self.out)
                self._packed = time.time()

    def _wait(self, process: subprocess.Popen[bytes], until: float) -> bool:
        """Wait until a step ends, or stop it at the end of its box or of the round.

        ``until``: Unix time. Returns True if the step was stopped.
        """
        while time.time() < min(until, self.end - LAST / 2):
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            return False
        stop(process)
        return True

    def _ended(
        self, name: str, command: list[str], rc: int, stopped: bool, seconds: float, log: Path
    ) -> None:
        """Print and record how a step ended, and append its output to logs.txt."""
        text = re.sub(r"[^\n]*\r", "", log.read_bytes().decode(errors="replace"))
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "")[:200]
        outcome = "stopped" if stopped else "ok" if rc == 0 else f"exit status {rc}"
        if rc != 0 and not stopped:
            self.failed.append(name)
        self.ended += 1
        self.record(
            "step",
            name=name,
            outcome=outcome,
            seconds=round(seconds, 2),
            command=command,
            last=last,
        )
        with self._lock, (self.out / "logs.txt").open("a") as file:
            file.write(
                f"\n===== {name}: {outcome}, {seconds:.1f} s\n{' '.join(command)}\n"
                f"{_shortened(text)}\n"
            )
        self.line(f"{name}: {outcome} in {seconds:.1f} s   | {last[:120]}")
        self.pack(now=False)

    def _environment(self, limit: float) -> dict[str, str]:
        """Return the environment of a step that has ``limit`` seconds.

        It has the import path, the setting and deadline, and caches inside the round's directory.
        """
        root = Path(self.setting.root)
        places = [self.work / "site", self.here, root, root / "experiments"]
        # Many processes share the cores. A user's own values come before these.
        defaults = {"OMP_NUM_THREADS": "4", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
        fixed = {
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "PYTHONUNBUFFERED": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
            "TRITON_CACHE_DIR": str(self.work / "triton"),
        }
        variables = {**defaults, **os.environ, **fixed, **self.setting.variables(limit)}
        variables.pop("WORLD_SIZE", None)
        return variables


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a step's process group, first as Ctrl-C does, so that tp_vgg keeps finished work.

    If it does not end, SIGTERM and SIGKILL follow.
    """
    for kind, wait in ((signal.SIGINT, 3), (signal.SIGTERM, 1), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, kind)
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def _shortened(text: str) -> str:
    """Return the text, without its middle if it is long."""
    if len(text) <= 2 * KEPT:
        return text
    return f"{text[:KEPT]}\n[... {len(text) - 2 * KEPT} characters left out ...]\n{text[-KEPT:]}"
