"""Zeroed weights are held at zero here, through a training loop that is not tp_vgg's."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim.optimizer import register_optimizer_step_post_hook

from tp_vgg.errors import BadInput
from tp_vgg.files.checks import type_name
from tp_vgg.network.masks import parameter_behind

log = logging.getLogger(__name__)


def held(model: nn.Module) -> Held:
    """Hold the weights of ``model`` that are exactly zero now at zero, until the block ends.

    ``with tp_vgg.held(model):`` stands around a training loop. Every step of any optimiser of
    ``torch.optim`` then leaves these weights at exactly 0.0, whatever its momentum and weight decay
    do, and their gradients are zero. It does not matter whether the optimiser was made before.
    Without ``with``, it holds from the call on, until ``.remove()``.

    The weights are those of conv and linear layers, not biases and not batch norm; masks of
    ``torch.nn.utils.prune`` may stay on them. ``model`` may be any module, or one in a wrapper of
    ``torch.compile``, ``DataParallel`` or DDP. Weights that become zero later are not held. Updates
    that are not made by an optimiser's ``step`` are undone when the block ends.

    Raises :class:`BadInput` for anything but a module with a conv or linear layer, for weights
    without values or that a parametrization computes; and, in an optimiser's step, if a weight was
    replaced, as ``prune_structured`` does.
    """
    held_zeros = Held(model)
    if not len(held_zeros):
        log.warning("held: no conv or linear weight is zero; prune the model first")
    return held_zeros


class _Zeros:
    """These are the zeros of one layer's weight; the layer is not kept alive by them."""

    def __init__(
        self, name: str, layer: nn.Module, weight: nn.Parameter, places: torch.Tensor
    ) -> None:
        self.name = name
        self._layer, self._weight = weakref.ref(layer), weakref.ref(weight)
        self._places = places
        self._gradient_hook: Any = None
        if weight.requires_grad:
            self._gradient_hook = weight.register_hook(self._masked)

    def __len__(self) -> int:
        return int(self._places.sum())

    def apply(self) -> None:
        """Set the weight to 0.0 at the zeros, unless it was replaced."""
        weight = self._weight()
        if weight is not None and weight.shape == self._places.shape:
            weight.data.masked_fill_(self._places_on(weight.device), 0.0)

    def is_gone(self) -> bool:
        """Return True if the layer was deleted."""
        return self._layer() is None

    def is_replaced(self) -> bool:
        """Return True if the layer has another weight now, or its weight another shape."""
        layer, weight = self._layer(), self._weight()
        if layer is None:
            return False
        return (
            weight is None
            or weight is not parameter_behind(layer, "weight")
            or (weight.shape != self._places.shape)
        )

    def let_go(self) -> None:
        """Leave the gradients alone from now on."""
        if self._gradient_hook is not None:
            self._gradient_hook.remove()

    def _masked(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.masked_fill(self._places_on(gradient.device), 0.0)

    def _places_on(self, device: torch.device) -> torch.Tensor:
        self._places = self._places.to(device)
        return self._places


class Held:
    """A Held keeps the zeros of one model, from its making until :meth:`remove`.

    It is also a context manager, which removes it at the end of its block.
    """

    def __init__(self, model: nn.Module) -> None:
        self._zeros = _zeros_of(model)
        self._is_removed = False
        self._step_hook: Any = None
        if self._zeros:
            self._step_hook = register_optimizer_step_post_hook(self._after_step)

    def __enter__(self) -> Held:
        if self._is_removed:
            raise BadInput("held: it has ended; enter tp_vgg.held(model) anew")
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __len__(self) -> int:
        return sum(map(len, self._zeros))

    def __repr__(self) -> str:
        return f"<held: {len(self):,} zero weights in {len(self._zeros)} layers>"

    def remove(self) -> None:
        """Set the held weights to zero a last time and let them go; a second call does nothing."""
        for zeros in self._zeros:
            zeros.apply()
        self._let_go()

    def _let_go(self) -> None:
        for zeros in self._zeros:
            zeros.let_go()
        if self._step_hook is not None:
            self._step_hook.remove()
        self._zeros, self._step_hook, self._is_removed = [], None, True

    def _after_step(self, *_: object) -> None:
        # Nobody may have called `remove` for a model that was deleted. This hook then stays, for
        # torch runs it in a loop over all hooks; only the zeros are freed.
        self._zeros = [zeros for zeros in self._zeros if not zeros.is_gone()]
        for zeros in self._zeros:
            if zeros.is_replaced():
                self._let_go()
                raise BadInput(
                    f"held: {zeros.name}: its weight was replaced, so its zeros can't be held; "
                    "enter tp_vgg.held(model) anew after pruning, with a new optimiser"
                )
            zeros.apply()


def _zeros_of(model: object) -> list[_Zeros]:
    """Return the zeros of each conv and linear weight of ``model`` that has any."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"model: must be a torch.nn.Module, got {type_name(model)}")
    weights: dict[int, tuple[str, nn.Module, nn.Parameter]] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear | _ConvNd):
            continue
        weight = parameter_behind(layer, "weight")
        if weight is None:
            raise BadInput(
                f"model: {name or 'weight'}: its weight is computed from other tensors (a "
                "parametrization); remove that first: "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        if isinstance(weight, nn.parameter.UninitializedParameter) or weight.is_meta:
            raise BadInput(f"model: {name or 'weight'}: its weight has no values yet")
        weights[id(weight)] = name or "weight", layer, weight
    if not weights:
        raise BadInput(f"model: {type(model).__name__} has no conv or linear layer")
    for _, _, weight in weights.values():
        weight.data.add_(0.0)  # −0.0 becomes 0.0
    return [
        _Zeros(name, layer, weight, places)
        for name, layer, weight in weights.values()
        if (places := _places(layer, weight)).any()
    ]


def _places(layer: nn.Module, weight: nn.Parameter) -> torch.Tensor:
    """Return where the weight of ``layer`` is zero, by its mask or by itself, as a bool tensor."""
    mask = layer._buffers.get("weight_mask")
    places = weight.detach() == 0
    return places if mask is None else places | (mask == 0)
