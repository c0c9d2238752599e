"""Screening classifies images in bf16, and again in fp32 if bf16 is too close to call.

bf16 is trusted if the margin between its two best logits exceeds a bound. The bound comes from the
errors that bf16 makes on a sample of images, so it is a measurement and not a guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tp_vgg.evaluation.evaluate import classes_of
from tp_vgg.sensitivity.levels import LayerLevels

SAFETY = 3.0
"""bf16 is trusted for margins over this many times its largest error on the screening sample."""
MOST_REDONE = 0.3
"""Largest share of the screening sample that may be evaluated again in fp32, in [0, 1].

Above it, bf16 saves nothing, and all images run in fp32.
"""
LEAST_REDONE = 32
"""Images in the smallest batch that is evaluated again, on the devices in :data:`PADDED`."""
PADDED = ("cuda",)
"""Device types on which a new batch size costs more time than a few extra images."""


@dataclass(frozen=True)
class Classifier:
    """A classifier predicts the classes of images with one layer at each of its levels.

    With ``exact`` (fp32) or ``screen`` (bf16) alone, it uses that precision for all images. With
    both, bf16 screens and fp32 verifies.
    """

    exact: LayerLevels | None
    screen: LayerLevels | None
    bounds: tuple[float, ...] = ()
    """By level: the margin up to which bf16 is not trusted; infinite if the level runs in fp32."""

    def predictions(self, x: torch.Tensor, levels: int) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield the classes and the number of images redone in fp32, for each level in turn.

        ``x``: fp32 activations of n images. ``levels``: the number of levels. Classes: int64
        ``[n]``, −1 if a logit is not finite. With both precisions, a level that runs in fp32 from
        the start counts all n images as redone.
        """
        all_levels = range(levels)
        if self.screen is None or self.exact is None:
            only = self.screen or self.exact
            assert only is not None
            x = x.bfloat16() if self.screen else x
            for logits in only.logits(x, all_levels):
                yield classes_of(logits), 0
            return
        results: dict[int, tuple[torch.Tensor, int]] = {}
        screened = [i for i in all_levels if self.bounds[i] != float("inf")]
        for i, logits in (
            zip(screened, self.screen.logits(x.bfloat16(), screened), strict=True)
            if screened
            else ()
        ):
            results[i] = self._verified(x, i, logits.float())
        rest = [i for i in all_levels if i not in results]
        for i, logits in zip(rest, self.exact.logits(x, rest), strict=True) if rest else ():
            results[i] = classes_of(logits), len(x)
        yield from (results[i] for i in all_levels)

    def _verified(
        self, x: torch.Tensor, level: int, logits: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        assert self.exact is not None
        classes = classes_of(logits)
        near = (~(_margins(logits) > self.bounds[level])).nonzero().squeeze(1)  # NaN is near too
        if len(near):
            (exact,) = self.exact.logits(x[_padded(near, len(x))], [level])
            classes[near] = classes_of(exact[: len(near)])
        return classes, len(near)


def bounded(exact: LayerLevels, screen: LayerLevels, x: torch.Tensor, levels: int) -> Classifier:
    """Return the classifier whose bounds come from running ``x`` in both precisions.

    ``x``: fp32 activations of the screening sample. The bound of each of ``levels`` levels is
    :data:`SAFETY` times the largest error that bf16 makes in the margin between its class and any
    other. It is infinite if more than :data:`MOST_REDONE` of the sample would be redone. The
    bound is measured on the sample; it is no guarantee for other images.
    """
    bounds = []
    half = x.bfloat16()
    for i in range(levels):
        (reference,) = exact.logits(x, [i])
        reference = reference.float().clone()
        (screened,) = screen.logits(half, [i])
        error = screened.float() - reference
        picked = screened.argmax(1, keepdim=True)
        worst = float((error.gather(1, picked) - error).abs().max())
        bound = SAFETY * worst
        redone = float((~(_margins(screened.float()) > bound)).float().mean())
        bounds.append(bound if redone <= MOST_REDONE and math.isfinite(bound) else float("inf"))
    return Classifier(exact, screen, tuple(bounds))


def _padded(indices: torch.Tensor, most: int) -> torch.Tensor:
    """Pad the indices, int64 [n], by repeating the first, to a power of two or to ``most``.

    Only on the devices in ``PADDED``. cuDNN makes a plan for every new batch size, which takes
    longer than evaluating the few extra images (docs/gpu.md). Needs 1 ≤ n ≤ ``most``.
    """
    if indices.device.type not in PADDED:
        return indices
    size = min(max(LEAST_REDONE, 1 << (len(indices) - 1).bit_length()), most)
    return torch.cat([indices, indices[:1].expand(size - len(indices))])


def _margins(logits: torch.Tensor) -> torch.Tensor:
    """Return the best logit minus the second best, [n]; infinite if there is one class."""
    if logits.shape[1] == 1:
        return logits.new_full((len(logits),), float("inf"))
    best = logits.topk(2, 1).values
    return best[:, 0] - best[:, 1]
