"""These functions find the network family of a spec or a model; VGG is the only one so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tp_vgg.errors import BadInput
from tp_vgg.network.spec import Spec
from tp_vgg.network.vgg.spec import STAGES, VGGSpec

if TYPE_CHECKING:
    from torch import nn

    from tp_vgg.network.network import Network, Segment
    from tp_vgg.network.vgg.model import VGG

STEMS = tuple(f"vgg{depth}" for depth in STAGES)
"""The stem (:attr:`Spec.stem`) of every known network; that of the default network comes first."""


def spec_from_dict(data: Mapping[str, Any]) -> Spec:
    """Return the spec that :meth:`Spec.to_dict` of any family wrote.

    Raises :class:`BadInput` if ``data`` is not such a spec.
    """
    return VGGSpec.from_dict(data)


def build_network(spec: Spec) -> Network:
    """Return a freshly initialised network in training mode.

    Raises :class:`BadInput` if no family can build ``spec``.
    """
    from tp_vgg.network.vgg.model import build

    return build(_vgg(spec))


def empty_network(spec: Spec) -> Network:
    """Return a network without storage (meta device), for ``load_state_dict(..., assign=True)``.

    Raises :class:`BadInput` if no family can build ``spec``.
    """
    from tp_vgg.network.vgg.model import empty

    return empty(_vgg(spec))


def fold_batch_norm(model: Network) -> Network:
    """Return a copy without batch norm that gives the same logits in eval mode, up to rounding.

    See :func:`tp_vgg.network.vgg.fold.fold_batch_norm`. Raises :class:`BadInput` as :func:`as_vgg`.
    """
    from tp_vgg.network.vgg.fold import fold_batch_norm

    return fold_batch_norm(as_vgg(model))


def activation_after(model: Network, layer: str) -> nn.Module:
    """Return the ReLU that follows a prunable layer (after batch norm, if there is one).

    Raises :class:`BadInput` as :func:`as_vgg`.
    """
    from tp_vgg.network.vgg.model import activation_after

    return activation_after(as_vgg(model), layer)


def segments(model: Network) -> list[Segment]:
    """Return the network as one segment for each conv and linear layer, in order.

    The modules are shared with ``model``. Raises :class:`BadInput` as :func:`as_vgg`.
    """
    from tp_vgg.network.vgg.cut import segments

    return segments(as_vgg(model))


def as_vgg(model: Network) -> VGG:
    """Return ``model`` itself, typed as a VGG, for code that supports no other network yet.

    Raises :class:`BadInput` if it is no VGG.
    """
    from tp_vgg.network.vgg.model import VGG

    if not isinstance(model, VGG):
        raise BadInput(f"{model.spec.arch}: this works for VGG networks only")
    return model


def _vgg(spec: Spec) -> VGGSpec:
    if not isinstance(spec, VGGSpec):
        raise BadInput(f"{spec.arch}: no network of this kind can be built")
    return spec
