"""A checkpoint holds a spec and its tensors.

It is saved atomically. Loading it validates every field and never runs pickled code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_atomic
from tp_vgg.files.read import as_path
from tp_vgg.files.torch_archive import read_archive
from tp_vgg.machine.environment import versions
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.network import Network
from tp_vgg.network.safetensors_format import from_file, to_bytes
from tp_vgg.network.spec import Spec
from tp_vgg.network.state_dict import checked_tensors, filled_network
from tp_vgg.network.torchvision_weights import from_state_dict
from tp_vgg.network.vgg.spec import MAX_WIDTH

FORMAT = "tp_vgg/1"
"""The format name in every checkpoint; a file with another one is refused."""
SAFETENSORS = (".safetensors", ".sparse")
"""Suffixes of checkpoints that are safetensors files."""


def save(model: Network, path: str | Path) -> None:
    """Write ``model`` to ``path`` in the format of the suffix, whole or not at all.

    ``.safetensors``: one safetensors file. ``.sparse``: the same with the zeros as a bit mask, so
    the more zeros, the smaller the file. Any other suffix: a file that
    ``torch.load(path, weights_only=True)`` opens without tp_vgg. All formats are lossless.

    Raises :class:`BadInput` if ``path`` is a directory, and for the safetensors formats if ``meta``
    holds a value that JSON can't represent.
    """
    path = as_path(path)
    checkpoint = to_dict(model)
    if path.suffix in SAFETENSORS:
        raw = to_bytes(checkpoint, sparse=path.suffix == ".sparse")
        write_atomic(path, lambda file: file.write(raw))
    else:
        write_atomic(path, lambda file: torch.save(checkpoint, file))


def to_dict(model: Network) -> dict[str, Any]:
    """Return the checkpoint of ``model``: plain types, and contiguous CPU copies of its tensors."""
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    meta = {**model.meta, "versions": versions(("tp-vgg", "torch", "torchvision", "torch-pruning"))}
    return {
        "format": FORMAT,
        "spec": model.spec.to_dict(),
        "state_dict": state,
        "kept": model.kept,
        "meta": meta,
    }


def load(path: str | Path) -> Network:
    """Load a network onto the CPU, in eval mode, with its ``spec``, ``meta`` and ``kept``.

    The file is one that :func:`save` wrote, or a plain state dict (``.pth`` or ``.safetensors``)
    with torchvision's names. For a plain state dict, the normalisation is CIFAR-10's, and a 7×7
    head is folded for 32×32 input; ``meta["notes"]`` says both.

    Raises :class:`BadInput`, which names the file and the fault.
    """
    path = as_path(path)
    try:
        raw = _read(path)
        if isinstance(raw, dict) and "format" in raw:
            return _from_checkpoint(raw)
        return from_state_dict(raw)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _read(path: Path) -> object:
    if not path.is_file():
        raise BadInput(
            "not a regular file"
            if path.exists()
            else "no such file; give a checkpoint (.pth, .safetensors or .sparse)"
        )
    try:
        return from_file(path) if path.suffix in SAFETENSORS else read_archive(path)
    except (MemoryError, BadInput):
        raise
    except Exception as error:  # noqa: BLE001  the errors of a broken archive are undocumented
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise BadInput(f"can't be read as a checkpoint ({reason!a})") from None


def _from_checkpoint(raw: dict[str, Any]) -> Network:
    if raw["format"] != FORMAT:
        raise BadInput(
            f"format: {ascii(str(raw['format']))[:40]} is not {FORMAT!r}; made by another version"
        )
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
    model = filled_network(spec, checked_tensors(state), meta)
    model.kept = _checked_kept(raw["kept"], spec, meta)
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


def _checked_kept(kept: object, spec: Spec, meta: Mapping[str, Any]) -> dict[str, list[int]]:
    if not isinstance(kept, dict):
        raise BadInput("kept: must be an object")
    dense = meta.get("dense_widths", {})
    if not isinstance(dense, dict):
        raise BadInput("meta: dense_widths: must be an object")
    for layer, indices in kept.items():
        width = spec.prunable.get(layer) if isinstance(layer, str) else None
        limit = dense.get(layer, MAX_WIDTH)
        if width is None or type(limit) is not int:
            raise BadInput(
                f"kept: {ascii(layer)[:80]}: "
                f"not a prunable layer of {spec.arch} with the {spec.head} head"
            )
        valid = (
            isinstance(indices, list)
            and len(indices) == width
            and all(type(i) is int and 0 <= i < limit for i in indices)
        )
        if not valid or indices != sorted(set(indices)):
            raise BadInput(
                f"kept: {layer}: must be {width} sorted, unique channel indices below {limit}"
            )
    return kept
