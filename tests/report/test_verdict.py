"""The verdict in a terminal: short lines with the page's claims."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import pages
from helpers.networks import SMALL

from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.report.summary import summary_sentences, verdict
from tp_vgg.rundir.comparison import Comparison

THIN = SMALL.with_widths({"features.4": 6})
N = pages.N


def verdict_of(spec: VGGSpec, dense: int, pruned: int, name="structured_finetuned", **changed):
    records = {
        "baseline": pages.record(SMALL, dense),
        name: pages.record(spec, pruned, baseline="ab" * 32, sha256="cd" * 32, **changed),
    }
    return verdict(Comparison(records))


@pytest.mark.parametrize("dense", [N // 10, 180, 190, N])
@pytest.mark.parametrize("pruned", [1, 179, 190, N])
@pytest.mark.parametrize("spec", [SMALL, THIN], ids=["same", "thin"])
@pytest.mark.parametrize("name", ["unstructured", "structured_finetuned"])
def test_it_is_a_heading_and_three_lines_of_80_columns(dense, pruned, spec, name) -> None:
    lines = verdict_of(spec, dense, pruned, name, nonzero=spec.params() // 2)
    assert lines[0] == f"{name} against baseline"
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80


def test_each_line_begins_with_the_pages_claim_and_holds_its_numbers() -> None:
    names = ("baseline", "structured_pruned", "structured_finetuned")
    latency = pages.latency(names)
    rows = {row.model: row for row in latency.rows if row.speedup}
    dense = pages.record(SMALL, 190)
    for right in (N // 10, 100, 189, N):
        for spec in (SMALL, THIN):
            for said in ("faster", "slower", "no gain", None):
                row = replace(rows[names[-1]], verdict=said) if said else None
                for one in summary_sentences(dense, pages.record(spec, right), row, latency):
                    assert one.line.startswith(one.claim)
                    assert len(one.line) <= 80
    size, accuracy, time = summary_sentences(
        dense, pages.record(THIN, 188), rows[names[-1]], latency
    )
    assert f"{THIN.params() / SMALL.params():.3f}× of the parameters" in size.line
    assert f"{THIN.macs() / SMALL.macs():.3f}× of the MACs" in size.line
    assert accuracy.line.startswith("No loss of accuracy shown: 94.00 % against 95.00 % (drop +1.0")
    assert time.line == "Faster: 1.50× [1.40, 1.60], eager, fp32, batch 64"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            verdict_of(THIN, N // 10, N // 10),
            "The dense network guesses: 10.00 % (chance: 10 %), so",
        ),
        (verdict_of(SMALL, 190, 190), "Not smaller: 1.000× of the parameters"),
        (verdict_of(SMALL, 190, 190, nonzero=9), "× of the non-zero parameters, 1.000× of the MAC"),
        (verdict_of(THIN, 190, 100), "Less accurate: 50.00 % against 95.00 % (drop +45.00 ["),
        (verdict_of(THIN, 190, 190), "Time: not measured; run benchmark with the same options"),
        (verdict(Comparison({"baseline": pages.record(SMALL, 190)})), "Nothing is pruned yet: the"),
        (
            verdict(Comparison({"baseline": pages.record(SMALL, N // 10)})),
            "the dense network has 10.00 % (chance: 10 %)",
        ),
    ],
    ids=[
        "chance",
        "not smaller",
        "zeros",
        "less accurate",
        "not timed",
        "dense alone",
        "dense guesses",
    ],
)
def test_what_is_not_gained_or_not_known_is_said(lines: tuple[str, ...], said: str) -> None:
    assert any(said in line for line in lines), lines


def test_models_that_are_left_out_are_named() -> None:
    records = {"baseline": pages.record(SMALL, 190), "unstructured": pages.record(SMALL, 189)}
    left_out = ["structured_pruned has no file", "structured_finetuned has no file"]
    (*_, last) = verdict(Comparison(records), left_out)
    assert last == ("Not all models are shown: structured_pruned, structured_finetuned left out")
