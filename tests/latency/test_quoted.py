from __future__ import annotations

import random
from dataclasses import replace

import pytest
from helpers import pages
from helpers.networks import SMALL

from tp_vgg.latency.quoted import fastest, gain_of, is_quoted
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.report.page import render
from tp_vgg.report.summary import summary_sentences

PLACE = {"device": "a GPU", "cpu": "a CPU", "threads": 1}


def row(model: str, mode: str, ms: float, speedup: float = 1.0, **changed: object) -> LatencyRow:
    """A model in a case; its blocks lie within half a per cent of ``ms``."""
    noise = random.Random(f"{model} {mode}")
    known = {
        "median_ms": ms, "iqr_ms": 0.0, "speedup": speedup, "speedup_low": 0.99 * speedup,
        "speedup_high": 1.01 * speedup, "over_eager": 1.0, "mac_ratio": 2.0, "efficiency": 0.5,
        "efficiency_low": 0.5, "efficiency_high": 0.5,
        "seconds": tuple(ms / 1000 * noise.uniform(0.995, 1.005) for _ in range(17)),
    }  # fmt: skip
    said = "reference" if model == "dense" else "faster"
    found = LatencyRow(model, mode, "fp32", 64, said, (f"reason of {mode}",), **known)
    return replace(found, **changed)  # type: ignore[arg-type]


def table(*rows: LatencyRow) -> Latency:
    return Latency("dense", {"dense": {}, "small": {}}, PLACE, {}, rows)


BOTH_IN_GRAPHS = table(
    row("dense", "eager", 3.0), row("small", "eager", 2.8, 1.07), row("dense", "folded-graph", 1.0),
    row("small", "folded-graph", 0.6, 1.67)
)  # fmt: skip
DENSE_COMPILED = table(
    row("dense", "compile", 0.9), row("small", "compile", 0.7, 1.29),
    row("dense", "folded-graph", 1.0), row("small", "folded-graph", 0.6, 1.67)
)  # fmt: skip
"""The dense network is fastest compiled, the small one in a graph.

The speed-up is 1.29 or 1.67 in one mode, and 1.50 if each runs in its fastest mode.
"""


def test_where_both_are_fastest_in_one_mode_the_gain_is_the_paired_one() -> None:
    for quoted in BOTH_IN_GRAPHS.rows[1::2]:
        gain = gain_of(BOTH_IN_GRAPHS, quoted)
        assert (gain.row.case.mode, gain.dense, gain.ratio.value, gain.verdict) == (
            "folded-graph",
            None,
            1.67,
            "faster",
        )


def test_a_mode_that_the_dense_network_lacks_has_no_control() -> None:
    """A file may say so: the network was timed in a mode in which the dense one was not."""
    gone = LatencyRow("dense", "folded-graph", "fp32", 64, "not available", ("out of memory",))
    rows = (DENSE_COMPILED.rows[0], DENSE_COMPILED.rows[1], gone, DENSE_COMPILED.rows[3])
    gain = gain_of(table(*rows), rows[1])
    assert (gain.row.mode, gain.ratio.value) == ("folded-graph", pytest.approx(1.5, rel=0.01))


def test_where_their_fastest_modes_differ_best_is_held_against_best() -> None:
    quoted = DENSE_COMPILED.rows[1]
    assert DENSE_COMPILED.headline() == quoted.case
    gain = gain_of(DENSE_COMPILED, quoted)
    assert gain.dense is not None and (gain.row.mode, gain.dense.mode) == (
        "folded-graph",
        "compile",
    )
    assert gain.ratio.value == pytest.approx(1.5, rel=0.01)
    assert gain.ratio.low < gain.ratio.value < gain.ratio.high
    assert gain.verdict == "faster"


def test_best_against_best_is_judged_by_the_worse_control() -> None:
    """The gain is 5 %, and one of the two controls is off by 8 %."""
    near = [replace(row, **vars(row)) for row in DENSE_COMPILED.rows]
    near[3] = row("small", "folded-graph", 0.857, 1.17)
    near[1] = row("small", "compile", 0.95, 0.95)
    assert gain_of(table(*near), near[1]).verdict == "faster"
    near[2] = row("dense", "folded-graph", 1.0, 1.08)
    assert gain_of(table(*near), near[1]).verdict == "no gain"


def test_a_table_without_blocks_is_quoted_as_it_is() -> None:
    rows = [replace(row, seconds=()) for row in DENSE_COMPILED.rows]
    gain = gain_of(table(*rows), rows[1])
    assert (gain.row.mode, gain.dense, gain.ratio.value) == ("folded-graph", None, 1.67)


def test_the_sentence_names_both_modes_where_they_differ() -> None:
    dense, small = pages.record(SMALL, 190), pages.record(SMALL.with_widths({"features.4": 6}), 188)
    said = summary_sentences(dense, small, DENSE_COMPILED.rows[1], DENSE_COMPILED)[2]
    assert said.claim == "Faster"
    assert (
        said.text.startswith("The network runs at 1.50× [1.4")
        and "it would be 2.00×" in said.text
        and "reason of folded-graph" in said.text
    )
    assert (
        "each in its fastest mode: folded-graph against compile, fp32, batch 64; "
        "medians of n = 17 and 17 blocks" in said.text
    )
    same = summary_sentences(dense, small, BOTH_IN_GRAPHS.rows[1], BOTH_IN_GRAPHS)[2]
    assert same.text.startswith(
        "The network runs at 1.67× [1.65, 1.69] the speed of the dense network "
        "(median of n = 17 paired blocks; folded-graph fp32, batch 64; a GPU)"
    )


def test_the_page_explains_the_mode_and_counts_the_blocks_that_were_thrown_away() -> None:
    found = pages.findings(SMALL)
    assert "<em>folded-graph</em>, one of folded" in render(found) and "thrown away" not in render(
        found
    )
    assert found.latency is not None
    slow = replace(
        found.latency, rows=tuple(replace(row, slow_blocks=3) for row in found.latency.rows)
    )
    # Three blocks in each of two cases.
    assert "<p>6 blocks were thrown away" in render(replace(found, latency=slow))


def test_quoted_is_the_largest_batch_that_there_is_up_to_64_in_the_fastest_mode_of_either() -> None:
    rows = DENSE_COMPILED.rows
    assert [is_quoted(row, rows, "dense") for row in rows] == [True, True, False, True]
    with_eager = (*rows, row("dense", "eager", 5.0), row("small", "eager", 4.0))
    assert [is_quoted(row, with_eager, "dense") for row in with_eager] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    small_batch = [replace(row, batch_size=1) for row in rows]
    assert not any(is_quoted(row, [*rows, *small_batch], "dense") for row in small_batch)
    assert fastest(rows, "nobody", "fp32", 64) is None
