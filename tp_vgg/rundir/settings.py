"""This module holds the options of all commands (no torch, so that a refusal is instant)."""

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
    """Settings are the options common to all commands; ``None`` if an option was not given."""

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
    """Show no progress bars. Notes go to the logger ``tp_vgg`` in any case."""
    tensorboard: bool = False
    """Write scalars and figures for TensorBoard to ``tensorboard/``."""
    command: str = ""
    """The command line, for the records; empty if called from Python."""

    @property
    def images(self) -> DataSetKind:
        """Return the facts about the data set that are known before it is loaded."""
        return kind_of(self.dataset)

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """Return the most images of (train, val, test); ``None`` for all of a split."""
        return self.limit_train, self.limit_val, self.limit_test

    def bar(self, label: str) -> str:
        """Return the label of a progress bar; empty, which means no bar, if quiet."""
        return "" if self.quiet else label

    def folder_fingerprint(self) -> str:
        """Return the fingerprint of the images in ``data_dir``; this may decode all of them."""
        from tp_vgg.data.folder import SIZE, folder_fingerprint

        return folder_fingerprint(self.data_dir, SIZE, self.quiet, skip_corrupt=self.skip_corrupt)

    def flag_spec(self) -> VGGSpec:
        """Return the dense spec of ``--arch`` and ``--head``, with their defaults."""
        return VGGSpec.preset(self.arch or "vgg11_bn", self.head or "torchvision")

    def for_spec(self, spec: Spec) -> Settings:
        """Return a copy with the arch and the head of ``spec``."""
        return replace(self, arch=spec.arch, head=spec.head)

    def check_spec(self, spec: Spec, source: object) -> None:
        """Raise :class:`BadInput` if ``--arch`` or ``--head`` contradicts a checkpoint's ``spec``.

        ``source``: the checkpoint, for the message.
        """
        for flag, given, actual in (
            ("--arch", self.arch, spec.arch),
            ("--head", self.head, spec.head),
        ):
            if given is not None and given != actual:
                raise BadInput(
                    f"{source}: holds {actual}, but {flag} {given} was given;"
                    " leave the flag out, or give another --out or checkpoint"
                )


def flags(settings: Settings) -> list[str]:
    """Return the options that select network, images and run directory, as typed by a user.

    Options with their default value are left out, and so is the tag.
    """
    defaults, options = Settings(), []
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
        if value != getattr(defaults, name):
            options += [f"--{name.replace('_', '-')}", str(value)]
    return [*options, "--skip-corrupt"] if settings.skip_corrupt else options
