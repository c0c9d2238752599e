"""Checkpoints: a spec and tensors, saved atomically, validated on load, never running pickled code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tp_vgg.archive import read_archive
from tp_vgg.device import versions
from tp_vgg.errors import BadInput
from tp_vgg.model import VGG, can_fold_head, empty, fold_head_columns
from tp_vgg.packed import State, from_file, to_bytes
from tp_vgg.spec import MAX_WIDTH, STAGES, VGGSpec
from tp_vgg.storage import write_atomic

FORMAT = "tp_vgg/1"
SAFETENSORS = (".safetensors", ".sparse")
"""Names' ends of files in that container."""


def save(model: VGG, path: str | Path) -> None:
    """Write ``model``, whole or not at all, as the name's end says: ``.safetensors``; ``.sparse``, smaller the more zeros there are; anything
    else so that ``torch.load(path, weights_only=True)`` opens it without tp_vgg. Nothing of the weights is lost in any."""
    path = Path(path)
    checkpoint = to_dict(model)
    if path.suffix in SAFETENSORS:
        raw = to_bytes(checkpoint, sparse=path.suffix == ".sparse")
        write_atomic(path, lambda file: file.write(raw))
    else:
        write_atomic(path, lambda file: torch.save(checkpoint, file))


def to_dict(model: VGG) -> dict[str, Any]:
    """The checkpoint: plain types and contiguous CPU tensors."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    meta = {**model.meta, "versions": versions(("tp-vgg", "torch", "torchvision", "torch-pruning"))}
    return {"format": FORMAT, "spec": model.spec.to_dict(), "state_dict": state, "kept": model.kept, "meta": meta}


def load(path: str | Path) -> VGG:
    """Load a checkpoint onto the CPU, in eval mode, with ``.spec``, ``.meta`` and ``.kept``.

    Reads what :func:`save` wrote, and plain state dicts with torchvision's names from ``.pth`` or
    ``.safetensors``; of those, a 7×7 head is folded for 32×32 input (``meta["notes"]`` says so) and
    the normalisation is CIFAR-10's. Raises :class:`BadInput` naming the file and what is wrong with it.
    """
    path = Path(path)
    try:
        raw = _read(path)
        return _from_own(raw) if isinstance(raw, dict) and "format" in raw else from_state_dict(raw)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def from_state_dict(state: object) -> VGG:
    """A network from a plain state dict with torchvision's names, in eval mode. Raises :class:`BadInput`."""
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise BadInput("neither a tp_vgg checkpoint nor a plain state dict of tensors")
    checked = _clean(state)
    spec = _infer_spec(checked)
    notes = ["plain state dict: normalisation assumed to be CIFAR-10's, image size 32"]
    if can_fold_head(spec):
        first = f"{spec.linear_names[0]}.weight"
        checked[first] = fold_head_columns(checked[first])
        spec = replace(spec, pool=1)
        notes.append(f"head folded: {first} summed over the 49 equal columns of its 7x7 pool (exact at 32x32)")
    return _fill(spec, checked, {"notes": notes})


def _read(path: Path) -> object:
    if not path.is_file():
        raise BadInput(
            "not a regular file" if path.exists() else "no such file; give a checkpoint (.pth, .safetensors or .sparse)"
        )
    try:
        return from_file(path) if path.suffix in SAFETENSORS else read_archive(path)
    except (MemoryError, BadInput):
        raise
    except Exception as error:  # noqa: BLE001  what a broken archive raises is not documented
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise BadInput(f"can't be read as a checkpoint ({reason!a})") from None


def _from_own(raw: dict[str, Any]) -> VGG:
    if raw["format"] != FORMAT:
        raise BadInput(f"format: {ascii(str(raw['format']))[:40]} is not {FORMAT!r}; made by another version")
    missing = {"spec", "state_dict", "kept", "meta"} - set(raw)
    if missing:
        raise BadInput(f"{sorted(missing)[0]}: missing")
    spec = VGGSpec.from_dict(raw["spec"])
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
    model = _fill(spec, _clean(state), meta)
    model.kept = _checked_kept(raw["kept"], spec, meta)
    return model


