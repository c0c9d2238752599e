"""All processes of a round share its setting and the file of its results (no torch)."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "GPU_ROUND"
"""The environment variable that hands a :class:`Setting` to the processes of a round."""
DEADLINE = "GPU_ROUND_DEADLINE"
"""The environment variable that says, in Unix time, when a step's time box ends."""
PARTS = ("tests", "latency", "sweeps", "training", "profile", "repair")
"""The parts of a round, the most important first."""
ARCHIVE = "cifar10-jpeg.tar.xz"
"""Archive of the images: an ImageFolder of CIFAR-10 as JPEG."""
CHECKPOINT = "vgg11_bn_linear_cifar10-jpeg.pth"
"""Checkpoint of the dense model that was trained on these images."""


@dataclass(frozen=True)
class Setting:
    """A setting says where a round works and on what; it is the same in all of its processes."""

    root: str
    """Path of the checkout."""
    work: str
    """Directory of the run directories, decoded images and caches."""
    out: str
    """Directory of the results."""
    device: str
    tiny: bool
    """True for a dry run: every command, with as little work as possible."""
    data: str | None
    """The folder with :data:`ARCHIVE` and :data:`CHECKPOINT`.

    If ``None``, CIFAR-10 is downloaded and the dense model is trained first; a dry run takes digits
    and a thin network."""

    @property
    def images(self) -> Path:
        """Return the directory of the images, which need not exist yet."""
        return Path(self.work) / "data"

    @property
    def dataset(self) -> str:
        """Return the value of ``--dataset``."""
        return "folder" if self.data else "digits" if self.tiny else "cifar10"

    @property
    def needs_dense(self) -> bool:
        """Return True if the dense model must be trained before anything else."""
        return not (self.data or self.tiny)

    def trained_dense(self, seed: int = 0) -> Path:
        """Return the path of the dense model that the round trains with ``seed``."""
        return Path(self.work) / "runs" / f"dense-s{seed}" / f"vgg11_{self.dataset}_finetuned.pth"

    @property
    def dense(self) -> Path:
        """Return the path of the dense model that is swept and timed.

        A dry run has a thin one, which its first step makes.
        """
        if self.tiny:
            return Path(self.work) / f"thin-{self.dataset}.pth"
        return Path(self.data) / CHECKPOINT if self.data else self.trained_dense()

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """Return the numbers of images of train, val and test to use; ``None`` for all."""
        return (96, 40, 60) if self.tiny else (None, None, None)

    def variables(self, seconds: float) -> dict[str, str]:
        """Return the environment variables for a step that has ``seconds`` to run."""
        return {VARIABLE: json.dumps(asdict(self)), DEADLINE: str(time.time() + seconds)}

    @classmethod
    def here(cls) -> Setting:
        """Read the setting that the round gave to this process."""
        return cls(**json.loads(os.environ[VARIABLE]))


def record(out: str | Path, kind: str, **data: Any) -> None:
    """Append one line to results.jsonl in ``out``; it is on the disk when this returns.

    Processes may append at the same time.
    """
    line = json.dumps({"kind": kind, "time": round(time.time(), 2), **data}, default=str) + "\n"
    with (Path(out) / "results.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_results(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the lines of results files, in order.

    Lines that are no results are skipped, such as the half line of an interrupted round.
    """
    for path in paths:
        for line in path.read_text(errors="replace").splitlines():
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if isinstance(data, dict) and isinstance(data.get("kind"), str):
                yield data
