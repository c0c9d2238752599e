"""The numbers in the names of layers tell their order, and where a VGG's maps are pooled.

This module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from tp_vgg.network.other_networks import not_a_vgg
from tp_vgg.network.vgg.spec import STAGES

if TYPE_CHECKING:
    import torch


def numbers(name: str) -> tuple[int, ...]:
    """Return the numbers in a layer's name; layers of one kind are sorted by them."""
    return tuple(int(number[-9:]) for number in re.findall(r"\d+", name))


def template(name: str) -> str:
    """Return ``name`` with ``#`` in place of each number."""
    return re.sub(r"\d+", "#", name)


def pooling_note(
    state: Mapping[str, torch.Tensor], convs: Sequence[str], norms: Sequence[str], depth: int
) -> str | None:
    """Return a note if the names show where the maps are pooled, but not all that lies between.

    ``convs`` and ``norms`` are names in order. Returns None if the indices are torchvision's.
    Raises :class:`BadInput` if the convs may be pooled elsewhere than in VGG-``depth``.
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
        return _grouped(state, convs, norms, pairs, depth, least)
    gaps = [b[varying[0]] - a[varying[0]] for a, b in pairwise(places)] if varying else []
    ends, total = set(), 0
    for length in stages[:-1]:
        total += length
        ends.add(total - 1)
    inside = {gap for i, gap in enumerate(gaps) if i not in ends}
    behind = {gap for i, gap in enumerate(gaps) if i in ends}
    if len(varying) != 1 or inside != {least} or len(behind) != 1 or min(behind) <= least:
        raise _unclear(state, convs, depth)
    as_torchvision = is_index and is_last and behind == {least + 1}
    return None if as_torchvision and norm_inside == bool(norms) else _assumed(depth, norms)


def _pure(name: str) -> list[bool]:
    """Tell for each number in ``name`` whether it is an index, and not the end of a word."""
    return [part.isdecimal() for part in name.split(".") for _ in re.findall(r"\d+", part)]


def _grouped(
    state: Mapping[str, torch.Tensor],
    convs: Sequence[str],
    norms: Sequence[str],
    places: Sequence[tuple[int, int]],
    depth: int,
    least: int,
) -> str:
    """Return the note on convs that are grouped by stage, as ``block1.0`` or ``conv1_1`` are."""
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
    return _assumed(depth, norms)


def _unclear(state: Mapping[str, torch.Tensor], convs: Sequence[str], depth: int) -> Exception:
    return not_a_vgg(
        state, f"names that do not show a VGG-{depth}'s pools behind its stages; rename", convs
    )


def _assumed(depth: int, norms: Sequence[str]) -> str:
    convs, total = [], 0
    for length in STAGES[depth]:
        total += length
        convs.append(str(total))
    behind = "batch norm and then ReLU" if norms else "ReLU"
    return (
        f"layout: VGG-{depth}'s is assumed ({behind} behind each conv, a 2x2 max-pool behind convs "
        f"{', '.join(convs)}; what else lies there is taken as dropout)"
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
