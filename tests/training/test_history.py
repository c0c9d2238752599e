from __future__ import annotations

import pytest

from tp_vgg.training.history import Epoch, history_csv, read_history


def test_a_history_comes_back_from_its_file() -> None:
    epochs = (Epoch(1, 0.1, 2.25, 10.0, 12.5, 3.125), Epoch(2, 0.0, 1e-9, 99.5, 100 / 3, 0.001))
    assert read_history(history_csv(epochs)) == epochs
    for text in (
        "",
        "a,b\n1,2\n",
        history_csv(epochs).replace("2.25", "x"),
        history_csv(epochs) + "3\n",
    ):
        with pytest.raises(ValueError):  # noqa: PT011  whatever is wrong with it
            read_history(text)
