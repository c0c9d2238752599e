"""Functions for VGG networks only refuse other networks with a clear message."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers.networks import SMALL

from tp_vgg.errors import BadInput
from tp_vgg.network.families import as_vgg, build_network, spec_from_dict
from tp_vgg.network.network import Network
from tp_vgg.planning.problem import _chain


def test_a_spec_comes_back_of_its_family() -> None:
    assert spec_from_dict(SMALL.to_dict()) == SMALL


def test_each_row_says_who_feeds_it() -> None:
    spec = replace(SMALL, pool=7)
    before = None
    for row in spec.rows:
        assert (row.source, row.group) == (before, row.name)
        width = 3 if before is None else {r.name: r.out_width for r in spec.rows}[before]
        assert row.in_width == row.reads * width
        before = row.name
    assert [row.reads for row in spec.rows if row.reads > 1] == [49]


def test_another_network_is_refused() -> None:
    other = Network()
    other.spec = SimpleNamespace(arch="resnet18")  # type: ignore[assignment]
    with pytest.raises(BadInput, match=r"resnet18: this works for VGG networks only"):
        as_vgg(other)
    with pytest.raises(BadInput, match=r"resnet18: no network of this kind can be built"):
        build_network(other.spec)


@pytest.mark.parametrize("changed", [{"source": "features.0"}, {"coupled": "features.4"}])
def test_a_plan_is_of_a_chain_alone(changed: dict[str, str]) -> None:
    rows = list(SMALL.rows)
    rows[3] = replace(rows[3], **changed)
    with pytest.raises(BadInput, match=f"{rows[3].name} does not read the layer before it alone"):
        _chain(SimpleNamespace(arch="other", rows=tuple(rows)))  # type: ignore[arg-type]
