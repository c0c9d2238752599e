"""These functions fold batch norm into convs, and repeated columns of the head into one.

Both leave the logits in eval mode as they are, up to rounding.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tp_vgg.network.vgg.model import VGG, empty
from tp_vgg.network.vgg.spec import VGGSpec


def can_fold_head(spec: VGGSpec) -> bool:
    """Return True if the head's 7×7 adaptive pool only repeats a 1×1 map."""
    return spec.pool == 7 and spec.image_size // 32 == 1


def fold_head_columns(weight: torch.Tensor) -> torch.Tensor:
    """Sum the 49 columns of each channel of a linear weight: ``[out, C·49]`` becomes ``[out, C]``.

    Sums are taken in float64 and returned in the input's dtype. If the 7×7 adaptive pool repeats a
    1×1 map 49 times, the layer's output stays the same, up to the order of floating-point sums.
    """
    out, columns = weight.shape
    return weight.view(out, columns // 49, 49).sum(-1, dtype=torch.float64).to(weight.dtype)


def fold_batch_norm(model: VGG) -> VGG:
    """Return a copy with batch norm folded into the convs; its logits in eval mode are the same.

    The copy is a plain VGG (``spec.batch_norm`` is false, modules have torchvision's plain names),
    and ``kept`` and ``meta["dense_widths"]`` name its layers. Logits are equal up to rounding.
    Source: Jacob et al. 2018, section 3.2, by ``torch.nn.utils.fusion``.
    """
    plain = replace(model.spec, batch_norm=False)
    if not model.spec.batch_norm:
        return _rebuilt(model, plain, model.state_dict())
    state = {
        name: value for name, value in model.state_dict().items() if name.startswith("classifier")
    }
    for old, norm, new in zip(
        model.spec.conv_names, model.spec.norm_names, plain.conv_names, strict=True
    ):
        conv, bn = model.get_submodule(old), model.get_submodule(norm)
        assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
        assert bn.running_mean is not None and bn.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        state[f"{new}.weight"], state[f"{new}.bias"] = weight, bias
    folded = _rebuilt(model, plain, state)
    renamed = dict(zip(model.spec.conv_names, plain.conv_names, strict=True))
    folded.kept = {renamed.get(name, name): indices for name, indices in model.kept.items()}
    if "dense_widths" in model.meta:
        folded.meta["dense_widths"] = {
            renamed.get(name, name): width for name, width in model.meta["dense_widths"].items()
        }
    return folded


def _rebuilt(model: VGG, spec: VGGSpec, state: dict[str, torch.Tensor]) -> VGG:
    """Build a network of ``spec`` with copies of ``state``, and ``model``'s mode, meta and kept."""
    new = empty(spec)
    new.load_state_dict(
        {name: value.detach().clone() for name, value in state.items()}, assign=True
    )
    for parameter in new.parameters():
        parameter.requires_grad_(True)
    new.meta, new.kept = copy.deepcopy(model.meta), copy.deepcopy(model.kept)
    return new.train(model.training)
