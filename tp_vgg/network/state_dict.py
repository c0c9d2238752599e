"""These functions check the tensors of a file and load them into a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.bitmask import State
from tp_vgg.network.families import empty_network
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec


def filled_network(spec: Spec, state: State, meta: dict[str, Any]) -> Network:
    """Return the network of ``spec`` with the tensors of ``state`` (no copies), in eval mode.

    ``meta`` is merged into the network's own. Batch norm's ``num_batches_tracked`` may be missing:
    it is then added to ``state`` as 0. Raises :class:`BadInput` if a tensor is missing, unknown or
    of another shape, and if every parameter is zero.
    """
    model = empty_network(spec)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in shapes:
        if name not in state and not name.endswith("num_batches_tracked"):
            raise BadInput(f"state_dict: {name}: missing for {spec.arch} with the {spec.head} head")
    for name, value in state.items():
        if name not in shapes:
            raise BadInput(
                f"state_dict: {ascii(name)[:80]}: "
                f"not a tensor of {spec.arch} with the {spec.head} head"
            )
        if tuple(value.shape) != shapes[name]:
            raise BadInput(
                f"state_dict: {name}: shape {list(value.shape)}, the spec says {list(shapes[name])}"
            )
    for name in shapes.keys() - state.keys():
        state[name] = torch.tensor(0)
    model.load_state_dict(state, assign=True)
    if not any(parameter.any() for parameter in model.parameters()):
        raise BadInput("state_dict: every parameter is zero; not a trained model")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.meta.update(meta)
    return model.eval()


_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def checked_tensors(state: Mapping[str, torch.Tensor]) -> State:
    """Return copies of dense, finite tensors: floats as float32, ``num_batches_tracked`` as int64.

    Raises :class:`BadInput` for a tensor that is not dense on the CPU, is of another dtype than
    float32, float64, float16 or bfloat16 (``num_batches_tracked``: one whole number), holds NaN or
    infinity (in float32), or is a negative running variance.
    """
    clean: State = {}
    _refuse_multiplied(state.values())
    for name, value in state.items():
        field = f"state_dict: {ascii(name)[1:-1][:80]}"
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise BadInput(f"{field}: must be a dense CPU tensor (not sparse, quantized or meta)")
        if name.endswith("num_batches_tracked"):
            clean[name] = _counter(field, value)
            continue
        if value.dtype not in _FLOATS:
            raise BadInput(
                f"{field}: dtype {str(value.dtype).removeprefix('torch.')}; "
                "must be float32 (float64, float16 and bfloat16 are converted)"
            )
        value = value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not value.isfinite().all():
            raise BadInput(f"{field}: holds NaN or infinity")
        if name.endswith("running_var") and value.numel() and value.min() < 0:
            raise BadInput(f"{field}: holds a variance below 0")
        clean[name] = value
    return clean


_COPIES, _FREE = 4, 16 << 20
"""The copies may have this many times the bytes of the data, and this many bytes more."""


def _refuse_multiplied(tensors: Iterable[torch.Tensor]) -> None:
    """Raise :class:`BadInput` if many tensors share their data: each becomes a copy."""
    held: dict[int, int] = {}
    copied = 0
    for value in tensors:
        if value.layout is torch.strided and value.device.type == "cpu":
            data = value.untyped_storage()
            held[data.data_ptr()] = data.nbytes()
            copied += 4 * value.numel()
    if copied > _COPIES * sum(held.values()) + _FREE:
        raise BadInput(
            f"state_dict: its tensors have {copied} bytes and their data "
            f"{sum(held.values())}; save each tensor once, whole (tensor.clone())"
        )


def dtype_notes(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return a note per dtype that :func:`checked_tensors` converts, and one for the counters."""
    counters = [value for name, value in state.items() if name.endswith("num_batches_tracked")]
    dtypes = {
        value.dtype for name, value in state.items() if not name.endswith("num_batches_tracked")
    }
    verbs = {
        torch.float64: "rounded from float64",
        torch.float16: "upcast from float16",
        torch.bfloat16: "upcast from bfloat16",
    }
    notes = [f"weights {verb} to float32" for dtype, verb in verbs.items() if dtype in dtypes]
    if any(value.dtype is not torch.int64 or value.ndim for value in counters):
        notes.append("batch norm's num_batches_tracked converted to one int64 number each")
    return notes


def _counter(field: str, value: torch.Tensor) -> torch.Tensor:
    """Return batch norm's counter as int64 without dimensions."""
    number = float("nan")
    if value.numel() == 1 and not value.is_complex() and value.dtype is not torch.bool:
        number = float(value.detach())
    if not number.is_integer() or abs(number) >= 1 << 62:
        raise BadInput(f"{field}: must be one whole number")
    return torch.tensor(int(value))
