from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers import pages
from helpers.networks import SMALL
from matplotlib.text import Text

from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.repaired import LayerRepair, RepairResult
from tp_vgg.latency.profile import Staircase, Timed
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.report.chart_style import GONE, LINES, line_style, luminance, name_points, panels
from tp_vgg.report.figures import masked_weights, removed_filters, save_png, staircase
from tp_vgg.report.model_figures import accuracy_against_cost, latency
from tp_vgg.report.repair_figure import repair_by_layer
from tp_vgg.report.sweep_figures import drops_by_layer, sensitivity, sensitivity_cost
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


def in_lab(colour: str, eyes: np.ndarray) -> np.ndarray:
    """CIELAB coordinates of an sRGB colour as ``eyes`` see it (a matrix on linear RGB)."""
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    )
    ratios = to_xyz @ np.clip(eyes @ linear, 0, 1) / (0.9505, 1, 1.0888)
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]
]  # fmt: skip
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]  # fmt: skip


@pytest.mark.parametrize(
    ("eyes", "least"), [(np.eye(3), 20), (DEUTERANOPIA, 9), (PROTANOPIA, 9)]
)  # fmt: skip
def test_no_two_of_eighteen_lines_look_alike(eyes: list[list[float]], least: float) -> None:
    """As many as VGG-19 has layers to prune. Simulations: Machado et al. 2009."""
    colours = [in_lab(line_style(i)["color"], np.array(eyes)) for i in range(18)]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]
    assert min(distances) > least
    looks = {(line_style(i)["marker"], line_style(i)["linestyle"]) for i in range(32)}
    assert len(looks) == 32, "told apart without colour"
    for colour in LINES:
        seen = luminance([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert 1.05 / (seen + 0.05) > 2, "visible on white"


@pytest.mark.parametrize("draw", [sensitivity, sensitivity_cost])
def test_a_figure_of_many_layers_gives_each_line_its_own_colour(draw) -> None:
    spec = VGGSpec.preset("vgg19_bn")
    made = pages.sweep(spec, "unstructured", tuple(spec.prunable))
    for axis in draw(made).axes:
        lines = [line for line in axis.lines if line.get_label() in spec.prunable]
        assert len(lines) == len({line.get_color() for line in lines}) == 18


def test_the_heatmaps_colours_end_at_ten_points() -> None:
    figure = sensitivity(table("structured"))
    image = figure.axes[0].images[0]
    assert (image.norm.vmin, image.norm.vmax) == (0, 10)
    assert figure.axes[1].get_yticklabels()[-1].get_text() == "≥ 10"


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_each_layer_has_a_panel_with_its_points_its_band_and_the_threshold(kind: str) -> None:
    made = table(kind)
    figure = drops_by_layer(made)
    for axis, layer in zip(figure.axes, made.layers, strict=False):
        points = made.of_layer(layer)
        assert axis.get_title() == f"{layer}: above 1 from 0.25"
        assert axis.get_ylim() == (-1, 10)
        curve, threshold, above, below = axis.lines
        assert curve.get_xydata().tolist() == [[p.ratio, p.drop] for p in points]
        assert set(threshold.get_ydata()) == {1}
        assert above.get_xdata().tolist() == [p.ratio for p in points if p.drop > 10]
        assert below.get_xdata().tolist() == []
        (band,) = axis.collections
        ends = band.get_paths()[0].vertices[:, 1]
        assert {*ends} == {end for p in points for end in (p.drop_low, p.drop_high)}


def test_a_panels_title_stops_at_the_first_point_above_the_threshold() -> None:
    dense = np.ones(200, bool)
    points = [
        Point.of("features.0", ratio, 1, np.arange(200) >= lost, dense)
        for ratio, lost in ((0.5, 10), (0.1, 0), (0.2, 2), (0.7, 1))
    ]
    made = Sensitivity(
        "key", "structured", "l1", "fp32", SMALL.to_dict(), Accuracy.of(200, 200), tuple(points)
    )
    assert drops_by_layer(made).axes[0].get_title() == "features.0: ≤ 1 to 0.2"


def overlapping(axis) -> list[tuple[str, str]]:
    axis.figure.draw_without_rendering()
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in axis.texts]
    return [
        (one, two)
        for (one, first), (two, second) in itertools.combinations(boxes, 2)
        if first.overlaps(second)
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 12, 20])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
def test_names_beside_points_do_not_overlap(count: int, spread: float) -> None:
    xs, ys = np.random.default_rng(count).uniform(size=(2, count))
    points = [(x, spread * y, f"model_{i}") for i, (x, y) in enumerate(zip(xs, ys, strict=True))]
    _, (axis,) = panels(1, "")
    axis.plot(xs, spread * ys, "o")
    name_points(axis, points)
    assert {text.get_text() for text in axis.texts} == {name for *_, name in points}
    assert overlapping(axis) == []
    frame = axis.get_window_extent()
    for text in axis.texts:
        box = Text.get_window_extent(text)
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1


def test_points_in_one_place_share_a_line_and_odd_names_stay_text() -> None:
    figure, (axis,) = panels(1, "")
    name_points(axis, [(0.5, 0.5, "a"), (0.5, 0.5, "b$_{$"), (0.1, 0.1, "x" * 90)])
    assert {text.get_text() for text in axis.texts} == {"a, b$_{$", "x" * 43 + "…"}
    figure.draw_without_rendering()


