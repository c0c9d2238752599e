"""What every network of the tool carries beside its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from tp_vgg.network.spec import Spec

Meta = dict[str, Any]
"""What travels with the weights, as plain types; ``mean`` and ``std`` are the normalisation of [0, 1] pixels."""


class Network(nn.Module):
    """A module that says what it is.

    Input: normalised float images [N, 3, S, S]; output: logits [N, num_classes].
    """

    spec: Spec
    """Its layers, under the names of its modules."""
    meta: Meta
    """What it was trained for."""
    kept: dict[str, list[int]]
    """Which channels of the dense baseline are left, by layer; empty: all."""


def prunable_layers(model: Network) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """(name, layer) of every conv and hidden linear, in order."""
    for name in model.spec.prunable:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        yield name, layer


def realised_spec(model: Network) -> Spec:
    """The spec read off the modules themselves; equals ``model.spec`` unless something was skipped."""
    widths = {name: layer.weight.shape[0] for name, layer in prunable_layers(model)}
    return model.spec.with_widths(widths)
