"""The tables that flow: what they say of themselves, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_vgg.records import Accuracy, ModelRecord, pack_hits, unpack_hits


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_hits_survive_a_text(hits: list[bool]) -> None:
    assert unpack_hits(pack_hits(np.array(hits)), len(hits)).tolist() == hits


@pytest.mark.parametrize("text", ["", "AAAA", "!!!!", "AA=="])
def test_hits_of_another_number_of_images_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  whichever of base64's or ours
        unpack_hits(text, 12)


def record(hits: list[int], **changed: object) -> ModelRecord:
    some = Accuracy.of(sum(hits), len(hits))
    known = {
        "checkpoint": "m.pth", "sha256": "00", "baseline": None, "key": "", "val": some, "test": some, "params": 1, "nonzero": 1,
        "macs": 1, "bytes": 1, "spec": {"widths": [], "hidden": []}, "sparsity": {}, "data": {}, "environment": {}, "peak_bytes": 1,
        "hits": pack_hits(np.array(hits)), "command": "",
    }  # fmt: skip
    return ModelRecord(**{**known, **changed})  # type: ignore[arg-type]


def test_a_drop_is_paired_by_image() -> None:
    """Two models may differ on every image and have the same accuracy: the interval knows, the two accuracies do not."""
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
    with pytest.raises(ValueError, match="another count"):
        ModelRecord.from_dict({**found.to_dict(), "hits": pack_hits(np.array([1, 1, 1]))})
