"""A round: its clock, its results, and its steps, each a process group of its own in a time box (no torch)."""

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
"""A step that has fewer seconds than that is not begun."""
LAST = 2.0
"""Seconds before the round's end at which its steps are stopped."""
PACK_EVERY = 15.0
"""Seconds between two packings of the run directories' files."""
KEPT = 6000
"""Characters kept of the beginning and of the end of what a step printed."""


@dataclass
class Round:
    """One round from its start to its end, or to a signal that cuts it short."""

    setting: Setting
    here: Path
    """The folder of the script and of the package `gpu`."""
    end: float
    """Unix time."""
    only: tuple[str, ...] = ()
    started: float = field(default_factory=time.time)
    cut: int = 0
    """The signal that ended the round, if one did."""
    failed: list[str] = field(default_factory=list)
    ended: int = 0
    """Steps that came to their end."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _packed: float = 0.0

    @property
    def work(self) -> Path:
        return Path(self.setting.work)

    @property
    def out(self) -> Path:
        return Path(self.setting.out)

    def left(self) -> float:
        """Seconds to the end of the round."""
        return self.end - time.time()

    def cut_short(self, number: int, _frame: object = None) -> None:
        """A signal handler: the running steps are stopped, and no further one is begun."""
        self.cut, self.end = number, time.time()

    def wants(self, part: str) -> bool:
        """Tell whether a part was asked for."""
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
        """Run one of the package's modules as a step."""
        return self.step(
            " ".join((name, *arguments)), [sys.executable, "-m", f"gpu.{name}", *arguments], box
        )

    def step(self, name: str, command: list[str], box: float) -> int | None:
        """Run ``command`` for ``box`` seconds at most, and never past the round's end.

        Returns its exit status, −1 where it was stopped, and ``None`` where there was no time to begin it.
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
        """Say and record that a step is not begun."""
        self.line(f"{name}: not run, {reason}")
        self.record("step", name=name, outcome="not run")

    def together(self, jobs: Iterable[Callable[[], object]], at_once: int) -> None:
        """Run jobs, so many at once (in a dry run one), in their order. One that raises is said to have failed, and keeps none of the others back."""
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
        """Renew files.tar.gz; without ``now``, only if the last time is a while ago."""
        with self._lock:
            if now or time.time() - self._packed > PACK_EVERY:
                pack(self.work, self.out)
                self._packed = time.time()

    def _wait(self, process: subprocess.Popen[bytes], until: float) -> bool:
        """Wait for a step's end, or stop it at the end of its box or of the round; tells which."""
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
        """Say and record how a step ended, and keep what it printed."""
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
                f"\n===== {name}: {outcome}, {seconds:.1f} s\n{' '.join(command)}\n{_shortened(text)}\n"
            )
        self.line(f"{name}: {outcome} in {seconds:.1f} s   | {last[:120]}")
        self.pack(now=False)

    def _environment(self, limit: float) -> dict[str, str]:
        """The variables of a step: where things are, and caches of its own."""
        root = Path(self.setting.root)
        places = [self.work / "site", self.here, root, root / "experiments"]
        usual = {
            "OMP_NUM_THREADS": "4",
            "TORCHINDUCTOR_COMPILE_THREADS": "4",
        }  # many processes share the cores
        own = {
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "PYTHONUNBUFFERED": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
            "TRITON_CACHE_DIR": str(self.work / "triton"),
        }
        variables = {**usual, **os.environ, **own, **self.setting.variables(limit)}
        variables.pop("WORLD_SIZE", None)
        return variables


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a step's process group: first as Ctrl-C does, so that the product keeps what is done."""
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
    """The beginning and the end of a long text."""
    if len(text) <= 2 * KEPT:
        return text
    return f"{text[:KEPT]}\n[... {len(text) - 2 * KEPT} characters left out ...]\n{text[-KEPT:]}"
