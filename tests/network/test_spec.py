from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tp_vgg.errors import BadInput
from tp_vgg.network.vgg.model import build, empty
from tp_vgg.network.vgg.spec import ARCHS, HEADS, STAGES, VGGSpec


def flops(spec: VGGSpec) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(spec).eval()(torch.empty(1, 3, spec.image_size, spec.image_size))
    return counter.get_total_flops()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("pool", [1, 7])
def test_presets_count_as_torch_counts(arch: str, head: str, pool: int) -> None:
    spec = VGGSpec.preset(arch, head, pool=pool)
    model = empty(spec)
    assert spec.params() == sum(p.numel() for p in model.parameters())
    assert 2 * spec.macs() == flops(spec)
    assert spec.arch == arch
    assert spec.head == head


def test_the_published_count() -> None:
    assert VGGSpec.preset("vgg11_bn", "linear").macs() == 152_769_536
    assert VGGSpec.preset("vgg11_bn", "torchvision").params() == 28_149_514
    assert VGGSpec.preset("vgg11_bn", "torchvision", pool=7).params() == 128_812_810


widths_of_some_depth = st.sampled_from(sorted(STAGES)).flatmap(
    lambda depth: st.lists(st.integers(1, 40), min_size=depth - 3, max_size=depth - 3)
)


@settings(max_examples=40, deadline=None)
@given(
    widths=widths_of_some_depth,
    batch_norm=st.booleans(),
    hidden=st.lists(st.integers(1, 40), max_size=3),
    pool=st.sampled_from([1, 7]),
    num_classes=st.integers(1, 20),
    image_size=st.sampled_from([32, 64, 224]),
)
def test_any_widths_count_as_torch_counts(
    widths, batch_norm, hidden, pool, num_classes, image_size
) -> None:
    spec = VGGSpec(tuple(widths), batch_norm, pool, tuple(hidden), num_classes, image_size)
    model = empty(spec)
    rows = {row.name: row for row in spec.rows}
    for name, row in rows.items():
        assert row.weights == model.get_submodule(name).weight.numel()
    assert (
        spec.params()
        == sum(p.numel() for p in model.parameters())
        == sum(row.params for row in rows.values())
    )
    assert 2 * spec.macs() == flops(spec) == 2 * sum(row.macs for row in rows.values())
    assert VGGSpec.from_dict(spec.to_dict()) == spec
    assert set(spec.prunable) == set(rows) - {spec.linear_names[-1]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"widths": (64, 128)}, "widths"),
        ({"widths": (0,) * 8}, "widths"),
        ({"widths": (True,) * 8}, "widths"),
        ({"widths": (10**12,) * 8}, "widths"),
        ({"widths": (float("nan"),) * 8}, "widths"),
        ({"widths": "64"}, "widths"),
        ({"hidden": (1,) * 100}, "hidden"),
        ({"hidden": (-1,)}, "hidden"),
        ({"pool": 3}, "pool"),
        ({"pool": True}, "pool"),
        ({"batch_norm": 1}, "batch_norm"),
        ({"num_classes": 0}, "num_classes"),
        ({"image_size": 31}, "image_size"),
    ],
)
def test_what_no_vgg_can_be_is_refused(change: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        replace(VGGSpec.preset(), **change)


def test_unknown_keys_and_names_are_refused() -> None:
    good = VGGSpec.preset().to_dict()
    for bad in ({**good, "extra": 1}, {k: v for k, v in good.items() if k != "pool"}, []):
        with pytest.raises(BadInput, match="exactly the keys"):
            VGGSpec.from_dict(bad)
    with pytest.raises(BadInput, match="resnet"):
        VGGSpec.preset("resnet18")
    with pytest.raises(BadInput, match="conv head"):
        VGGSpec.preset(head="conv head")
    with pytest.raises(BadInput, match="no prunable layer"):
        VGGSpec.preset().with_widths({"classifier.6": 3})


@pytest.mark.parametrize("make", [np.array, torch.tensor, iter, lambda w: (n for n in w)])
def test_numbers_of_any_iterable_become_plain_ones(make) -> None:
    widths = [4, 4, 8, 8, 8, 8, 8, 8]
    spec = VGGSpec(make(widths), np.True_, hidden=make([6]), num_classes=np.int64(3))
    assert spec == VGGSpec(tuple(widths), True, 1, (6,), 3)
    values = (*spec.widths, *spec.hidden, spec.num_classes)
    assert {type(value) for value in values} == {int} and type(spec.batch_norm) is bool


@pytest.mark.parametrize("widths", [{8: 1}, set(range(1, 9)), b"12345678", 8, None, count(1)])
def test_what_is_no_list_of_numbers_is_refused(widths) -> None:
    with pytest.raises(BadInput, match="spec: widths"):
        VGGSpec(widths)
