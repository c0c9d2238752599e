"""Tensors with many zeros as a bit-mask and the rest, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from tp_vgg.errors import BadInput

State = dict[str, torch.Tensor]
MASK, VALUES, SIGNS = ":mask", ":values", ":signs"
"""What is added to a tensor's name: uint8 [⌈n / 8⌉], a set bit for each element that is not zero; those elements, in order; and, where there
are any, a set bit for each of the zeros that is −0.0, as a masked negative weight is."""


def pack(state: Mapping[str, torch.Tensor]) -> tuple[State, dict[str, list[int]]]:
    """The tensors with every one that gets smaller by it in parts; and the shapes of these."""
    packed: State = {}
    shapes: dict[str, list[int]] = {}
    for name, value in state.items():
        parts = _parts(value) if value.is_floating_point() else {"": value}
        whole = sum(part.nbytes for part in parts.values()) >= value.nbytes
        if not whole:
            shapes[name] = list(value.shape)
        packed |= {name + end: part for end, part in ({"": value} if whole else parts).items()}
    return packed, shapes


def unpack(packed: Mapping[str, torch.Tensor], shapes: object) -> State:
    """The inverse of :func:`pack`. Raises :class:`BadInput` where the parts do not fit each other or their shape."""
    if not isinstance(shapes, dict):
        raise BadInput("shapes: must be an object")
    ends = (MASK, VALUES, SIGNS)
    state = {name: value for name, value in packed.items() if not name.endswith(ends)}
    used = {name + end for name in shapes for end in ends}
    if used | set(state) != used | set(packed) or set(state) & set(shapes):
        raise BadInput("shapes: must name the tensors that are stored in parts, and no others")
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not all(
            type(side) is int and side >= 0 for side in shape
        ):
            raise BadInput(f"shapes: {ascii(name)[:80]}: must be a list of sizes")
        mask, values, signs = (packed.get(name + end) for end in ends)
        kept = _unpacked(mask, math.prod(shape))
        if kept is None or values is None or values.shape != (int(np.count_nonzero(kept)),):
            raise BadInput(f"{ascii(name)[:80]}: its mask does not fit its shape and values")
        if not values.is_floating_point():
            raise BadInput(f"{ascii(name)[:80]}: only floats are stored in parts")
        whole = torch.zeros(len(kept), dtype=values.dtype)
        whole[torch.from_numpy(kept)] = values
        if signs is not None:
            negative = _unpacked(signs, len(kept) - len(values))
            if negative is None:
                raise BadInput(f"{ascii(name)[:80]}: its signs do not fit its mask")
            whole[torch.from_numpy(np.flatnonzero(~kept)[negative])] = -0.0
        state[name] = whole.view(shape)
    return state


def _parts(value: torch.Tensor) -> State:
    flat = value.flatten()
    kept = flat != 0
    negative = flat[~kept].signbit()
    parts = {MASK: _packed(kept), VALUES: flat[kept]}
    return {**parts, SIGNS: _packed(negative)} if negative.any() else parts


def _packed(flags: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.packbits(flags.numpy()))


def _unpacked(bits: torch.Tensor | None, count: int) -> np.ndarray | None:
    """bool [count]; ``None`` where ``bits`` is not what :func:`_packed` makes of as many flags."""
    if bits is None or bits.dtype != torch.uint8 or bits.shape != (math.ceil(count / 8),):
        return None
    flags = np.unpackbits(bits.numpy()).astype(bool)
    return None if flags[count:].any() else flags[:count]
