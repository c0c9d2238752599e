"""What every command is told, and where its files lie (no torch, so that a refusal is instant)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tp_vgg.errors import BadInput, printable
from tp_vgg.records import ModelRecord
from tp_vgg.spec import STAGES, VGGSpec
from tp_vgg.storage import read_json

DATASETS = ("cifar10", "folder", "digits")
MODELS = ("baseline", "unstructured", "structured_pruned", "structured_finetuned")
"""The models of ``metrics.json``, in the order in which they are shown."""
OWN = ("plots", "profiles", "records", "tensorboard")
"""Directories of a run directory that are no tag's."""
GIVEN = "given_baseline"
"""The record of a dense model from elsewhere (``--checkpoint``), apart from the run directory's own baseline."""


@dataclass(frozen=True)
class Settings:
    """The options common to all commands, as given; ``None`` where the user said nothing."""

    arch: str | None = None
    head: str | None = None
    dataset: str = "cifar10"
    data_dir: Path = Path("data")
    out: Path | None = None
    tag: str | None = None
    checkpoint: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    limit_train: int | None = None
    limit_val: int | None = None
    limit_test: int | None = None
    skip_corrupt: bool = False
    quiet: bool = False
    tensorboard: bool = False
    """Show TensorBoard scalars and figures, under ``tensorboard/``."""
    command: str = ""
    """The command line, for the records; empty from Python."""

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        return self.limit_train, self.limit_val, self.limit_test

    def note(self, text: str) -> None:
        """A line for the user on stderr, unless quiet."""
        if not self.quiet:
            sys.stderr.write(f"{printable(text)}\n")

    def bar(self, label: str) -> str:
        """The label of a progress bar, empty (no bar) if quiet."""
        return "" if self.quiet else label

    def folder_fingerprint(self) -> str:
        """Of the images in ``data_dir``, which may have to be decoded for it."""
        from tp_vgg.folder import SIZE, folder_fingerprint

        return folder_fingerprint(self.data_dir, SIZE, self.note, self.quiet, skip_corrupt=self.skip_corrupt)

    def flag_spec(self) -> VGGSpec:
        """The dense spec that the flags ask for."""
        return VGGSpec.preset(self.arch or "vgg11_bn", self.head or "torchvision")

    def for_spec(self, spec: VGGSpec) -> Settings:
        """With the arch and head that a checkpoint turned out to hold."""
        return replace(self, arch=spec.arch, head=spec.head)

    def check_spec(self, spec: VGGSpec, source: object) -> None:
        """Raise :class:`BadInput` where an explicit flag contradicts what a checkpoint holds."""
        for flag, asked, found in (("--arch", self.arch, spec.arch), ("--head", self.head, spec.head)):
            if asked is not None and asked != found:
                raise BadInput(
                    f"{source}: holds {found}, but {flag} {asked} was given; drop the flag or give another checkpoint"
                )


def flags(settings: Settings) -> list[str]:
    """The options that say which network, images and run directory are meant, as they would be typed; but for the tag."""
    usual, found = Settings(), []
    for name in ("arch", "head", "dataset", "data_dir", "out", "checkpoint", "limit_train", "limit_val", "limit_test"):
        value = getattr(settings, name)
        if value != getattr(usual, name):
            found += [f"--{name.replace('_', '-')}", str(value)]
    return [*found, "--skip-corrupt"] if settings.skip_corrupt else found


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
            if name == "folder":
                digest = fingerprint or settings.folder_fingerprint()
                name = f"folder-{settings.data_dir.resolve().name}-{digest[:8]}"
            spec = settings.flag_spec()
            root = Path("runs") / f"{spec.arch}-{spec.head}-{name}"
        work = root / settings.tag if settings.tag else root
        check_parent("--out or --tag", work / "x")
        return cls(root, work, settings.dataset)

    def checkpoint(self, model: str, depth: int) -> Path:
        """Where a model of ``MODELS`` is saved (fixed names)."""
        names = {
            "baseline": f"vgg{depth}_{self.dataset}_finetuned.pth",
            "unstructured": f"unstructured_pruned_vgg{depth}.pth",
            "structured_pruned": f"vgg{depth}_{self.dataset}_structured_pruned.pth",
            "structured_finetuned": f"vgg{depth}_{self.dataset}_structured_pruned_finetuned.pth",
        }
        return (self.root if model == "baseline" else self.work) / names[model]

    def own_baseline(self, settings: Settings) -> Path | None:
        """The finished baseline in ``root``: of the depth that ``--arch`` says, else of any (the default's first)."""
        wanted = settings.flag_spec().depth
        depths = (wanted,) if settings.arch else (wanted, *(depth for depth in STAGES if depth != wanted))
        found = (self.checkpoint("baseline", depth) for depth in depths)
        return next((path for path in found if path.is_file()), None)

    def record_path(self, model: str) -> Path:
        return (self.root if model == "baseline" else self.work) / "records" / f"{model}.json"

    def record(self, model: str) -> ModelRecord | None:
        """The record of a finished stage; ``None`` where it has not run. Raises :class:`BadInput` for a damaged one."""
        path = self.record_path(model)
        data = read_json(path)
        if data is None:
            return None
        try:
            return ModelRecord.from_dict(data)
        except (TypeError, KeyError, ValueError):
            raise BadInput(f"{path}: not a record of this version; delete it and run its stage again") from None

    @property
    def latency(self) -> Path:
        return self.work / "latency.json"

    def plot(self, name: str) -> Path:
        return self.work / "plots" / f"{name}.png"


def check_parent(option: str, path: Path) -> None:
    """Raise :class:`BadInput` where no file can be made at ``path``, because what would be its directory is something else."""
    there = next((parent for parent in path.parents if parent.exists() or parent.is_symlink()), None)
    if there is not None and not there.is_dir():
        raise BadInput(f"{there}: is not a directory; give another {option}")


def partial_of(path: Path, step: str = "") -> Path:
    """Where unfinished work on ``path`` lies."""
    return path.with_name(f"{path.stem}{step}.partial{path.suffix}")


def expected_spec(settings: Settings) -> VGGSpec:
    """The dense spec that a plan will meet, as far as it can be told without torch: that of the baseline in an
    explicit ``--out``, else the flags'. (A ``--checkpoint`` is read by the stage.)"""
    if settings.out is not None:
        record = RunDir.of(settings).record("baseline")
        if record is not None:
            spec = VGGSpec.from_dict(record.spec)
            settings.check_spec(spec, settings.out)
            return spec
    return settings.flag_spec()
