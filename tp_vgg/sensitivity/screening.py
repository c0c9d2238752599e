"""Classes by bf16 where its error can't matter, and by fp32 elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tp_vgg.evaluation.evaluate import classes_of
from tp_vgg.sensitivity.levels import LayerLevels

SAFETY = 3.0
"""A screened image is trusted where its margin is over this many times the largest error that the screening sample showed."""
MOST_REDONE = 0.3
"""Where more than this share of the screening sample would be redone, bf16 saves nothing: all images run in fp32."""
LEAST_REDONE = 32
"""Images of the smallest batch that is done again on such a device."""
PADDED = ("cuda",)
"""Devices on which a batch of a new size costs more than a few images more."""


@dataclass(frozen=True)
class Classifier:
    """Predicted classes of one layer's levels; bf16 screens where ``bounds`` are given, and is all there is where ``exact`` is not."""

    exact: LayerLevels | None
    screen: LayerLevels | None
    bounds: tuple[float, ...] = ()
    """By level: the margin up to which bf16 is not trusted; infinite where it is not used at all."""

    def predictions(self, x: torch.Tensor, levels: int) -> Iterator[tuple[torch.Tensor, int]]:
        """(int64 [n], images redone in fp32) of each level in turn."""
        every = range(levels)
        if self.screen is None or self.exact is None:
            one = self.screen or self.exact
            assert one is not None
            x = x.bfloat16() if self.screen else x
            for logits in one.logits(x, every):
                yield classes_of(logits), 0
            return
        found: dict[int, tuple[torch.Tensor, int]] = {}
        screened = [i for i in every if self.bounds[i] != float("inf")]
        for i, logits in (
            zip(screened, self.screen.logits(x.bfloat16(), screened), strict=True)
            if screened
            else ()
        ):
            found[i] = self._verified(x, i, logits.float())
        rest = [i for i in every if i not in found]
        for i, logits in zip(rest, self.exact.logits(x, rest), strict=True) if rest else ():
            found[i] = classes_of(logits), len(x)
        yield from (found[i] for i in every)

    def _verified(
        self, x: torch.Tensor, level: int, logits: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        assert self.exact is not None
        classes = classes_of(logits)
        near = (~(_margins(logits) > self.bounds[level])).nonzero().squeeze(1)  # NaN is near too
        if len(near):
            (again,) = self.exact.logits(x[_padded(near, len(x))], [level])
            classes[near] = classes_of(again[: len(near)])
        return classes, len(near)


def bounded(exact: LayerLevels, screen: LayerLevels, x: torch.Tensor, levels: int) -> Classifier:
    """Bounds on the margin from running ``x``, the screening sample's activations, in both precisions.

    The bound of a level is ``SAFETY`` times the largest error that bf16 makes in the margin between its class and any other. That is
    what these images showed, not a proof for others.
    """
    bounds = []
    half = x.bfloat16()
    for i in range(levels):
        (reference,) = exact.logits(x, [i])
        reference = reference.float().clone()
        (found,) = screen.logits(half, [i])
        error = found.float() - reference
        picked = found.argmax(1, keepdim=True)
        worst = float((error.gather(1, picked) - error).abs().max())
        bound = SAFETY * worst
        redone = float((~(_margins(found.float()) > bound)).float().mean())
        bounds.append(bound if redone <= MOST_REDONE and math.isfinite(bound) else float("inf"))
    return Classifier(exact, screen, tuple(bounds))


def _padded(where: torch.Tensor, most: int) -> torch.Tensor:
    """``where`` [n] (1 ≤ n ≤ ``most``), on CUDA with its first repeated up to a power of two, or to ``most``: for every batch size that it has not seen, cuDNN makes
    a plan, which takes longer than the few images more (docs/gpu.md)."""
    if where.device.type not in PADDED:
        return where
    size = min(max(LEAST_REDONE, 1 << (len(where) - 1).bit_length()), most)
    return torch.cat([where, where[:1].expand(size - len(where))])


def _margins(logits: torch.Tensor) -> torch.Tensor:
    """Distance of the best logit to the second best, [n]; infinite for a single class."""
    if logits.shape[1] == 1:
        return logits.new_full((len(logits),), float("inf"))
    best = logits.topk(2, 1).values
    return best[:, 0] - best[:, 1]
