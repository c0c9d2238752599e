from __future__ import annotations

import torch
from helpers.networks import SMALL

from tp_vgg.latency.tensor_memory import peak_live_bytes
from tp_vgg.network.vgg.fold import fold_batch_norm


def test_what_is_dropped_no_longer_counts() -> None:
    def call() -> None:
        a, b = torch.zeros(1000), torch.zeros(2000)
        del a
        torch.zeros(500).add_(b[:500])

    assert peak_live_bytes(call) == 4 * 3000
    # Views hold no memory of their own.
    assert peak_live_bytes(lambda: torch.zeros(10).view(2, 5).t()) == 40


def test_a_network_holds_a_layer_and_the_next(make_model) -> None:
    """Eager: the outputs of the first conv and batch norm; folded: of the conv and the pool."""
    model, images = make_model(), torch.randn(5, 3, 32, 32)
    first = 4 * 5 * SMALL.widths[0] * 32 * 32
    with torch.inference_mode():
        assert peak_live_bytes(lambda: model(images)) == 2 * first
        folded = fold_batch_norm(model)
        assert peak_live_bytes(lambda: folded(images)) == first + first // 4
