"""What every command is told, and where its files lie (no torch, so that a refusal is instant)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tp_vgg.data.catalogue import DataSetKind, kind_of
from tp_vgg.errors import BadInput
from tp_vgg.network.spec import Spec
from tp_vgg.network.vgg.spec import VGGSpec


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
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0
    limit_train: int | None = None
    limit_val: int | None = None
    limit_test: int | None = None
    skip_corrupt: bool = False
    quiet: bool = False
    """No progress bars; notes are the logger's (``tp_vgg``)."""
    tensorboard: bool = False
    """Show TensorBoard scalars and figures, under ``tensorboard/``."""
    command: str = ""
    """The command line, for the records; empty from Python."""

    @property
    def images(self) -> DataSetKind:
        """What is known of the data set."""
        return kind_of(self.dataset)

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        return self.limit_train, self.limit_val, self.limit_test

    def bar(self, label: str) -> str:
        """The label of a progress bar, empty (no bar) if quiet."""
        return "" if self.quiet else label

    def folder_fingerprint(self) -> str:
        """Of the images in ``data_dir``, which may have to be decoded for it."""
        from tp_vgg.data.folder import SIZE, folder_fingerprint

        return folder_fingerprint(self.data_dir, SIZE, self.quiet, skip_corrupt=self.skip_corrupt)

    def flag_spec(self) -> VGGSpec:
        """The dense spec that the flags ask for."""
        return VGGSpec.preset(self.arch or "vgg11_bn", self.head or "torchvision")

    def for_spec(self, spec: Spec) -> Settings:
        """With the arch and head that a checkpoint turned out to hold."""
        return replace(self, arch=spec.arch, head=spec.head)

    def check_spec(self, spec: Spec, source: object) -> None:
        """Raise :class:`BadInput` where an explicit flag contradicts what a checkpoint holds."""
        for flag, asked, found in (
            ("--arch", self.arch, spec.arch),
            ("--head", self.head, spec.head),
        ):
            if asked is not None and asked != found:
                raise BadInput(
                    f"{source}: holds {found}, but {flag} {asked} was given; drop the flag or give another checkpoint"
                )


def flags(settings: Settings) -> list[str]:
    """The options that say which network, images and run directory are meant, as they would be typed; but for the tag."""
    usual, found = Settings(), []
    for name in (
        "arch",
        "head",
        "dataset",
        "data_dir",
        "out",
        "checkpoint",
        "limit_train",
        "limit_val",
        "limit_test",
    ):
        value = getattr(settings, name)
        if value != getattr(usual, name):
            found += [f"--{name.replace('_', '-')}", str(value)]
    return [*found, "--skip-corrupt"] if settings.skip_corrupt else found
