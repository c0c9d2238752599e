"""Records of models: drops against a baseline, and refused records."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.networks import SMALL
from helpers.records import record

from tp_vgg.evaluation.hits import pack_hits
from tp_vgg.evaluation.record import ModelRecord


def test_a_drop_is_paired_by_image() -> None:
    """Models of equal accuracy may differ on every image: only a paired interval shows it."""
    dense = record([1] * 90 + [0] * 10)
    same, swapped = record([1] * 90 + [0] * 10), record([0] * 10 + [1] * 90)
    worse = record([1] * 80 + [0] * 20)
    drop, low, high = same.drop_against(dense)
    other = swapped.drop_against(dense)
    assert (drop, other[0]) == (0, 0)
    assert other[1] < low < 0 < high < other[2]
    drop, low, high = worse.drop_against(dense)
    assert drop == 10
    assert 0 < low < 10 < high


def test_a_record_comes_back_and_a_damaged_one_does_not() -> None:
    found = record([1, 0, 1])
    assert ModelRecord.from_dict(found.to_dict()) == found
    with pytest.raises(ValueError, match="differs from the accuracy"):
        ModelRecord.from_dict({**found.to_dict(), "hits": pack_hits(np.array([1, 1, 1]))})


@pytest.mark.parametrize(
    "change",
    [
        {"params": SMALL.params() - 1}, {"macs": 1}, {"nonzero": 0},
        {"nonzero": SMALL.params() + 1}, {"bytes": 0}, {"sparsity": {}},
        {"sparsity": {row.name: 1.5 for row in SMALL.rows}}, {"data": {}},
        {"environment": {"device": []}}, {"notes": "abc"}, {"more": 1},
        {"val": {"correct": 4, "n": 3, "accuracy": 400 / 3, "low": 1.0, "high": 400 / 3}},
        {"spec": {"widths": []}}, {"checkpoint": None},
        {"test": {"correct": 2, "n": 3, "accuracy": 99.0, "low": 1.0, "high": 100.0}},
        {"val": {"correct": 0, "n": 0, "accuracy": 0.0, "low": 0.0, "high": 0.0}},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_model_can_be_is_refused(change: dict) -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        ModelRecord.from_dict({**record([1, 0, 1]).to_dict(), **change})
