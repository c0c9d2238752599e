"""Every network carries its spec, metadata and kept channels beside its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from tp_vgg.network.spec import Spec

Meta = dict[str, Any]
"""Metadata saved with the weights, as plain types; ``mean`` and ``std`` normalise [0, 1] pixels."""


class Network(nn.Module):
    """A network is a module that knows its own architecture.

    It maps normalised float images [N, 3, S, S] to logits [N, num_classes].
    """

    spec: Spec
    """The architecture; its layers have the names of the modules."""
    meta: Meta
    """The normalisation, and what is known of classes, data and training."""
    kept: dict[str, list[int]]
    """Sorted indices of the dense baseline's channels that remain, by layer.

    A layer that is not named keeps all of them."""


@dataclass(frozen=True)
class Segment:
    """A segment is a part of a network: a conv or linear layer, and what follows it.

    It ends before the next such layer.
    """

    name: str
    """The layer's name."""
    layer: nn.Conv2d | nn.Linear
    norm: nn.BatchNorm2d | None
    """The batch norm behind the layer, if there is one."""
    rest: nn.Sequential
    """The modules behind the layer, ``norm`` included; none behind the last layer."""


def prunable_layers(model: Network) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Yield (name, layer) for each conv and each hidden linear, in the network's order."""
    for name in model.spec.prunable:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        yield name, layer


def realised_spec(model: Network) -> Spec:
    """Return the spec with the widths of the modules themselves.

    It differs from ``model.spec`` if a pruning changed the modules but not the spec.
    """
    widths = {name: layer.weight.shape[0] for name, layer in prunable_layers(model)}
    return model.spec.with_widths(widths)
