"""What all processes of a round share: where it works, on what, and the file that its results go to (no torch)."""

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
PARTS = ("tests", "latency", "sweeps", "training", "profile")
"""The parts of a round, the most wanted first."""
ARCHIVE = "cifar10-jpeg.tar.xz"
"""The images: an ImageFolder of CIFAR-10 as JPEG."""
CHECKPOINT = "vgg11_bn_linear_cifar10-jpeg.pth"
"""The dense model trained on them."""


@dataclass(frozen=True)
class Setting:
    """Where a round works and what on. The same in each of its processes."""

    root: str
    """The checkout."""
    work: str
    """Where run directories, decoded images and caches lie."""
    out: str
    """Where results go."""
    device: str
    tiny: bool
    """A dry run: every command, with as little work as it can do."""
    data: str | None
    """The folder with :data:`ARCHIVE` and :data:`CHECKPOINT`. ``None``: CIFAR-10 is downloaded and the dense model trained
    here; in a dry run, digits and a thin network."""

    @property
    def images(self) -> Path:
        """Where the images are, or go."""
        return Path(self.work) / "data"

    @property
    def dataset(self) -> str:
        """The name of the data set on the command line."""
        return "folder" if self.data else "digits" if self.tiny else "cifar10"

    @property
    def needs_dense(self) -> bool:
        """Whether the dense model must be trained before anything else."""
        return not (self.data or self.tiny)

    def trained_dense(self, seed: int = 0) -> Path:
        """Where the dense model of a seed lies once it is trained."""
        return Path(self.work) / "runs" / f"dense-s{seed}" / f"vgg11_{self.dataset}_finetuned.pth"

    @property
    def dense(self) -> Path:
        """The dense model that is swept and timed; a dry run's is a thin one, made by its first step."""
        if self.tiny:
            return Path(self.work) / f"thin-{self.dataset}.pth"
        return Path(self.data) / CHECKPOINT if self.data else self.trained_dense()

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """How many images of train, val and test are used; ``None`` for all."""
        return (96, 40, 60) if self.tiny else (None, None, None)

    def variables(self, seconds: float) -> dict[str, str]:
        """The environment of a step that has ``seconds`` to run."""
        return {VARIABLE: json.dumps(asdict(self)), DEADLINE: str(time.time() + seconds)}

    @classmethod
    def here(cls) -> Setting:
        """The setting that the round gave to this process."""
        return cls(**json.loads(os.environ[VARIABLE]))


def record(out: str | Path, kind: str, **data: Any) -> None:
    """Append one line to results.jsonl; it is on the disk when this returns."""
    line = json.dumps({"kind": kind, "time": round(time.time(), 2), **data}, default=str) + "\n"
    with (Path(out) / "results.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_results(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The lines of results files, in order; a line that a cut has left half written is skipped."""
    for path in paths:
        for line in path.read_text(errors="replace").splitlines():
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if isinstance(data, dict) and isinstance(data.get("kind"), str):
                yield data
