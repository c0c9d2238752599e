"""A checkpoint in one safetensors file, with a SHA-256 of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.bitmask import pack, unpack
from tp_vgg.files.fingerprint import fingerprint

_TEXTS = ("spec", "kept", "meta")


def to_bytes(checkpoint: Mapping[str, Any], *, sparse: bool) -> bytes:
    """A tp_vgg checkpoint as safetensors: tensors under their names, ``spec``, ``kept`` and ``meta`` as JSON in the metadata.

    Raises :class:`BadInput` for a ``meta`` of other than plain types.
    """
    from safetensors.torch import save

    try:
        texts = {
            "format": checkpoint["format"],
            **{name: json.dumps(checkpoint[name]) for name in _TEXTS},
        }
    except (TypeError, ValueError):
        raise BadInput("meta: holds what JSON can't say; keep it to plain types") from None
    tensors = dict(checkpoint["state_dict"])
    if sparse:
        tensors, shapes = pack(tensors)
        texts["shapes"] = json.dumps(shapes)
    return save(tensors, {**texts, "sha256": _digest(tensors, texts)})


def _digest(tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> str:
    """Of all that the file holds: the container itself has no sums."""
    raw = (value.reshape(-1).view(torch.uint8).numpy().data for _, value in sorted(tensors.items()))
    return fingerprint(
        dict(texts),
        [[name, str(value.dtype), list(value.shape)] for name, value in sorted(tensors.items())],
        *raw,
    )


def from_file(path: Path) -> dict[str, Any]:
    """The checkpoint that :func:`to_bytes` wrote, or the bare tensors of another safetensors file. Raises :class:`BadInput`, or what
    safetensors raises."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        texts = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    if not texts.get("format", "").startswith("tp_vgg/"):  # others say "pt" there
        return tensors
    if texts.pop("sha256", None) not in (None, _digest(tensors, texts)):
        raise BadInput("damaged: its tensors are not those that were saved")
    try:
        found = {name: json.loads(texts[name]) for name in (*_TEXTS, "shapes") if name in texts}
    except (ValueError, RecursionError):
        raise BadInput("metadata: not JSON") from None
    shapes = found.pop("shapes", None)
    return {
        "format": texts["format"],
        **found,
        "state_dict": tensors if shapes is None else unpack(tensors, shapes),
    }