def test_each_model_stands_at_its_cost_with_its_interval_and_its_name() -> None:
    small = SMALL.with_widths({"features.4": 6})
    records = {
        "baseline": pages.record(SMALL, 190),
        "unstructured": pages.record(SMALL, 180, nonzero=SMALL.params() // 10),
        "structured_pruned": pages.record(small, pages.N // 10),
    }
    axes = accuracy_against_cost(records).axes
    costs = (
        [1, 1, small.macs() / SMALL.macs()],
        [1, (SMALL.params() // 10) / SMALL.params(), small.params() / SMALL.params()],
    )
    for axis, expected in zip(axes, costs, strict=True):
        for bars, cost, record in zip(axis.containers, expected, records.values(), strict=True):
            assert bars[0].get_xydata().tolist() == [[cost, record.test.accuracy]]
            (segment,) = bars[2][0].get_segments()
            assert np.allclose(segment[:, 1], (record.test.low, record.test.high))
        assert {text.get_text() for text in axis.texts} == set(records)
        assert overlapping(axis) == []
        assert [line.get_label() for line in axis.lines[:2]] == ["dense", "chance: 10 %"]
    del records["structured_pruned"]
    lines = accuracy_against_cost(records).axes[0].lines
    assert not [line for line in lines if str(line.get_label()).startswith("chance")]


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


def repair_result(layers: dict[str, tuple[float, float, str]], held_out: int = 10) -> RepairResult:
    errors = {name: LayerRepair(*values) for name, values in layers.items()}
    return RepairResult(errors, 90, held_out)


def points_of(axis, layers: str | list[str]) -> dict[tuple[str, str], float]:
    """The error of each point, by the layer of its row and its marker."""
    return {
        (
            layers[round(y)],
            "ring" if line.get_markerfacecolor() == "white" else line.get_marker(),
        ): x
        for line in axis.lines
        if line.get_marker() != "None"
        for x, y in line.get_xydata()
    }


def test_each_layer_goes_from_its_ring_to_its_dot_in_the_networks_order(tmp_path: Path) -> None:
    refitted = {name: (0.5 + i, 0.1 + 0.1 * i, "refitted") for i, name in enumerate("cab")}
    results = {
        "unstructured": repair_result(refitted),
        "structured": repair_result(
            {"c": (0.0, 0.0, "unchanged"), "a": (0.4, 0.4, "kept"), "b": (2.0, 0.5, "refitted")}, 20
        ),
    }
    figure = repair_by_layer(results)
    left, right = figure.axes
    assert [axis.get_title() for axis in figure.axes] == [
        "unstructured, n = 10",
        "structured, n = 20",
    ]
    assert [label.get_text() for label in left.get_yticklabels()] == ["c", "a", "b"]
    assert left.get_ylim()[0] > left.get_ylim()[1], "the first layer is at the top"
    assert points_of(left, "cab") == {
        (name, mark): error
        for name, (before, after, _) in refitted.items()
        for mark, error in (("ring", before), ("o", after))
    }
    assert points_of(right, "cab") == {("a", "D"): 0.4, ("b", "ring"): 2.0, ("b", "o"): 0.5}
    notes = [text.get_text() for text in right.texts]
    assert notes == ["unchanged", "kept at 0.40", "2.0 → 0.50"]
    assert [text.get_position()[1] for text in right.texts] == [0, 1, 2]
    save_png(figure, tmp_path / "a.png")


def legend(figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def test_the_repairs_legend_names_what_is_there() -> None:
    plain = {"a": (0.5, 0.2, "refitted")}
    known = ["as removed", "repaired", "no better than a constant"]
    assert legend(repair_by_layer({"m": repair_result(plain)})) == known
    kept = repair_result({**plain, "b": (0.5, 0.5, "kept")})
    figure = repair_by_layer({"m": repair_result(plain), "n": kept})
    assert legend(figure) == [*known[:2], "kept as removed", known[2]]


@pytest.mark.parametrize(
    "layers",
    [
        {"a": (0.0, 0.0, "unchanged")}, {"a": (0.0, 0.0, "kept")}, {"a": (0.5, 0.0, "refitted")},
        {"a": (1e15, 1e-300, "refitted"), "b": (0.5, 0.2, "refitted")},
        {f"features.{i}": (0.5, 0.2, "refitted") for i in range(40)}, {"$_{": (1, 0.5, "refitted")},
    ],
    ids=["unchanged", "no error", "all gone", "far apart", "many", "no formula"],
)  # fmt: skip
def test_any_repair_can_be_drawn_within_its_panel(layers: dict, tmp_path: Path) -> None:
    """No row, note or legend lies on another or outside the figure."""
    figure = repair_by_layer({"$_{": repair_result(layers)})
    save_png(figure, tmp_path / "a.png")
    (axis,) = figure.axes
    assert overlapping(axis) == []
    low, high = axis.get_xlim()
    assert all(low <= error <= high for error in points_of(axis, list(layers)).values())
    box = figure.bbox
    boxes = [Text.get_window_extent(text) for text in axis.texts]
    boxes += [figure.legends[0].get_window_extent(), axis.xaxis.label.get_window_extent()]
    for one in boxes:
        assert box.x0 <= one.x0 and one.x1 <= box.x1 and box.y0 <= one.y0 and one.y1 <= box.y1
    assert not boxes[-1].overlaps(boxes[-2])


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
        assert {text.get_text() for text in axis.texts} == {"m1.0", "m2.0"}
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


def test_letters_that_the_font_lacks_are_not_warned_of(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    from tp_vgg.report.figures import save_png
    from tp_vgg.report.svg import inline_svg

    figure = Figure()
    figure.suptitle("模型 الشبكة")
    save_png(figure, tmp_path / "x.png")
    assert "模型" in inline_svg(figure, "x", "x")
