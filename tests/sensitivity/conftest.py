"""The tests of sweeps share these trained networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.training import fit

from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.training.recipe import Recipe


@pytest.fixture(scope="session")
def trained(digits) -> Callable[[VGGSpec], VGG]:
    """A network that has learned digits well enough for its counts to mean something."""
    held: dict[VGGSpec, VGG] = {}

    def train(spec: VGGSpec, epochs: int | None = None) -> VGG:
        if spec not in held:
            torch.manual_seed(0)
            model = build(spec)
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    # With the default initialisation so thin a head learns nothing in 3 epochs.
                    torch.nn.init.kaiming_normal_(module.weight)
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            model.meta = {
                "mean": list(digits.normalisation.mean),
                "std": list(digits.normalisation.std),
            }
            epochs = epochs or (3 if spec.batch_norm else 6)  # slower without batch norm
            recipe = Recipe(epochs=epochs, lr=0.02, batch_size=64, seed=0)
            fit(model, digits, recipe)
            held[spec] = model.eval()
        return held[spec]

    return train
