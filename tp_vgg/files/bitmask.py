"""A tensor with many zeros is stored as a bit mask and its nonzero values, exact to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from tp_vgg.errors import BadInput

State = dict[str, torch.Tensor]
MASK, VALUES, SIGNS = ":mask", ":values", ":signs"
"""Suffixes of a tensor's name that name its parts. For a tensor of n elements:

* mask: uint8 [⌈n / 8⌉], with one bit per element, set if the element is not zero;
* values: the elements that are not zero, in order;
* signs: uint8, with one bit per zero, set if it is −0.0 (a masked negative weight is). The part is
  left out if no zero is negative.
"""


def pack(state: Mapping[str, torch.Tensor]) -> tuple[State, dict[str, list[int]]]:
    """Split each floating-point tensor into parts if that makes it smaller.

    Returns the tensors, split or not, by name, and the shapes of the split ones by their name.
    """
    packed: State = {}
    shapes: dict[str, list[int]] = {}
    for name, value in state.items():
        parts = _parts(value) if value.is_floating_point() else {"": value}
        whole = sum(part.nbytes for part in parts.values()) >= value.nbytes
        if not whole:
            shapes[name] = list(value.shape)
        packed |= {
            name + suffix: part for suffix, part in ({"": value} if whole else parts).items()
        }
    return packed, shapes


def unpack(packed: Mapping[str, torch.Tensor], shapes: object) -> State:
    """Return the tensors that :func:`pack` was given.

    Raises :class:`BadInput` if the parts do not fit each other or their shape. Memory is allocated
    only for as many elements as the mask holds bits for.
    """
    if not isinstance(shapes, dict):
        raise BadInput("shapes: must be an object")
    suffixes = (MASK, VALUES, SIGNS)
    state = {name: value for name, value in packed.items() if not name.endswith(suffixes)}
    used = {name + suffix for name in shapes for suffix in suffixes}
    if used | set(state) != used | set(packed) or set(state) & set(shapes):
        raise BadInput("shapes: must name the tensors that are stored in parts, and no others")
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not all(
            type(size) is int and size >= 0 for size in shape
        ):
            raise BadInput(f"shapes: {ascii(name)[:80]}: must be a list of sizes")
        mask, values, signs = (packed.get(name + suffix) for suffix in suffixes)
        nonzero = _unpack_bits(mask, math.prod(shape))
        if nonzero is None or values is None or values.shape != (int(np.count_nonzero(nonzero)),):
            raise BadInput(f"{ascii(name)[:80]}: its mask does not fit its shape and values")
        if not values.is_floating_point():
            raise BadInput(f"{ascii(name)[:80]}: only floats are stored in parts")
        flat = torch.zeros(len(nonzero), dtype=values.dtype)
        flat[torch.from_numpy(nonzero)] = values
        if signs is not None:
            negative = _unpack_bits(signs, len(nonzero) - len(values))
            if negative is None:
                raise BadInput(f"{ascii(name)[:80]}: its signs do not fit its mask")
            flat[torch.from_numpy(np.flatnonzero(~nonzero)[negative])] = -0.0
        state[name] = flat.view(shape)
    return state


def _parts(value: torch.Tensor) -> State:
    flat = value.flatten()
    nonzero = flat != 0
    negative = flat[~nonzero].signbit()
    parts = {MASK: _pack_bits(nonzero), VALUES: flat[nonzero]}
    return {**parts, SIGNS: _pack_bits(negative)} if negative.any() else parts


def _pack_bits(flags: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.packbits(flags.numpy()))


def _unpack_bits(bits: torch.Tensor | None, count: int) -> np.ndarray | None:
    """Return the flags, bool [count]; None if ``bits`` can't be ``count`` packed flags."""
    if bits is None or bits.dtype != torch.uint8 or bits.shape != (math.ceil(count / 8),):
        return None
    flags = np.unpackbits(bits.numpy()).astype(bool)
    return None if flags[count:].any() else flags[:count]
