"""The numbers in the names of layers tell their order, and where a VGG's maps are pooled.

This module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from tp_vgg.errors import BadInput
from tp_vgg.network.other_networks import not_a_vgg, some_names
from tp_vgg.network.vgg.spec import STAGES, VGGSpec

if TYPE_CHECKING:
    import torch


def numbers(name: str) -> tuple[int, ...]:
    """Return the numbers in a layer's name; layers of one kind are sorted by them."""
    return tuple(int(number[-9:]) for number in re.findall(r"\d+", name))


def template(name: str) -> str:
    """Return ``name`` with ``#`` in place of each number."""
    return re.sub(r"\d+", "#", name)


def check_pooling(
    state: Mapping[str, torch.Tensor], convs: Sequence[str], norms: Sequence[str], depth: int
) -> None:
    """Raise :class:`BadInput` if the convs may be pooled elsewhere than in VGG-``depth``.

    ``convs`` and ``norms`` are names in order.
    """
    stages = STAGES[depth]
    if len({template(name) for name in convs}) > 1:
        raise not_a_vgg(state, "convs named in different ways; rename them", convs)
    places = [numbers(name) for name in convs]
    varying = [i for i, column in enumerate(zip(*places, strict=True)) if len(set(column)) > 1]
    # In a Sequential, ReLU and batch norm have an index too. A greater step would leave room for a
    # layer without tensors that changes the logits, such as InstanceNorm.
    is_index = all(re.search(r"(^|\.)\d+$", name) for name in convs)
    is_last = bool(varying) and varying[-1] == len(places[0]) - 1
    # A first index above 0 means a layer without tensors in front, such as a pool.
    if any(number for number, pure in zip(places[0], _pure(convs[0]), strict=True) if pure):
        raise _unclear(state, convs, depth)
    norm_inside = bool(norms) and template(norms[0]) == template(convs[0])
    least = (3 if norm_inside else 2) if is_index and is_last else 1
    if len(varying) == 2:
        pairs = [(place[varying[0]], place[varying[1]]) for place in places]
        _check_grouped(state, convs, pairs, depth, least)
        return
    gaps = [b[varying[0]] - a[varying[0]] for a, b in pairwise(places)] if varying else []
    ends, total = set(), 0
    for length in stages[:-1]:
        total += length
        ends.add(total - 1)
    inside = {gap for i, gap in enumerate(gaps) if i not in ends}
    behind = {gap for i, gap in enumerate(gaps) if i in ends}
    if len(varying) != 1 or inside != {least} or len(behind) != 1 or min(behind) <= least:
        raise _unclear(state, convs, depth)


def _pure(name: str) -> list[bool]:
    """Tell for each number in ``name`` whether it is an index, and not the end of a word."""
    return [part.isdecimal() for part in name.split(".") for _ in re.findall(r"\d+", part)]


def _check_grouped(
    state: Mapping[str, torch.Tensor],
    convs: Sequence[str],
    places: Sequence[tuple[int, int]],
    depth: int,
    least: int,
) -> None:
    """Check convs that are grouped by stage, as ``block1.0`` or ``conv1_1`` are."""
    groups = [[inner for _, inner in group] for _, group in groupby(places, key=lambda p: p[0])]
    gaps = {b - a for group in groups for a, b in pairwise(group)}
    steps = {b - a for a, b in pairwise(dict(places))}
    if (
        tuple(map(len, groups)) != STAGES[depth]
        or gaps != {least}
        or len({group[0] for group in groups}) > 1
        or steps not in ({1}, {2})
    ):
        raise _unclear(state, convs, depth)


def _unclear(state: Mapping[str, torch.Tensor], convs: Sequence[str], depth: int) -> Exception:
    return not_a_vgg(
        state, f"names that do not show a VGG-{depth}'s pools behind its stages; rename", convs
    )


def assumed(spec: VGGSpec) -> str:
    """Return the note on what lies between the layers of ``spec``, which no state dict says."""
    convs, total = [], 0
    for length in spec.stages:
        total += length
        convs.append(str(total))
    behind = "batch norm (eps 1e-5) and ReLU" if spec.batch_norm else "ReLU"
    linears = ", linears with ReLU between them" if spec.hidden else ""
    return (
        f"layout: VGG-{spec.depth}'s is assumed: {behind} behind each conv, a 2x2 max-pool behind "
        f"convs {', '.join(convs)}, also behind the last one (an average pool in its place gives "
        f"other logits){linears}; what else lies there is taken as dropout"
    )


def refuse_network_slimming(convs: Mapping[str, Collection[str]], linears: int) -> None:
    """Raise :class:`BadInput` for the VGG of network slimming, which has another last pool.

    ``convs``: the names of the tensors of each conv. Its names and shapes are those of a VGG that
    ends in a max-pool.
    Source: github.com/Eric-mingjie/network-slimming, models/vgg.py.
    """
    if linears == 1 and all(
        re.search(r"(^|\.)feature\.\d+$", name) and "bias" not in tensors
        for name, tensors in convs.items()
    ):
        raise BadInput(
            f"state_dict: {some_names(list(convs)[:1])}: convs without bias under 'feature' and "
            "one linear are network slimming's VGG, with an average pool behind the last conv, "
            "which tp_vgg's VGGs lack; if yours has a 2x2 max-pool there, rename 'feature.' to "
            "'features.'"
        )


def order_linears(
    sizes: Mapping[str, tuple[int, int]], starts: Sequence[int], *, in_order: bool
) -> list[str] | None:
    """Return the names of linears in the order in which each reads the one before.

    ``sizes`` are (input columns, outputs) by name, ``starts`` the columns that the first may have.
    ``in_order``: the order of ``sizes`` counts. Returns None if there is no such order, more than
    one that may be it, or no place for the ReLU between two.
    """
    names = list(sizes)
    if len({template(name) for name in names}) == 1:
        names.sort(key=numbers)
        indexed = all(re.search(r"(^|\.)\d+$", name) for name in names)
        if indexed and any(numbers(b)[-1] - numbers(a)[-1] == 1 for a, b in pairwise(names)):
            return None
        return names if _chains(names, sizes, starts) else None
    if in_order and _chains(names, sizes, starts):
        return names
    orders = _orders(sizes, starts)
    return orders[0] if len(orders) == 1 else None


def _chains(
    names: Sequence[str], sizes: Mapping[str, tuple[int, int]], starts: Sequence[int]
) -> bool:
    return sizes[names[0]][0] in starts and all(
        sizes[a][1] == sizes[b][0] for a, b in pairwise(names)
    )


def _orders(sizes: Mapping[str, tuple[int, int]], starts: Sequence[int]) -> list[list[str]]:
    """Return up to two orders in which the linears read each other."""
    orders: list[list[str]] = []

    def extend(order: list[str], columns: Sequence[int]) -> None:
        if len(orders) == 2:
            return
        if len(order) == len(sizes):
            orders.append(order)
        for name, (reads, outputs) in sizes.items():
            if name not in order and reads in columns:
                extend([*order, name], (outputs,))

    if len(sizes) <= 9:
        extend([], starts)
    return orders
