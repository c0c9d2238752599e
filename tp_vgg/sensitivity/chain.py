"""The folded network as a chain of steps: what evaluation needs of a VGG, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from tp_vgg.network.families import as_vgg
from tp_vgg.network.network import Network
from tp_vgg.network.vgg.fold import fold_batch_norm, fold_head_columns
from tp_vgg.sensitivity.fused_layer import Buffers, Step
from tp_vgg.sensitivity.kernels import Kernel, choose


@dataclass(frozen=True)
class Chain:
    """A VGG's steps in order, from images ``[n, side, side, 3]`` to logits, with every weight prepared for its kernel."""

    steps: tuple[Step, ...]
    kernels: tuple[Kernel, ...]
    prepared: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Chain:
        kernels = tuple(choose(step) for step in steps)
        return cls(tuple(steps), kernels, tuple(k.prepare(step.weight) for k, step in zip(kernels, steps, strict=True)))

    def to(self, dtype: torch.dtype) -> Chain:
        return Chain.of([step.to(dtype) for step in self.steps])

    def roll(self, x: torch.Tensor, place: int, buffers: Buffers | None = None) -> torch.Tensor:
        """The output of step ``place`` for its input ``x``; in ``buffers`` where they are given."""
        step = self.steps[place]
        out = (buffers or Buffers()).take(place, x, step.output_shape)
        self.kernels[place].many(step, x, self.prepared[place : place + 1], [out])
        return out

    def logits(self, x: torch.Tensor, place: int = 0, buffers: Buffers | None = None) -> torch.Tensor:
        """Logits [n, classes] from the input of step ``place``; gone when ``buffers`` are used again."""
        for here in range(place, len(self.steps)):
            x = self.roll(x, here, buffers)
        return x


def steps_of(model: Network, side: int) -> list[Step]:
    """The steps of ``model`` in eval mode for images of ``side`` pixels, named as the model names its layers: batch norm folded
    into the convs, and a head that would only see copies of one pixel folded too."""
    plain = fold_batch_norm(as_vgg(model))
    spec = as_vgg(model).spec
    steps = []
    names = iter(zip(spec.conv_names, plain.spec.conv_names, strict=True))
    for count in spec.stages:
        for place in range(count):
            name, folded = next(names)
            steps.append(Step(name, *_weights(plain, folded), side, pooled=place == count - 1, relu=True))
        side //= 2
    for place, name in enumerate(spec.linear_names):
        weight, bias = _weights(plain, name)
        pool = spec.pool if place == 0 else 0
        if pool == 7 and side == 1:
            pool, weight = 1, fold_head_columns(weight)
        steps.append(Step(name, weight, bias, 1, pooled=False, relu=place < len(spec.hidden), head_pool=pool))
    return steps


def with_channels_in_order(steps: Sequence[Step], orders: Mapping[str, torch.Tensor]) -> list[Step]:
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
