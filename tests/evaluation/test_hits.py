"""Hits are written as text, with one bit per image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_vgg.evaluation.hits import pack_hits, unpack_hits


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_hits_survive_a_text(hits: list[bool]) -> None:
    assert unpack_hits(pack_hits(np.array(hits)), len(hits)).tolist() == hits


@pytest.mark.parametrize("text", ["", "AAAA", "!!!!", "AA=="])
def test_hits_of_another_number_of_images_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  whichever of base64's or ours
        unpack_hits(text, 12)
