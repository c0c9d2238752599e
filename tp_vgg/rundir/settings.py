"""This module holds the options of all commands (no torch, so that a refusal is instant)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tp_vgg.data.catalogue import IMAGE_SIZE, DataSetKind, kind_of
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
    image_size: int | None = None
    """Side of the square images in pixels; ``None``: the checkpoint's, else 32."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """Normalisation of the dense model, for pixels in [0, 1]; ``None``: its own, or its data's."""
    explicit: frozenset[str] = frozenset()
    """Names of the options that the user gave."""
    noted: bool = False
    """The notes on the file of ``--checkpoint`` were logged before."""
    quiet: bool = False
    """Show no progress bars. Notes go to the logger ``tp_vgg`` in any case."""
    tensorboard: bool = False
    """Write scalars and figures for TensorBoard to ``tensorboard/``."""
    command: str = ""
    """The command line, for the records; empty if called from Python."""
    begin: Callable[[], object] | None = field(default=None, compare=False, repr=False)
    """Called by a stage of `run` before its work, unless all was done before; ``None`` for a
    command by itself."""

    @property
    def images(self) -> DataSetKind:
        """Return the facts about the data set that are known before it is loaded."""
        return kind_of(self.dataset)

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """Return the most images of (train, val, test); ``None`` for all of a split."""
        return self.limit_train, self.limit_val, self.limit_test

    def begin_work(self) -> None:
        """Tell `run`, if it calls this stage, that there is work to do."""
        if self.begin is not None:
            self.begin()

    def bar(self, label: str) -> str:
        """Return the label of a progress bar; empty, which means no bar, if quiet."""
        return "" if self.quiet else label

    def folder_fingerprint(self) -> str:
        """Return the fingerprint of the images in ``data_dir``; this may decode all of them."""
        from tp_vgg.data.folder import folder_fingerprint

        return folder_fingerprint(
            self.data_dir,
            self.image_size or IMAGE_SIZE,
            self.quiet,
            skip_corrupt=self.skip_corrupt,
        )

    def known_fingerprint(self) -> str | None:
        """Return :meth:`folder_fingerprint` if that needs no image to be opened, else ``None``.

        It is ``None`` too for data sets that are not a folder.
        """
        if not self.images.local:
            return None
        from tp_vgg.data.folder import cached_fingerprint

        size = self.image_size or IMAGE_SIZE
        return cached_fingerprint(self.data_dir, size, skip_corrupt=self.skip_corrupt)

    def class_count(self) -> int:
        """Return the number of classes of the data; for a folder, that of its class directories.

        Raises :class:`BadInput` if the folder has no such layout.
        """
        if not self.images.local:
            return self.images.classes
        from tp_vgg.data.folder import class_names

        return len(class_names(self.data_dir))

    def flag_spec(self) -> VGGSpec:
        """Return the dense spec of ``--arch``, ``--head`` and ``--image-size``, with defaults.

        From 64 pixels on, the torchvision head keeps its 7×7 pool; below, it is folded.
        """
        size = self.image_size or IMAGE_SIZE
        spec = VGGSpec.preset(
            self.arch or "vgg11_bn", self.head or "torchvision", pool=1 if size < 64 else 7
        )
        return replace(spec, image_size=size)

    def for_spec(self, spec: Spec) -> Settings:
        """Return a copy with the arch, the head and the image size of ``spec``."""
        return replace(self, arch=spec.arch, head=spec.head, image_size=spec.image_size)

    def normalisation_record(self) -> dict[str, tuple[float, ...]]:
        """Return ``--mean`` and ``--std`` for a record; empty without a ``--checkpoint`` and them.

        They are part of the dense model's identity: the same file with others is another model.
        :func:`tp_vgg.stages.given.given_network` leaves them out if the file holds its own.
        """
        if self.checkpoint is None or self.mean is None or self.std is None:
            return {}
        return {"mean": self.mean, "std": self.std}

    def normalisation_parts(self) -> list[object]:
        """Return what ``--mean`` and ``--std`` add to the key of a result; nothing without them."""
        return [self.normalisation_record()] if self.normalisation_record() else []

    def check_spec(self, spec: Spec, source: object) -> None:
        """Raise :class:`BadInput` if a flag contradicts a checkpoint's ``spec``.

        The flags are ``--arch``, ``--head`` and ``--image-size``.

        ``source``: the checkpoint, for the message.
        """
        for flag, given, actual in (
            ("--arch", self.arch, spec.arch),
            ("--head", self.head, spec.head),
            ("--image-size", self.image_size, spec.image_size),
        ):
            if given is not None and given != actual:
                unit = " pixels" if flag == "--image-size" else ""
                raise BadInput(
                    f"{source}: holds {actual}{unit}, but {flag} {given} was given;"
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
        "image_size",
        "mean",
        "std",
    ):
        value = getattr(settings, name)
        if value != getattr(defaults, name):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            options += [f"--{name.replace('_', '-')}", text]
    return [*options, "--skip-corrupt"] if settings.skip_corrupt else options
