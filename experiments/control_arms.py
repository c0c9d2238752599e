"""These are the networks that controls.py compares: one budget of MACs, met in different ways."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch_pruning as tp

from tp_vgg.data.split import Split
from tp_vgg.network.network import realised_spec
from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.ranking import ranking_sample
from tp_vgg.pruning.structured import remove_channels


def pruned(dense: VGG, target: VGGSpec, seed: int, train: Split, importance: str = "l1") -> VGG:
    """Return a copy of the dense model with the widths of ``target``.

    The channels of least ``importance`` are removed; ``seed`` is that of the importance random, and
    of the images of ``train`` at which obs looks.
    """
    model = copy.deepcopy(dense)
    sample = ranking_sample("--limit-train", model, importance, train, seed)
    model.kept = remove_channels(model, target, importance, seed, sample)
    return model


def stock(dense: VGG, target: VGGSpec, _seed: int, _train: Split) -> VGG:
    """Return the widest network of the stock pruner that has at most the MACs of ``target``.

    All convs have the same ratio, a multiple of 0.001.
    """
    for thousandth in range(1, 1000):
        ratio = thousandth / 1000
        widths = {
            name: int(width * (1 - ratio))
            for name, width in zip(dense.spec.conv_names, dense.spec.widths, strict=True)
        }
        if dense.spec.with_widths(widths).macs() <= target.macs():
            break
    model = copy.deepcopy(dense).cpu()
    size = model.spec.image_size
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(1, 3, size, size),
        tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=ratio,
        ignored_layers=[model.get_submodule(name) for name in model.spec.linear_names],
    )
    kept: dict[str, list[int]] = {}
    names = {module: name for name, module in model.named_modules()}
    for group in pruner.step(interactive=True):
        removed = set(group[0].idxs)
        name = names[group[0].dep.target.module]
        kept[name] = [i for i in range(dense.spec.prunable[name]) if i not in removed]
        group.prune()
    model.spec, model.kept = realised_spec(model), kept
    assert model.spec.macs() <= target.macs()
    return model


def scratch(dense: VGG, target: VGGSpec, seed: int, _train: Split) -> VGG:
    """Return a network with the widths of ``target`` and fresh weights, drawn from ``seed``."""
    torch.manual_seed(seed)
    model = build(target)
    model.meta = dict(dense.meta)
    return model


MAKERS: dict[str, Callable[[VGG, VGGSpec, int, Split], VGG]] = {
    "dense": lambda dense, *_: copy.deepcopy(dense),
    "stock": stock,
    "stock-plain": stock,
    "uniform": pruned,
    "random": partial(pruned, importance="random"),
    "obs": partial(pruned, importance="obs"),
    "ours": pruned,
    "scratch": scratch,
}
"""The function of each arm that makes its network.

Arguments: the dense model, the spec with the widths of the plan or of the uniform plan, a seed, and
the training images.
"""
ARMS = tuple(MAKERS)
"""Names of the arms that `--arms` takes."""
