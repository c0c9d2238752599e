from __future__ import annotations

from pathlib import Path

import numpy as np

from tp_vgg.plots import GONE, masked_weights, removed_filters, save_png


def heights(axis) -> np.ndarray:
    return np.array([bar.get_height() for bar in axis.patches])


def test_masked_weights_stand_in_the_middle_bin(tmp_path: Path) -> None:
    before = np.random.default_rng(0).normal(size=(16, 9))
    after = np.where(np.abs(before) < 0.5, 0, before)
    figure = masked_weights(before, after, "features.0")
    left, right = figure.axes
    assert heights(left).sum() == heights(right).sum() == before.size
    middle = len(right.patches) // 2
    assert heights(right)[middle] == (after == 0).sum()
    assert f"{(after == 0).mean():.1%}" in right.get_title()
    save_png(figure, tmp_path / "deep" / "a.png")
    assert (tmp_path / "deep" / "a.png").read_bytes().startswith(b"\x89PNG")


def test_removed_filters_are_marked() -> None:
    weights = np.random.default_rng(0).normal(size=(8, 3, 3, 3))
    score = np.abs(weights).sum((1, 2, 3))
    kept = sorted(np.argsort(score)[3:].tolist())
    figure = removed_filters(weights, kept, score, "features.0", "l1")
    histogram, bars = figure.axes
    assert heights(histogram).sum() == weights.size + weights[kept].size
    marked = [bar for bar in bars.patches if bar.get_hatch()]
    assert sorted(bar.get_height() for bar in marked) == sorted(score)[:3]
    assert all(np.allclose(bar.get_facecolor()[:3], [0xD5 / 255, 0x5E / 255, 0]) for bar in marked), GONE
    assert "3 of 8" in figure.get_suptitle()


def test_a_layer_of_zeros_can_be_drawn(tmp_path: Path) -> None:
    save_png(masked_weights(np.zeros((2, 2)), np.zeros((2, 2)), "x"), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
