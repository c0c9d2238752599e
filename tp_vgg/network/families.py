"""The families of networks that the tool knows: who reads a spec back, and who builds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tp_vgg.errors import BadInput
from tp_vgg.network.spec import Spec
from tp_vgg.network.vgg.spec import STAGES, VGGSpec

if TYPE_CHECKING:
    from torch import nn

    from tp_vgg.network.network import Network
    from tp_vgg.network.vgg.model import VGG

STEMS = tuple(f"vgg{depth}" for depth in STAGES)
"""Of all networks, the default's first (:attr:`Spec.stem`)."""


def spec_from_dict(data: Mapping[str, Any]) -> Spec:
    """The spec that :meth:`Spec.to_dict` wrote, of whatever family. Raises :class:`BadInput` for anything else."""
    return VGGSpec.from_dict(data)


def build_network(spec: Spec) -> Network:
    """A freshly initialised network, in training mode."""
    from tp_vgg.network.vgg.model import build

    return build(_vgg(spec))


def empty_network(spec: Spec) -> Network:
    """A network without storage (meta device), to be filled by ``load_state_dict(..., assign=True)``."""
    from tp_vgg.network.vgg.model import empty

    return empty(_vgg(spec))


def fold_batch_norm(model: Network) -> Network:
    """A copy without batch norm that gives the same logits in eval mode (:func:`tp_vgg.network.vgg.fold.fold_batch_norm`)."""
    from tp_vgg.network.vgg.fold import fold_batch_norm

    return fold_batch_norm(as_vgg(model))


def activation_after(model: Network, layer: str) -> nn.Module:
    """The ReLU that follows a prunable layer, behind batch norm where there is one."""
    from tp_vgg.network.vgg.model import activation_after

    return activation_after(as_vgg(model), layer)


def as_vgg(model: Network) -> VGG:
    """``model`` as a VGG, for what knows no other network yet. Raises :class:`BadInput` for any other."""
    from tp_vgg.network.vgg.model import VGG

    if not isinstance(model, VGG):
        raise BadInput(f"{model.spec.arch}: this works for VGG networks alone")
    return model


def _vgg(spec: Spec) -> VGGSpec:
    if not isinstance(spec, VGGSpec):
        raise BadInput(f"{spec.arch}: no network of this kind can be built")
    return spec
