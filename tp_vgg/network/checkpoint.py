"""A checkpoint holds a spec and its tensors.

It is saved atomically. Loading it validates every field and never runs pickled code.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tp_vgg.errors import BadInput, shown
from tp_vgg.files.atomic import write_atomic
from tp_vgg.files.checks import triple, whole_number
from tp_vgg.files.other_formats import HEAD, other_format
from tp_vgg.files.read import as_path
from tp_vgg.files.torch_archive import read_archive
from tp_vgg.machine.environment import versions
from tp_vgg.network.doors import checked_kept, network_of
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.network import Network
from tp_vgg.network.plain_copy import plain_copy, unwrapped
from tp_vgg.network.plain_meta import plain_kept, plain_meta
from tp_vgg.network.safetensors_format import from_file, to_bytes
from tp_vgg.network.same_logits import check_same_logits
from tp_vgg.network.spec import Spec
from tp_vgg.network.state_dict import checked_tensors, dtype_notes, filled_network
from tp_vgg.network.torchvision_weights import from_state_dict, refuse_contradiction
from tp_vgg.network.vgg.rebuild import described, named_tensors

log = logging.getLogger(__name__)

FORMAT = "tp_vgg/1"
"""The format name in every checkpoint; a file with another one is refused."""
SAFETENSORS = (".safetensors", ".sparse")
"""Suffixes of checkpoints that are safetensors files."""


def save(model: Network, path: str | Path) -> None:
    """Write ``model`` to ``path`` in the format of the suffix, whole or not at all.

    ``.safetensors``: one safetensors file. ``.sparse``: the same with the zeros as a bit mask, so
    the more zeros, the smaller the file. Any other suffix: a file that
    ``torch.load(path, weights_only=True)`` opens without tp_vgg. All formats keep every bit of
    float32 weights. ``model`` is not changed.

    The logits of the file are compared with those of a copy of ``model`` on noise images; forward
    hooks run on these too, so remove hooks that collect features first.

    Only what :func:`load` accepts is written; see :func:`to_dict` for what is brought into that
    form. Raises :class:`BadInput` for the rest, and if ``path`` is a directory.
    """
    path = as_path(path)
    try:
        checkpoint = to_dict(model)
    except BadInput as error:
        raise BadInput(f"{path}: not saved: {error}") from None
    if path.suffix in SAFETENSORS:
        raw = to_bytes(checkpoint, sparse=path.suffix == ".sparse")
        write_atomic(path, lambda file: file.write(raw))
    else:
        write_atomic(path, lambda file: torch.save(checkpoint, file))


def to_dict(model: Network) -> dict[str, Any]:
    """Return the checkpoint of ``model``: plain types, and contiguous CPU copies of its tensors.

    What loses nothing is done: the wrappers of ``torch.compile``, ``DataParallel``, DDP and
    ``AveragedModel`` are left out, masks of ``torch.nn.utils.prune`` and parametrizations are
    baked into the weights, floats are cast to float32, ``meta`` is made plain, and widths and
    classes are those of the modules.

    Raises :class:`BadInput` for what :func:`load` refuses, such as NaN, and if the network that the
    checkpoint builds does not give the logits of ``model``: the first module that differs is named.
    """
    network = network_of(unwrapped(model) if isinstance(model, nn.Module) else model)
    meta = plain_meta(network.meta)
    checkpoint, loaded = checkpoint_of(
        network, network.spec.image_size, meta, plain_kept(network.kept)
    )
    _check_adapted(network.spec, loaded.spec, meta)
    return checkpoint


def checkpoint_of(
    module: nn.Module, image_size: int, meta: Mapping[str, Any], kept: Mapping[str, Any]
) -> tuple[dict[str, Any], Network]:
    """Return the checkpoint of a module that is laid out as a VGG, and the network it loads as.

    Raises :class:`BadInput` if the network is refused by the checks of :func:`load`, or does not
    give the module's logits.
    """
    plain = plain_copy(module)
    spec = described(plain, image_size)
    checkpoint: dict[str, Any] = {
        "format": FORMAT,
        "spec": spec.to_dict(),
        "state_dict": named_tensors(plain, spec),
        "kept": plain_kept(kept),
        "meta": {
            **plain_meta(meta),
            "versions": versions(("tp-vgg", "torch", "torchvision", "torch-pruning")),
        },
    }
    loaded = _from_checkpoint(checkpoint)
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name: state[name] for name in loaded.state_dict()}
    try:
        check_same_logits(plain, loaded)
    except BadInput as error:
        raise BadInput(
            f"{error}; build the network from a tp_vgg.VGGSpec, or write this one as a program "
            "with tp_vgg.network.export.export(model, path, 'torch')"
        ) from None
    return checkpoint, loaded


def _check_adapted(spec: Spec, realised: Spec, meta: Mapping[str, Any]) -> None:
    """Check ``meta`` if the modules have another number of classes than the spec of the model."""
    if realised == spec:
        return
    classes = meta.get("classes", [])
    if realised.num_classes != spec.num_classes and len(classes) not in (0, realised.num_classes):
        raise BadInput(
            f"meta: classes: {len(classes)} names, and the last linear gives "
            f"{realised.num_classes} classes; set model.meta['classes'] to their names"
        )
    log.info(
        f"saved as {realised.arch} with the widths {[*realised.prunable.values()]} and "
        f"{realised.num_classes} classes of its modules, which differ from its spec"
    )


def saved_bytes(model: Network) -> int:
    """Return the size in bytes of the ``.pth`` file that :func:`save` would write."""
    buffer = io.BytesIO()
    torch.save(to_dict(model), buffer)
    return buffer.tell()


def load(
    path: str | Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
) -> Network:
    """Load a network onto the CPU, in eval mode, with its ``spec``, ``meta`` and ``kept``.

    The file is one that :func:`save` wrote, or somebody else's state dict of a VGG (``.pth`` or
    ``.safetensors``), also within a training checkpoint. ``meta["notes"]`` says all that was done
    to the latter. ``mean`` and ``std`` (of images in [0, 1], three numbers each) and ``image_size``
    are those that it was trained with, if not CIFAR-10's and 32; for a file of :func:`save`
    they must be the file's own.

    Raises :class:`BadInput`, which names the file and the fault.
    """
    path = as_path(path)
    if image_size is not None:
        image_size = whole_number("image_size", image_size, 32, 1024)
    if (mean is None) != (std is None):
        missing = "mean" if mean is None else "std"
        raise BadInput(f"{missing}: missing; give both mean and std (--mean, --std)")
    mean = None if mean is None else triple("mean", mean)
    std = None if std is None else triple("std", std, positive=True)
    try:
        raw = _read(path)
        if isinstance(raw, dict) and _is_own(raw):
            model = _from_checkpoint(raw)
            given = {"mean": mean, "std": std, "image_size": image_size}
            refuse_contradiction(
                {name: value for name, value in given.items() if value is not None},
                {**model.meta, "image_size": model.spec.image_size},
            )
            return model
        return from_state_dict(
            raw,
            mean=mean,
            std=std,
            image_size=image_size,
            in_order=path.suffix not in SAFETENSORS,
        )
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except OSError as error:
        raise BadInput(f"{path}: can't be read ({error.strerror}); give another file") from None


def is_foreign(model: Network) -> bool:
    """Return True if ``model`` was loaded from a file that :func:`save` did not write.

    :func:`save` puts the versions of packages into ``meta``; other files have none there. Of a
    network that was built and not loaded, it returns True too.
    """
    return "versions" not in model.meta


def _is_own(raw: Mapping[Any, Any]) -> bool:
    """Return True for a checkpoint of tp_vgg, damaged or not, among the dicts of other programs."""
    name = raw.get("format")
    ours = isinstance(name, str) and name.startswith("tp_vgg")
    return "format" in raw and (ours or "spec" in raw or "kept" in raw)


def _read(path: Path) -> object:
    if path.is_dir():
        raise BadInput("a directory, not a regular file; give the checkpoint in it")
    if not path.is_file():
        raise BadInput(
            "not a regular file"
            if path.exists()
            else "no such file; give a checkpoint (.pth, .safetensors or .sparse)"
        )
    if path.suffix in SAFETENSORS:
        _refuse_other_formats(path)
    try:
        return from_file(path) if path.suffix in SAFETENSORS else read_archive(path)
    except (MemoryError, BadInput):
        raise
    except Exception as error:  # noqa: BLE001  the errors of a broken archive are undocumented
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise BadInput(f"can't be read as a checkpoint ({reason!a})") from None


def _refuse_other_formats(path: Path) -> None:
    """Raise :class:`BadInput` if ``path`` is no safetensors file but one of another known kind."""
    with path.open("rb") as file:
        start = file.read(HEAD)
    if start[8:9] == b"{":
        return
    if start.startswith((b"PK\x03\x04", b"\x80")):
        raise BadInput("not a safetensors file; if torch.save wrote it, rename it to .pth")
    what = other_format(start)
    if what is not None:
        raise BadInput(what)


def _from_checkpoint(raw: dict[str, Any]) -> Network:
    if raw["format"] != FORMAT:
        raise BadInput(f"format: {shown(raw['format'])} is not {FORMAT!r}; made by another version")
    missing = {"spec", "state_dict", "kept", "meta"} - set(raw)
    if missing:
        raise BadInput(f"{sorted(missing)[0]}: missing")
    spec = spec_from_dict(raw["spec"])
    state = raw["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise BadInput("state_dict: must map names to tensors")
    meta = raw["meta"]
    if not isinstance(meta, dict):
        raise BadInput("meta: must be an object")
    for name in ("mean", "std"):
        _check_triple(name, meta.get(name))
    for name in ("classes", "notes"):
        value = meta.get(name, [])
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise BadInput(f"meta: {name}: must be a list of strings")
    notes = dtype_notes(state)
    if notes:
        meta = {**meta, "notes": [*meta.get("notes", []), *notes]}
    model = filled_network(spec, checked_tensors(state), meta)
    model.kept = checked_kept(raw["kept"], spec, meta)
    return model


def _check_triple(name: str, value: object) -> None:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(v) is float and abs(v) < 1e6 for v in value)
    ):
        raise BadInput(f"meta: {name}: must be a list of three finite floats")
    if name == "std" and min(value) <= 0:
        raise BadInput("meta: std: must be positive")
