"""Tensors that a layer computes from others are computed here once, as the layer does.

``torch.nn.utils.prune`` leaves ``weight_orig`` and ``weight_mask`` in a state dict, weight norm a
direction and its length.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.bitmask import State

_ORIG, _MASK = "_orig", "_mask"
_NORMS = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)
"""Suffixes of the length and the direction, in torch's old and new weight norm."""


def baked(state: Mapping[str, torch.Tensor]) -> tuple[State, list[str]]:
    """Return the tensors that the layers compute with, in the order of ``state``, and notes.

    Raises :class:`BadInput` if a mask does not fit its tensor, or for spectral norm and any other
    parametrization.
    """
    plain: State = {}
    used: set[str] = set()
    masked, kept, elements, normed = 0, 0, 0, 0
    for name, value in state.items():
        base = name.removesuffix(_ORIG)
        mask = state.get(f"{base}{_MASK}") if base != name else None
        norm = next((pair for pair in _NORMS if name.endswith(pair[1])), None)
        length = state.get(name.removesuffix(norm[1]) + norm[0]) if norm else None
        if mask is not None:
            if mask.shape != value.shape or base in state:
                raise BadInput(
                    f"state_dict: {ascii(base)[1:-1][:80]}{_MASK}: does not fit its tensor"
                )
            plain[base] = value * mask + 0.0  # a masked negative weight is −0.0
            used.add(f"{base}{_MASK}")
            masked, kept = masked + 1, kept + int(plain[base].count_nonzero())
            elements += value.numel()
        elif norm and length is not None and _weight_norm(state, name.removesuffix(norm[1])):
            plain[f"{name.removesuffix(norm[1])}.weight"] = _normed(name, value, length)
            used.add(name.removesuffix(norm[1]) + norm[0])
            normed += 1
        else:
            plain[name] = value
    plain = {name: value for name, value in plain.items() if name not in used}
    _refuse_others(plain)
    for name, value in plain.items():
        if not value.isfinite().all():
            raise BadInput(f"state_dict: {ascii(name)[:80]}: holds NaN or infinity")
    notes = []
    if masked:
        zeros = 1 - kept / max(elements, 1)
        notes.append(
            f"masks of torch.nn.utils.prune applied to {masked} tensors ({zeros:.1%} of their "
            "values are zero)"
        )
    if normed:
        notes.append(f"weight norm applied to {normed} layers")
    return plain, notes


def _weight_norm(state: Mapping[str, torch.Tensor], layer: str) -> bool:
    """Return True if nothing but weight norm computes the weight of ``layer``."""
    return not any(
        name == f"{layer}.weight" or name.startswith(f"{layer}.parametrizations.weight.0")
        for name in state
    )


def _normed(name: str, direction: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Return ``length`` times the unit vectors of ``direction``, as ``torch._weight_norm``.

    Source: Salimans & Kingma 2016.
    """
    fits = length.ndim in (0, direction.ndim) and all(
        size in (1, other) for size, other in zip(length.shape, direction.shape, strict=False)
    )
    if not fits:
        raise BadInput(f"state_dict: {ascii(name)[:80]}: does not fit the length of weight norm")
    summed = [
        place for place in range(direction.ndim) if not length.ndim or length.shape[place] == 1
    ]
    return direction * (length / direction.square().sum(summed, keepdim=True).sqrt())


def _refuse_others(state: Mapping[str, torch.Tensor]) -> None:
    for name in state:
        if ".parametrizations." in name:
            fix = "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        elif name.endswith("_u") or f"{name.removesuffix(_ORIG)}_u" in state:
            fix = "torch.nn.utils.remove_spectral_norm(layer)"
        elif name.endswith((_ORIG, _MASK)):
            fix = "torch.nn.utils.prune.remove(layer, 'weight')"
        else:
            continue
        raise BadInput(
            f"state_dict: {ascii(name)[:80]}: the layer computes its weight from several tensors; "
            f"before saving, call {fix}"
        )
