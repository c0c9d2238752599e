"""Small real networks, and what can be said of any."""

from __future__ import annotations

from dataclasses import replace

from tp_vgg.network.vgg.spec import VGGSpec

SMALL = VGGSpec((8, 12, 16, 16, 20, 20, 24, 24), hidden=(32, 28))
"""A VGG-11 with batch norm, thin enough for a test."""


WIDE = VGGSpec((16, 24, 128, 128, 128, 136, 40, 36), hidden=(48, 40))
"""Wide enough for every kernel of the engine to be chosen."""


def variants(spec: VGGSpec) -> dict[str, VGGSpec]:
    """The kinds of network that everything must hold for, made of one with batch norm and hidden linears."""
    return {
        "bn-hidden": spec,
        "bn-linear": replace(spec, hidden=()),
        "plain-hidden": replace(spec, batch_norm=False),
        "plain-linear": replace(spec, batch_norm=False, hidden=()),
        "bn-unfolded": replace(spec, pool=7),
    }


VARIANTS = variants(SMALL)


def fresh(spec: VGGSpec = SMALL):
    """The untrained network of a spec, always the same."""
    import torch

    from tp_vgg.network.vgg.model import build

    torch.manual_seed(0)
    return build(spec)


def weights(model):
    """All numbers of a network as one vector."""
    import torch

    return torch.cat([value.double().flatten() for value in model.state_dict().values()])
