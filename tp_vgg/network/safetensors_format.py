"""A checkpoint can be one safetensors file, with a SHA-256 of its content in the metadata."""

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
    """Return the bytes of a safetensors file that holds a tp_vgg checkpoint.

    Tensors keep their names; ``spec``, ``kept`` and ``meta`` are JSON in the metadata. With
    ``sparse``, each tensor that gets smaller that way is stored as a bit mask and its non-zeros.

    Raises :class:`BadInput` if ``meta`` holds a value that JSON can't represent.
    """
    from safetensors.torch import save

    try:
        texts = {
            "format": checkpoint["format"],
            **{name: json.dumps(checkpoint[name]) for name in _TEXTS},
        }
    except (TypeError, ValueError):
        raise BadInput("meta: holds a value that JSON can't represent; use plain types") from None
    tensors = dict(checkpoint["state_dict"])
    if sparse:
        tensors, shapes = pack(tensors)
        texts["shapes"] = json.dumps(shapes)
    return save(tensors, {**texts, "sha256": _digest(tensors, texts)})


def _digest(tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) of all tensors and texts; safetensors itself has no checksum."""
    raw = (value.reshape(-1).view(torch.uint8).numpy().data for _, value in sorted(tensors.items()))
    return fingerprint(
        dict(texts),
        [[name, str(value.dtype), list(value.shape)] for name, value in sorted(tensors.items())],
        *raw,
    )


def from_file(path: Path) -> dict[str, Any]:
    """Read the checkpoint that :func:`to_bytes` wrote, or the tensors of another program's file.

    Raises :class:`BadInput` if there is a SHA-256 that does not match, if the metadata is not JSON,
    or if the parts of a sparse tensor do not fit each other. Errors of safetensors and the file
    system pass through.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        texts = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    if not texts.get("format", "").startswith("tp_vgg/"):  # other writers put "pt" there
        return tensors
    if texts.pop("sha256", None) not in (None, _digest(tensors, texts)):
        raise BadInput("damaged: its content does not match its checksum")
    try:
        fields = {name: json.loads(texts[name]) for name in (*_TEXTS, "shapes") if name in texts}
    except (ValueError, RecursionError):
        raise BadInput("metadata: not JSON") from None
    shapes = fields.pop("shapes", None)
    return {
        "format": texts["format"],
        **fields,
        "state_dict": tensors if shapes is None else unpack(tensors, shapes),
    }