def _fill(spec: VGGSpec, state: State, meta: dict[str, Any]) -> VGG:
    model = empty(spec)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in wanted:
        if name not in state and not name.endswith("num_batches_tracked"):
            raise BadInput(f"state_dict: {name}: missing for {spec.arch} with the {spec.head} head")
    for name, value in state.items():
        if name not in wanted:
            raise BadInput(f"state_dict: {ascii(name)[:80]}: not a tensor of {spec.arch} with the {spec.head} head")
        if tuple(value.shape) != wanted[name]:
            raise BadInput(f"state_dict: {name}: shape {list(value.shape)}, the spec says {list(wanted[name])}")
    for name in wanted.keys() - state.keys():
        state[name] = torch.tensor(0)
    model.load_state_dict(state, assign=True)
    if not any(parameter.any() for parameter in model.parameters()):
        raise BadInput("state_dict: every parameter is zero; not a trained model")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.meta.update(meta)
    return model.eval()


def _clean(state: Mapping[str, torch.Tensor]) -> State:
    """fp32 copies of what is dense, real and finite; anything else is refused."""
    clean: State = {}
    for name, value in state.items():
        where = f"state_dict: {ascii(name)[1:-1][:80]}"
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise BadInput(f"{where}: must be a dense CPU tensor (not sparse, quantized or meta)")
        if name.endswith("num_batches_tracked"):
            if value.dtype != torch.int64 or value.ndim:
                raise BadInput(f"{where}: must be one int64 number")
            clean[name] = value.clone()
            continue
        if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise BadInput(
                f"{where}: dtype {str(value.dtype).removeprefix('torch.')}; must be float32 (float16 and bfloat16 are upcast)"
            )
        value = value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not value.isfinite().all():
            raise BadInput(f"{where}: holds NaN or infinity")
        if name.endswith("running_var") and value.numel() and value.min() < 0:
            raise BadInput(f"{where}: a variance below 0")
        clean[name] = value
    return clean


def _infer_spec(state: State) -> VGGSpec:
    """The spec that a plain state dict's names and shapes say."""
    convs = _ordered(state, r"features\.(\d+)\.weight", ndim=4)
    linears = _ordered(state, r"classifier(?:\.(\d+))?\.weight", ndim=2)
    if len(convs) not in (depth - 3 for depth in STAGES) or not linears:
        raise BadInput(
            f"state_dict: {len(convs)} convs and {len(linears)} linears under torchvision's names; not a VGG-11, 13, 16 or 19"
        )
    last = convs[-1].shape[0]
    columns = linears[0].shape[1]
    if columns not in (last, last * 49):
        raise BadInput(
            f"state_dict: classifier: {columns} input columns for {last} channels; must be {last} or {last * 49}"
        )
    return VGGSpec(
        widths=tuple(conv.shape[0] for conv in convs),
        batch_norm=any(name.endswith("running_mean") for name in state),
        pool=7 if columns == last * 49 else 1,
        hidden=tuple(linear.shape[0] for linear in linears[:-1]),
        num_classes=linears[-1].shape[0],
    )


def _ordered(state: State, pattern: str, ndim: int) -> list[torch.Tensor]:
    found = [
        (int(match.group(1) or 0), value)
        for name, value in state.items()
        if (match := re.fullmatch(pattern, name)) and value.ndim == ndim
    ]
    return [value for _, value in sorted(found, key=lambda pair: pair[0])]


def _check_triple(name: str, value: object) -> None:
    if not isinstance(value, list) or len(value) != 3 or not all(type(v) is float and abs(v) < 1e6 for v in value):
        raise BadInput(f"meta: {name}: must be three finite numbers")
    if name == "std" and min(value) <= 0:
        raise BadInput("meta: std: must be positive")


def _checked_kept(kept: object, spec: VGGSpec, meta: Mapping[str, Any]) -> dict[str, list[int]]:
    if not isinstance(kept, dict):
        raise BadInput("kept: must be an object")
    dense = meta.get("dense_widths", {})
    if not isinstance(dense, dict):
        raise BadInput("meta: dense_widths: must be an object")
    for layer, indices in kept.items():
        width = spec.prunable.get(layer) if isinstance(layer, str) else None
        limit = dense.get(layer, MAX_WIDTH)
        if width is None or type(limit) is not int:
            raise BadInput(f"kept: {ascii(layer)[:80]}: not a prunable layer of {spec.arch} with the {spec.head} head")
        good = (
            isinstance(indices, list)
            and len(indices) == width
            and all(type(i) is int and 0 <= i < limit for i in indices)
        )
        if not good or indices != sorted(set(indices)):
            raise BadInput(f"kept: {layer}: must be {width} sorted, unique channel indices below {limit}")
    return kept
