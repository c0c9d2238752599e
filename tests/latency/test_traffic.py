from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tp_vgg.latency.traffic import bytes_moved, operators
from tp_vgg.network.vgg.fold import fold_batch_norm
from tp_vgg.network.vgg.model import build
from tp_vgg.network.vgg.spec import VGGSpec

THIN = VGGSpec((1,) * 8, image_size=32)
WEIGHTS = 27 + 7 * 9 + 10
SIDES = (32, 16, 8, 8, 4, 4, 2, 2)
"""Side of each conv's map, with one channel; a pool follows the 1st, 2nd, 4th, 6th and 8th."""
POOLED = (32, 16, 8, 4, 2)


INDICES = 8 * sum((side // 2) ** 2 for side in POOLED)
"""Bytes of the indices that max-pool writes for one image."""


def maps(times: int) -> int:
    """Elements read and written, by hand.

    Each conv's output is read and written ``times`` times in addition to the conv itself.
    """
    convs = 3 * 32**2 + sum(side**2 for side in SIDES[1:]) + sum(side**2 for side in SIDES)
    between = 2 * times * sum(side**2 for side in SIDES)
    pools = sum(side**2 + (side // 2) ** 2 for side in POOLED)
    average, linear = 1 + 1, 1 + 10
    return convs + between + pools + average + linear


@pytest.mark.parametrize(("batch", "item"), [(1, 4), (5, 2)])
def test_bytes_moved_by_hand_without_a_cache(batch: int, item: int) -> None:
    least = 3 * 32**2 + 32**2 + sum(2 * side**2 for side in SIDES[1:]) + 1 + 10
    for modes, cuda, elements, indices in (
        (("eager", "graph"), False, maps(2), INDICES),
        (("folded", "folded-graph"), False, maps(1), INDICES),
        (("eager", "graph"), True, maps(3), INDICES),
        (("folded", "folded-graph"), True, maps(2), INDICES),
        (("compile", "onnxruntime"), False, least, 0),
        (("compile",), True, least, 0),
    ):
        for mode in modes:
            moved = bytes_moved(THIN, mode, batch, item, cuda=cuda)
            assert moved == item * (WEIGHTS + batch * elements) + batch * indices


def test_a_cache_leaves_out_the_maps_that_fit_and_then_the_weights() -> None:
    """In bytes, one per element: image 3 · 1024, first conv's output 1024, second's 256."""
    image, logits, large, first = 3 * 1024, 10, 1024, 8 * 256
    # The first conv's output and the indices of the pool behind it do not fit. The output is
    # written by conv and ReLU, and read by ReLU and pool.
    assert (
        bytes_moved(THIN, "folded", 1, 1, large - 1) == image + logits + 4 * large + first + WEIGHTS
    )
    # All maps fit. The weights fit only beside the image and the first conv's output.
    assert bytes_moved(THIN, "folded", 1, 1, large) == image + logits + first + WEIGHTS
    assert bytes_moved(THIN, "folded", 1, 1, first) == image + logits + WEIGHTS
    assert (
        bytes_moved(THIN, "folded", 1, 1, WEIGHTS + image + large - 1) == image + logits + WEIGHTS
    )
    assert bytes_moved(THIN, "folded", 1, 1, WEIGHTS + image + large) == image + logits
    # Batch norm reads and writes the first conv's output once more.
    assert (
        bytes_moved(THIN, "eager", 1, 1, large - 1) == image + logits + 6 * large + first + WEIGHTS
    )
    # A fused kernel only writes it: the second conv reads the pooled quarter, which fits.
    assert bytes_moved(THIN, "compile", 1, 1, large - 1) == image + logits + large + WEIGHTS
    # With seven images each map is seven times as large; the weights stay the same.
    assert (
        bytes_moved(THIN, "folded", 7, 1, 7 * large - 1)
        == 7 * (image + logits + 4 * large + first) + WEIGHTS
    )


def test_an_l2_holds_the_weights_of_a_small_network_at_batch_1() -> None:
    """The weights of VGG-11 (18 MB in bf16, 37 MB in fp32) fit into 50 MB of L2, not into 6 MB."""
    spec = VGGSpec.preset(head="linear")
    image, logits = 3 * 32**2, 10
    for item in (2, 4):
        assert bytes_moved(spec, "folded-graph", 1, item, 50 << 20) == item * (image + logits)
        assert bytes_moved(spec, "folded-graph", 1, item, 6 << 20) == item * (
            image + logits + sum(row.weights for row in spec.rows)
        )


class _Seen(TorchDispatchMode):
    """A mode that counts elements read and written per operator, maps and weights apart."""

    KINDS = ("convolution", "batch_norm", "relu", "max_pool", "mean", "adaptive", "addmm")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.__name__
        if any(kind in name for kind in self.KINDS):
            read, weight = (
                (args[1], args[2])
                if "addmm" in name
                else (args[0], args[1] if "convolution" in name else None)
            )
            written = out[0] if isinstance(out, tuple) else out
            indices = out[1].numel() if "max_pool" in name else 0
            self.found.append(
                (read.numel(), written.numel(), 0 if weight is None else weight.numel(), indices)
            )
        return out


@pytest.mark.parametrize(
    "spec",
    [
        THIN,
        VGGSpec((2,) * 10, hidden=(5, 6)),
        VGGSpec((2,) * 8, batch_norm=False, pool=7, hidden=(5,)),
        VGGSpec((3,) * 8, image_size=64),
    ],
)
@pytest.mark.parametrize("mode", ["eager", "folded"])
def test_the_operators_are_those_that_torch_runs(spec: VGGSpec, mode: str) -> None:
    model = build(spec).eval().requires_grad_(False)
    if mode == "folded":
        model = fold_batch_norm(model).eval()
    with _Seen() as seen, torch.no_grad():
        model(torch.zeros(1, 3, spec.image_size, spec.image_size))
    assert [
        (one.reads, one.writes, one.weights, one.indices) for one in operators(spec, mode)
    ] == seen.found
