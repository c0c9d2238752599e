"""This module names the files of a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tp_vgg.data.catalogue import IMAGE_SIZE
from tp_vgg.errors import BadInput
from tp_vgg.network.families import STEMS
from tp_vgg.pruning.criteria import Kind
from tp_vgg.rundir.settings import Settings

MODELS = ("baseline", "unstructured", "structured_pruned", "structured_finetuned")
"""The models of ``metrics.json``, in the order of the tables."""
HISTORIES = {
    "baseline": "history.csv",
    "unstructured": "unstructured_history.csv",
    "structured_finetuned": "structured_history.csv",
}
"""The file with the epochs of each model that is trained."""
PLANS: dict[Kind, str] = {"structured": "ratios.json", "unstructured": "sparsity.json"}
"""The plan file that `plan` writes, by the kind of pruning."""
REPLACED = "replaced"
"""Directory of finished results that gave way to others; see :mod:`tp_vgg.rundir.replaced`."""
RESERVED_DIRS = ("plots", "profiles", "records", REPLACED, "tensorboard")
"""Directories with a fixed meaning in a run directory; no tag may have such a name."""
GIVEN = "given_baseline"
"""Name of the record of a dense model from elsewhere (``--checkpoint``).

The run directory's own baseline has a record of its own."""


@dataclass(frozen=True)
class RunDir:
    """A run directory knows the paths of one run's files."""

    root: Path
    """The directory with the baseline."""
    work: Path
    """The directory with everything else: ``root/<tag>``, or ``root`` without a tag."""
    dataset: str

    @classmethod
    def of(cls, settings: Settings, fingerprint: str | None = None) -> RunDir:
        """Return the run directory that the settings select.

        ``fingerprint``: the fingerprint of the data, if it is already known. The default name for
        the user's own images contains it, and computing it may decode all of them. Raises
        :class:`BadInput` if a file is in the place of the directory or of one of its parents.
        """
        root = settings.out
        if root is None:
            name = settings.dataset
            if settings.images.local:
                digest = fingerprint or settings.folder_fingerprint()
                name = f"{name}-{settings.data_dir.resolve().name}-{digest[:8]}"
            spec = settings.flag_spec()
            size = "" if spec.image_size == IMAGE_SIZE else f"-{spec.image_size}px"
            root = Path("runs") / f"{spec.arch}-{spec.head}-{name}{size}"
        work = root / settings.tag if settings.tag else root
        check_parent("--out or --tag", work / "x")
        return cls(root, work, settings.dataset)

    def checkpoint(self, model: str, stem: str) -> Path:
        """Return the path of a model's checkpoint; the names are fixed.

        ``model``: one of :data:`MODELS`; ``stem``: the network's :attr:`Spec.stem`.
        """
        names = {
            "baseline": f"{stem}_{self.dataset}_finetuned.pth",
            "unstructured": f"unstructured_pruned_{stem}.pth",
            "structured_pruned": f"{stem}_{self.dataset}_structured_pruned.pth",
            "structured_finetuned": f"{stem}_{self.dataset}_structured_pruned_finetuned.pth",
        }
        return (self.root if model == "baseline" else self.work) / names[model]

    def own_baseline(self, settings: Settings) -> Path | None:
        """Return the checkpoint of the finished baseline in ``root``, or ``None``.

        It has the depth of ``--arch``. Without that flag any depth counts, the default one first.
        """
        preferred = settings.flag_spec().stem
        others = (stem for stem in STEMS if stem != preferred)
        stems = (preferred,) if settings.arch else (preferred, *others)
        paths = (self.checkpoint("baseline", stem) for stem in stems)
        return next((path for path in paths if path.is_file()), None)

    def record_path(self, model: str) -> Path:
        """Return the path of a model's record (JSON)."""
        return (self.root if model == "baseline" else self.work) / "records" / f"{model}.json"

    def dense_record_paths(self) -> list[Path]:
        """Return the paths of all records of dense models, the run directory's own one first.

        Besides ``baseline.json`` and ``given_baseline.json`` there is one for each other checkpoint
        or other test images with which a stage has worked (:meth:`another_record_path`).
        """
        own = self.record_path(MODELS[0])
        others = (
            path
            for directory in dict.fromkeys((self.root, self.work))
            for name in (MODELS[0], GIVEN)
            for path in sorted((directory / "records").glob(f"{name}*.json"))
        )
        return [path for path in dict.fromkeys((own, *others)) if path.is_file()]

    def another_record_path(self, model: str, key: str) -> Path:
        """Return the path of a dense model's record beside the first one; ``key`` tells it apart.

        It is in ``work``, because a tag changes nothing in the directory that it shares.
        """
        return self.work / "records" / f"{model}-{key[:8]}.json"

    def history(self, model: str) -> Path | None:
        """Return the path of a model's training history; ``None`` if it is never trained."""
        return (
            (self.root if model == "baseline" else self.work) / HISTORIES[model]
            if model in HISTORIES
            else None
        )

    @property
    def plan(self) -> Path:
        """Return the path of ``plan.json``, with the plans and their predictions."""
        return self.work / "plan.json"

    @property
    def latency(self) -> Path:
        """Return the path of the benchmark."""
        return self.work / "latency.json"

    @property
    def pareto(self) -> Path:
        """Return the path of the table of several budgets."""
        return self.work / "pareto.csv"

    @property
    def pareto_record(self) -> Path:
        """Return the path of the record behind that table (JSON)."""
        return self.work / "records" / "pareto.json"

    def plot(self, name: str) -> Path:
        """Return the path of a figure."""
        return self.work / "plots" / f"{name}.png"


def check_parent(option: str, path: Path) -> None:
    """Raise :class:`BadInput` if no file can be made at ``path``: a parent is not a directory.

    ``option``: the option that the path comes from, for the message.
    """
    nearest = next(
        (parent for parent in path.parents if parent.exists() or parent.is_symlink()), None
    )
    if nearest is not None and not nearest.is_dir():
        raise BadInput(f"{nearest}: is not a directory; give another {option}")


def partial_of(path: Path, step: str = "") -> Path:
    """Return the path of the unfinished work on ``path``; ``step`` goes into its name."""
    return path.with_name(f"{path.stem}{step}.partial{path.suffix}")
