"""A chain is the folded network as a list of fused layers: only what evaluation needs of a VGG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from tp_vgg.network.families import as_vgg
from tp_vgg.network.network import Network
from tp_vgg.network.vgg.fold import fold_batch_norm, fold_head_columns
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.kernels import Kernel, choose


@dataclass(frozen=True)
class Chain:
    """A chain holds a VGG's fused layers in order, each with its kernel and its prepared weight.

    It computes logits from normalised images ``[n, side, side, 3]``. A layer's place is its index
    in the chain.
    """

    layers: tuple[FusedLayer, ...]
    kernels: tuple[Kernel, ...]
    """The kernel of each layer."""
    prepared: tuple[torch.Tensor, ...]
    """The weight of each layer, prepared for its kernel."""

    @classmethod
    def of(cls, layers: Sequence[FusedLayer]) -> Chain:
        """Return the chain of ``layers``; choose each layer's kernel and prepare its weight."""
        kernels = tuple(choose(layer) for layer in layers)
        return cls(
            tuple(layers),
            kernels,
            tuple(k.prepare(layer.weight) for k, layer in zip(kernels, layers, strict=True)),
        )

    def to(self, dtype: torch.dtype) -> Chain:
        """Return the same chain in ``dtype``, with the kernels that fit it."""
        return Chain.of([layer.to(dtype) for layer in self.layers])

    @property
    def places(self) -> range:
        """Return the places of all layers, in the order in which they are evaluated."""
        return range(len(self.layers))

    def place_of(self, name: str) -> int:
        """Return the place of the layer called ``name``, which must be in the chain."""
        return next(place for place in self.places if self.layers[place].name == name)

    def follows(self, place: int) -> int:
        """Return the place of the layer that reads the output of layer ``place``.

        For the last layer, this is one past the end of :attr:`places`.
        """
        return place + 1

    def is_last(self, place: int) -> bool:
        """Return True if the output of layer ``place`` is the logits."""
        return self.follows(place) not in self.places

    @property
    def widest(self) -> int:
        """Return the number of elements in the largest output of a layer for one image.

        A walk over the layers holds the output of one layer at a time.
        """
        return max(math.prod(layer.output_shape) for layer in self.layers)

    def input_of(self, place: int, images: torch.Tensor) -> torch.Tensor:
        """Return the input of layer ``place`` for normalised images ``[n, side, side, 3]``."""
        for before in self.places[:place]:
            images = self.roll(images, before)
        return images

    def roll(self, x: torch.Tensor, place: int, buffers: Buffers | None = None) -> torch.Tensor:
        """Return the output of layer ``place`` for its input ``x``, in ``buffers`` if given."""
        layer = self.layers[place]
        out = (buffers or Buffers()).take(place, x, layer.output_shape)
        self.kernels[place].run_weights([layer], x, self.prepared[place : place + 1], [out])
        return out

    def logits(
        self, x: torch.Tensor, place: int = 0, buffers: Buffers | None = None
    ) -> torch.Tensor:
        """Return the logits ``[n, classes]`` for ``x``, the input of layer ``place``.

        They are overwritten when ``buffers`` are used again. For a place past the last layer, ``x``
        itself comes back.
        """
        for here in self.places[place:]:
            x = self.roll(x, here, buffers)
        return x


def fused_layers_of(model: Network, side: int) -> list[FusedLayer]:
    """Return the fused layers of ``model`` in eval mode, for images of ``side`` × ``side`` pixels.

    Batch norm is folded into the convs. The head's first weight is folded too if its pool only
    repeats a 1×1 map. The layers have the names that ``model`` gives them.
    """
    plain = fold_batch_norm(as_vgg(model))
    spec = as_vgg(model).spec
    layers = []
    names = iter(zip(spec.conv_names, plain.spec.conv_names, strict=True))
    for count in spec.stages:
        for place in range(count):
            name, plain_name = next(names)
            layers.append(
                FusedLayer(
                    name, *_weights(plain, plain_name), side, pooled=place == count - 1, relu=True
                )
            )
        side //= 2
    for place, name in enumerate(spec.linear_names):
        weight, bias = _weights(plain, name)
        pool = spec.pool if place == 0 else 0
        if pool == 7 and side == 1:
            pool, weight = 1, fold_head_columns(weight)
        layers.append(
            FusedLayer(
                name, weight, bias, 1, pooled=False, relu=place < len(spec.hidden), head_pool=pool
            )
        )
    return layers


def fused_layers_from(
    layers: Sequence[FusedLayer], name: str, *, inclusive: bool
) -> list[FusedLayer]:
    """Return the layers behind the one called ``name``; ``inclusive``: that layer too, first."""
    place = next(place for place, layer in enumerate(layers) if layer.name == name)
    return list(layers[place if inclusive else place + 1 :])


def with_channels_in_order(
    layers: Sequence[FusedLayer], orders: Mapping[str, torch.Tensor]
) -> list[FusedLayer]:
    """Return the same network with the output channels of the layers named in ``orders`` permuted.

    ``orders[name]`` is int64 ``[out]``: channel ``orders[name][i]`` becomes channel i.
    """
    permuted = []
    before: torch.Tensor | None = None
    for layer in layers:
        weight, bias = layer.weight, layer.bias
        if before is not None:
            weight = weight.unflatten(1, (len(before), -1))[:, before].flatten(1, 2)
        before = orders.get(layer.name)
        if before is not None:
            weight, bias = weight[before], bias[before]
        permuted.append(replace(layer, weight=weight, bias=bias))
    return permuted


def _weights(model: Network, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    module = model.get_submodule(name)
    return module.get_parameter("weight").detach(), module.get_parameter("bias").detach()
