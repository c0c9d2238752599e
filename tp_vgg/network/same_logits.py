"""A module must give the logits of the network that tp_vgg makes of it.

If it does not, the first module that differs is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tp_vgg.errors import BadInput, printable
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.network import Network

SCALES = (1.0, 30.0, 1000.0)
"""Deviations of the noise images that are compared, one image each.

A bound such as ReLU6's only shows in large activations."""
TOLERANCE = 1e-5
"""Largest accepted difference of a logit, as a fraction of the image's largest logit.

Both networks compute in fp32 on the CPU, mostly to the same bits."""
_KNOWN = (nn.ReLU, nn.Identity, nn.Dropout, nn.Dropout2d)
_NEUTRAL = re.compile(r"(?:, )?\b(?:inplace|momentum|bias|affine)=[^,)]*")
"""Settings that change no logit in eval mode, or whose effect the tensors hold."""


def check_same_logits(module: nn.Module, network: Network) -> None:
    """Raise :class:`BadInput` unless ``module`` gives the logits of ``network`` on noise images.

    Both are on the CPU, in eval mode and fp32. The message names the first module that differs from
    that of ``network``.
    """
    side = network.spec.image_size
    images = torch.randn(len(SCALES), 3, side, side, generator=_seeded(), dtype=torch.float32)
    images *= torch.tensor(SCALES).view(-1, 1, 1, 1)
    with exact_fp32(), torch.no_grad():
        try:
            with _elementwise(module) as elementwise:
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
    for name, (part, size) in elementwise.items():
        if not _is_relu_or_nothing(part, size):
            raise BadInput(
                f"{name}: {_short(part)}; {network.spec.arch} has only ReLU, so it gives other "
                "logits on some images"
            )


def _same(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    finite = expected.isfinite()
    if not torch.equal(logits.isfinite(), finite):
        return False
    scale = expected.where(finite, 0).abs().amax(1, keepdim=True)
    return bool(((logits - expected).where(finite, 0).abs() <= TOLERANCE * scale).all())


@contextmanager
def _elementwise(module: nn.Module) -> Iterator[dict[str, tuple[nn.Module, torch.Size]]]:
    """Collect the layers without tensors that give what they take the shape of, as ReLU does.

    torch's own ReLU, Identity and Dropout are left out. The values are the layer and that shape.
    """
    found: dict[str, tuple[nn.Module, torch.Size]] = {}
    handles = []

    def observe(name: str, part: nn.Module) -> RemovableHandle:
        def hook(_: nn.Module, given: tuple[object, ...], result: object) -> None:
            if (
                len(given) == 1
                and isinstance(given[0], torch.Tensor)
                and isinstance(result, torch.Tensor)
                and given[0].shape == result.shape
            ):
                found[name] = part, result.shape

        return part.register_forward_hook(hook)

    for name, part in module.named_modules():
        has_tensors = next(chain(part.parameters(), part.buffers()), None) is not None
        has_children = next(part.children(), None) is not None
        if not has_tensors and not has_children and type(part) not in _KNOWN:
            handles.append(observe(name, part))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _is_relu_or_nothing(part: nn.Module, shape: torch.Size) -> bool:
    """Tell whether ``part`` computes ReLU, or leaves its input as it is, on values of all sizes."""
    sizes = torch.logspace(-20, 20, 401)
    values = torch.cat([sizes, -sizes])[torch.randperm(802, generator=_seeded())]
    count = shape[1:].numel()
    probe = values.repeat(-(-count // len(values)))[:count].view(1, *shape[1:])
    with suppress(Exception):  # the layer is the caller's; the logits were the same
        given = part.forward(probe.clone())
        return torch.equal(given, probe.relu()) or torch.equal(given, probe)
    return True


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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
