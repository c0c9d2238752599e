from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.networks import SMALL

from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.latency.profile import Staircase, Timed
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.report.chart_style import GONE, luminance
from tp_vgg.report.figures import masked_weights, removed_filters, save_png, staircase
from tp_vgg.report.model_figures import latency
from tp_vgg.report.sweep_figures import sensitivity, sensitivity_cost
from tp_vgg.sensitivity.table import Point, Sensitivity


def heights(axis) -> np.ndarray:
    return np.concatenate([outline.get_data().values for outline in axis.patches])


def test_masked_weights_stand_in_the_middle_bin(tmp_path: Path) -> None:
    before = np.random.default_rng(0).normal(size=(16, 9))
    after = np.where(np.abs(before) < 0.5, 0, before)
    figure = masked_weights(before, after, "features.0")
    left, right = figure.axes
    assert heights(left).sum() == heights(right).sum() == before.size
    middle = len(heights(right)) // 2
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
    (marked,) = [outline for outline in bars.patches if outline.get_hatch()]
    assert marked.get_data().values.tolist() == [*sorted(score)[:3], *[0] * 5]
    assert np.allclose(marked.get_facecolor()[:3], [0xD5 / 255, 0x5E / 255, 0]), GONE
    assert "3 of 8" in figure.get_suptitle()


def test_a_layer_of_zeros_can_be_drawn(tmp_path: Path) -> None:
    save_png(masked_weights(np.zeros((2, 2)), np.zeros((2, 2)), "x"), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def table(kind: str) -> Sensitivity:
    """A sweep with made-up hits; each deeper layer loses more."""
    dense = np.ones(200, bool)
    points = []
    for depth, layer in enumerate(SMALL.conv_names):
        for ratio in (0.25, 0.5, 0.75):
            hits = dense.copy()
            hits[: int(ratio * 20 * (depth + 1))] = False
            points.append(Point.of(layer, ratio, int(ratio * SMALL.prunable[layer]), hits, dense))
    return Sensitivity(
        "key", kind, "l1", "fp32", SMALL.to_dict(), Accuracy.of(200, 200), tuple(points)
    )


def test_unstructured_sensitivity_has_a_line_a_layer_and_its_band(tmp_path: Path) -> None:
    made = table("unstructured")
    (axis,) = (figure := sensitivity(made)).axes
    lines = {line.get_label(): line for line in axis.lines}
    assert set(lines) == {*SMALL.conv_names, "dense"}
    for layer in SMALL.conv_names:
        points = made.of_layer(layer)
        assert lines[layer].get_xydata().tolist() == [[p.ratio, p.accuracy] for p in points]
    assert lines["dense"].get_linestyle() == "--"
    assert len(axis.collections) == len(SMALL.conv_names)
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines.values()}
    assert len({look[1:] for look in looks}) == len(lines), "told apart without colour"
    save_png(figure, tmp_path / "a.png")


def test_structured_sensitivity_is_a_heatmap_with_its_numbers(tmp_path: Path) -> None:
    made = table("structured")
    axis = (figure := sensitivity(made)).axes[0]
    assert [text.get_text() for text in axis.texts] == [
        f"{point.drop:.1f}" for point in made.points
    ]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(SMALL.conv_names)
    shade = axis.images[0].cmap
    assert (np.diff([luminance(shade(value)) for value in np.linspace(0, 1, 50)]) < 0).all(), (
        "greyscale keeps the order"
    )
    for text, point in zip(axis.texts, made.points, strict=True):
        cell = luminance(shade(axis.images[0].norm(point.drop)))
        contrast = 1.05 / (cell + 0.05) if text.get_color() == "white" else (cell + 0.05) / 0.05
        assert contrast >= 4.5, "WCAG AA"
    save_png(figure, tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_the_cost_figure_is_against_what_leaves_the_network(kind: str) -> None:
    made = table(kind)
    axes = sensitivity_cost(made).axes
    for place, unit in enumerate(("MACs", "params")):
        assert unit in axes[place].get_xlabel()
        lines = {line.get_label(): line for line in axes[place].lines}
        for layer in SMALL.conv_names:
            expected = [
                [100 * made.cost_removed(p)[place], p.accuracy] for p in made.of_layer(layer)
            ]
            assert lines[layer].get_xydata().tolist() == expected


def latency_row(model: str, mode: str, batch: int, speedup: float, ratio: float) -> LatencyRow:
    return LatencyRow(
        model, mode, "fp32", batch, "faster", (), 1.0, 0.1, speedup, speedup - 0.1, speedup + 0.2,
        mac_ratio=ratio,  # type: ignore[arg-type]
    )  # fmt: skip


def test_latency_stands_against_the_ideal_line() -> None:
    rows = tuple(
        latency_row(f"m{r}", mode, batch, 0.8 * r, r)
        for batch in (1, 64)
        for mode in ("eager", "folded")
        for r in (1.0, 2.0)
    )
    missing = LatencyRow("m2", "graph", "fp32", 64, "not available", ("why",))
    figure = latency(Latency("m1.0", {}, {}, {}, (*rows, missing)))
    assert [axis.get_title() for axis in figure.axes] == ["batch 1, fp32", "batch 64, fp32"]
    for axis in figure.axes:
        assert [text.get_text() for text in axis.get_legend().get_texts()] == [
            "ideal",
            "eager",
            "folded",
        ]
        ideal = axis.get_lines()[0]
        assert list(ideal.get_xdata()) == list(ideal.get_ydata()) == [1, 2]
        points = axis.containers[0]
        assert list(points[0].get_xdata()) == [1, 2] and list(points[0].get_ydata()) == [0.8, 1.6]
        (bars,) = points[2]
        assert np.allclose(
            [segment[:, 1] for segment in bars.get_segments()], [[0.7, 1.0], [1.5, 1.8]]
        )


def test_latency_of_nothing_is_still_a_figure() -> None:
    missing = LatencyRow("m", "graph", "fp32", 64, "not available", ("why",))
    assert len(latency(Latency("m", {}, {}, {}, (missing,))).axes) == 1


def test_a_staircase_has_a_panel_a_conv_and_a_line_a_table() -> None:
    points = tuple(
        Timed(layer, i, o, 1.0 * i * o, 0.1)
        for layer in ("features.0", "features.4", "features.8")
        for i in (4, 8)
        for o in (16, 8)
    )
    tables = [Staircase("k", {}, dtype, 64, {}, points) for dtype in ("fp32", "bf16")]
    figure = staircase(tables)
    assert [axis.get_title() for axis in figure.axes] == ["features.0", "features.4", "features.8"]
    line = figure.axes[1].get_lines()[0]
    # The times at full input width, by rising output width.
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([8, 16], [64, 128])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "fp32, batch 64",
        "bf16, batch 64",
    ]
