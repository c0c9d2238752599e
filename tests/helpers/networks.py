"""Small real networks, and helpers for any network."""

from __future__ import annotations

from dataclasses import replace

from tp_vgg.network.vgg.spec import VGGSpec

SMALL = VGGSpec((8, 12, 16, 16, 20, 20, 24, 24), hidden=(32, 28))
"""A VGG-11 with batch norm, thin enough for a test."""


WIDE = VGGSpec((16, 24, 128, 128, 128, 136, 40, 36), hidden=(48, 40))
"""A VGG-11 wide enough for every kernel of the engine to be chosen."""


def variants(spec: VGGSpec) -> dict[str, VGGSpec]:
    """The kinds of network to test, derived from one with batch norm and hidden linears."""
    return {
        "bn-hidden": spec,
        "bn-linear": replace(spec, hidden=()),
        "plain-hidden": replace(spec, batch_norm=False),
        "plain-linear": replace(spec, batch_norm=False, hidden=()),
        "bn-unfolded": replace(spec, pool=7),
    }


VARIANTS = variants(SMALL)

CONVS = {
    "vgg": {"kernel_size": 3, "padding": 1},
    "1x1": {"kernel_size": 1},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "oblong": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 2)},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "no padding": {"kernel_size": 4},
}
"""How convs read their input, as arguments of ``Conv2d``."""


def fresh(spec: VGGSpec = SMALL):
    """The untrained network of a spec, with the same weights on every call."""
    import torch

    from tp_vgg.network.vgg.model import build

    torch.manual_seed(0)
    return build(spec)


def lively(spec: VGGSpec = SMALL, seed: int = 0):
    """A network in eval mode whose batch norms, biases and linears all affect the logits.

    So an error in any term shows.
    """
    import torch

    from tp_vgg.network.vgg.model import build

    torch.manual_seed(seed)
    model = build(spec)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.ndim == 2:
                torch.nn.init.kaiming_normal_(value)
            elif value.ndim == 1 and value.is_floating_point():
                value.normal_(0.3, 0.5)
    model.meta = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "dataset": "digits",
        "classes": list("0123456789"),
    }
    return model.eval()


def weights(model):
    """All parameters and buffers of a network as one vector."""
    import torch

    return torch.cat([value.double().flatten() for value in model.state_dict().values()])
