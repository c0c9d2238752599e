"""The folded network as a chain of steps: what evaluation needs of a VGG, and nothing else."""

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
    """A VGG's steps in order, from images ``[n, side, side, 3]`` to logits, with every weight prepared for its kernel."""

    steps: tuple[FusedLayer, ...]
    kernels: tuple[Kernel, ...]
    prepared: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, steps: Sequence[FusedLayer]) -> Chain:
        kernels = tuple(choose(step) for step in steps)
        return cls(
            tuple(steps),
            kernels,
            tuple(k.prepare(step.weight) for k, step in zip(kernels, steps, strict=True)),
        )

    def to(self, dtype: torch.dtype) -> Chain:
        return Chain.of([step.to(dtype) for step in self.steps])

    @property
    def places(self) -> range:
        """Of the steps, in the order in which they are walked."""
        return range(len(self.steps))

    def place_of(self, layer: str) -> int:
        """Where a layer's step is."""
        return next(place for place in self.places if self.steps[place].name == layer)

    def follows(self, place: int) -> int:
        """The place of what reads the output of step ``place``; behind the last one it is no step's."""
        return place + 1

    def is_last(self, place: int) -> bool:
        """Whether its output is the logits."""
        return self.follows(place) not in self.places

    def macs(self, place: int) -> int:
        """Multiply-accumulates of one step for one image."""
        step = self.steps[place]
        return step.weight.numel() * step.side**2

    def macs_from(self, place: int) -> int:
        """Of step ``place`` and of all that is behind it, for one image."""
        return sum(self.macs(here) for here in self.places[place:])

    @property
    def widest(self) -> int:
        """Elements of the largest output of a step for one image: at one time, the output of one step is alive."""
        return max(math.prod(step.output_shape) for step in self.steps)

    def input_of(self, place: int, images: torch.Tensor) -> torch.Tensor:
        """What step ``place`` sees of images [n, side, side, 3]."""
        for before in self.places[:place]:
            images = self.roll(images, before)
        return images

    def roll(self, x: torch.Tensor, place: int, buffers: Buffers | None = None) -> torch.Tensor:
        """The output of step ``place`` for its input ``x``; in ``buffers`` where they are given."""
        step = self.steps[place]
        out = (buffers or Buffers()).take(place, x, step.output_shape)
        self.kernels[place].run_weights(step, x, self.prepared[place : place + 1], [out])
        return out

    def logits(
        self, x: torch.Tensor, place: int = 0, buffers: Buffers | None = None
    ) -> torch.Tensor:
        """Logits [n, classes] from the input of step ``place``; gone when ``buffers`` are used again."""
        for here in self.places[place:]:
            x = self.roll(x, here, buffers)
        return x


def fused_layers_of(model: Network, side: int) -> list[FusedLayer]:
    """The steps of ``model`` in eval mode for images of ``side`` pixels, named as the model names its layers: batch norm folded
    into the convs, and a head that would only see copies of one pixel folded too."""
    plain = fold_batch_norm(as_vgg(model))
    spec = as_vgg(model).spec
    steps = []
    names = iter(zip(spec.conv_names, plain.spec.conv_names, strict=True))
    for count in spec.stages:
        for place in range(count):
            name, folded = next(names)
            steps.append(
                FusedLayer(
                    name, *_weights(plain, folded), side, pooled=place == count - 1, relu=True
                )
            )
        side //= 2
    for place, name in enumerate(spec.linear_names):
        weight, bias = _weights(plain, name)
        pool = spec.pool if place == 0 else 0
        if pool == 7 and side == 1:
            pool, weight = 1, fold_head_columns(weight)
        steps.append(
            FusedLayer(
                name, weight, bias, 1, pooled=False, relu=place < len(spec.hidden), head_pool=pool
            )
        )
    return steps


def fused_layers_from(steps: Sequence[FusedLayer], layer: str, *, own: bool) -> list[FusedLayer]:
    """The steps behind a layer, with ``own`` its own first."""
    place = next(place for place, step in enumerate(steps) if step.name == layer)
    return list(steps[place if own else place + 1 :])


def with_channels_in_order(
    steps: Sequence[FusedLayer], orders: Mapping[str, torch.Tensor]
) -> list[FusedLayer]:
    """The same network with the output channels of the named steps permuted: ``orders[name][i]`` becomes channel i."""
    permuted = []
    before: torch.Tensor | None = None
    for step in steps:
        weight, bias = step.weight, step.bias
        if before is not None:
            weight = weight.unflatten(1, (len(before), -1))[:, before].flatten(1, 2)
        before = orders.get(step.name)
        if before is not None:
            weight, bias = weight[before], bias[before]
        permuted.append(replace(step, weight=weight, bias=bias))
    return permuted


def _weights(model: Network, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    layer = model.get_submodule(name)
    return layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()
