"""A module must give the logits of the network that tp_vgg makes of it.

If it does not, the first module that differs is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import nn

from tp_vgg.errors import BadInput, printable
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.network import Network

IMAGES = 2
"""Number of noise images that are compared."""
TOLERANCE = 1e-5
"""Largest accepted difference of a logit, as a fraction of the largest logit.

Both networks compute in fp32 on the CPU, mostly to the same bits."""
_NEUTRAL = re.compile(r"(?:, )?\b(?:inplace|momentum|bias|affine)=[^,)]*")
"""Settings that change no logit in eval mode, or whose effect the tensors hold."""


def check_same_logits(module: nn.Module, network: Network) -> None:
    """Raise :class:`BadInput` unless ``module`` gives the logits of ``network`` on noise images.

    Both are on the CPU, in eval mode and fp32. The message names the first module that differs from
    that of ``network``.
    """
    side = network.spec.image_size
    images = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))
    with exact_fp32(), torch.no_grad():
        try:
            logits = module(images.clone())
        except Exception as error:  # noqa: BLE001  the module is the caller's
            reason = printable(next(iter(str(error).splitlines()), type(error).__name__))[:100]
            raise BadInput(
                f"{first_difference(module, network)}; its forward pass fails on images of "
                f"{side}x{side} pixels ({reason})"
            ) from None
        expected = network(images)
    if not isinstance(logits, torch.Tensor) or logits.shape != expected.shape:
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BadInput(
            f"{first_difference(module, network)}; it gives {shape} instead of logits "
            f"{list(expected.shape)}"
        )
    if not _same(logits, expected):
        raise BadInput(f"{first_difference(module, network)}; so it gives other logits")


def _same(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    finite = expected.isfinite()
    if not torch.equal(logits.isfinite(), finite):
        return False
    scale = expected[finite].abs().max() if finite.any() else torch.tensor(0.0)
    return bool(((logits - expected)[finite].abs() <= TOLERANCE * scale).all())


def first_difference(module: nn.Module, network: Network) -> str:
    """Return a text that names the first module of ``module`` that ``network`` builds otherwise."""
    return next(_differences(module, network))


def _differences(module: nn.Module, network: Network) -> Iterator[str]:
    theirs = dict(module.named_modules(remove_duplicate=False))
    ours = dict(network.named_modules())
    for name, built in ours.items():
        if next(built.children(), None) is not None:
            continue
        if name not in theirs:
            yield f"{name}: missing; {network.spec.arch} has {_short(built)} there"
        elif not _alike(theirs[name], built):
            yield f"{name}: {_short(theirs[name])}; {network.spec.arch} has {_short(built)} there"
    for name, part in theirs.items():
        if name not in ours:
            yield f"{name}: {_short(part)}; {network.spec.arch} has no module there"
    for name, part in theirs.items():
        if part._forward_hooks or part._forward_pre_hooks:
            yield f"{name or 'model'}: has a forward hook"
    yield f"{type(module).__name__}.forward: differs from that of torchvision's VGG"


def _alike(part: nn.Module, built: nn.Module) -> bool:
    """Tell whether two modules of a network compute the same in eval mode, given equal tensors."""
    if isinstance(built, nn.Dropout):
        return isinstance(part, nn.modules.dropout._DropoutNd | nn.Identity)
    return type(part) is type(built) and _settings(part) == _settings(built)


def _settings(part: nn.Module) -> str:
    with suppress(Exception):  # a module may be half built
        return _NEUTRAL.sub("", part.extra_repr())
    return ""


def _short(part: nn.Module) -> str:
    """Return a module with its settings in one line, without its children."""
    text = f"{type(part).__name__}({_settings(part)})"
    return printable(text if len(text) <= 100 else f"{text[:97]}...")
