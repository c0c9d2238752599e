"""Where the files of a run lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.network.families import STEMS
from tp_vgg.pruning.criteria import Kind
from tp_vgg.rundir.settings import Settings

MODELS = ("baseline", "unstructured", "structured_pruned", "structured_finetuned")
"""The models of ``metrics.json``, in the order in which they are shown."""
HISTORIES = {
    "baseline": "history.csv",
    "unstructured": "unstructured_history.csv",
    "structured_finetuned": "structured_history.csv",
}
PLANS: dict[Kind, str] = {"structured": "ratios.json", "unstructured": "sparsity.json"}
"""The plan files that `plan` writes."""
RESERVED_DIRS = ("plots", "profiles", "records", "tensorboard")
"""Directories of a run directory that are no tag's."""
GIVEN = "given_baseline"
"""The record of a dense model from elsewhere (``--checkpoint``), apart from the run directory's own baseline."""


@dataclass(frozen=True)
class RunDir:
    """The files of one run. ``work`` is ``root`` or, with a tag, a directory in it; the baseline is in ``root``."""

    root: Path
    work: Path
    dataset: str

    @classmethod
    def of(cls, settings: Settings, fingerprint: str | None = None) -> RunDir:
        """``fingerprint``: the data's, where it is known; an ImageFolder's is part of the default name, and finding it may mean decoding it."""
        root = settings.out
        if root is None:
            name = settings.dataset
            if settings.images.local:
                digest = fingerprint or settings.folder_fingerprint()
                name = f"{name}-{settings.data_dir.resolve().name}-{digest[:8]}"
            spec = settings.flag_spec()
            root = Path("runs") / f"{spec.arch}-{spec.head}-{name}"
        work = root / settings.tag if settings.tag else root
        check_parent("--out or --tag", work / "x")
        return cls(root, work, settings.dataset)

    def checkpoint(self, model: str, stem: str) -> Path:
        """Where a model of ``MODELS`` of a network called ``stem`` (:attr:`Spec.stem`) is saved (fixed names)."""
        names = {
            "baseline": f"{stem}_{self.dataset}_finetuned.pth",
            "unstructured": f"unstructured_pruned_{stem}.pth",
            "structured_pruned": f"{stem}_{self.dataset}_structured_pruned.pth",
            "structured_finetuned": f"{stem}_{self.dataset}_structured_pruned_finetuned.pth",
        }
        return (self.root if model == "baseline" else self.work) / names[model]

    def own_baseline(self, settings: Settings) -> Path | None:
        """The finished baseline in ``root``: of the depth that ``--arch`` says, else of any (the default's first)."""
        wanted = settings.flag_spec().stem
        stems = (
            (wanted,) if settings.arch else (wanted, *(stem for stem in STEMS if stem != wanted))
        )
        found = (self.checkpoint("baseline", stem) for stem in stems)
        return next((path for path in found if path.is_file()), None)

    def record_path(self, model: str) -> Path:
        return (self.root if model == "baseline" else self.work) / "records" / f"{model}.json"

    def history(self, model: str) -> Path | None:
        """Where the epochs of a model's training are; ``None`` for a model that is not trained."""
        return (
            (self.root if model == "baseline" else self.work) / HISTORIES[model]
            if model in HISTORIES
            else None
        )

    @property
    def plan(self) -> Path:
        """What was predicted, beside the plans themselves."""
        return self.work / "plan.json"

    @property
    def latency(self) -> Path:
        return self.work / "latency.json"

    def plot(self, name: str) -> Path:
        return self.work / "plots" / f"{name}.png"


def check_parent(option: str, path: Path) -> None:
    """Raise :class:`BadInput` where no file can be made at ``path``, because what would be its directory is something else."""
    there = next(
        (parent for parent in path.parents if parent.exists() or parent.is_symlink()), None
    )
    if there is not None and not there.is_dir():
        raise BadInput(f"{there}: is not a directory; give another {option}")


def partial_of(path: Path, step: str = "") -> Path:
    """Where unfinished work on ``path`` lies."""
    return path.with_name(f"{path.stem}{step}.partial{path.suffix}")
