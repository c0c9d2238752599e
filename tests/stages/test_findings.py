"""The report of a run directory whose records, written by hand, tell of a repair."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers.commands import one_line
from helpers.networks import SMALL
from helpers.records import repair


@pytest.fixture
def repaired(call, at_home: Path, small: list) -> list:
    """Options of a run directory whose unstructured model was repaired, as its record says."""
    options = [*small, "--out", "o"]
    status, _, err = call("unstructured", *options, "--sparsity", "0.5")
    assert status == 0, err
    path = at_home / "o/records/unstructured.json"
    record = json.loads(path.read_text())
    layers = [row.name for row in SMALL.rows]
    record["repair"] = asdict(repair(6, 30, record["test"]["n"], layers))
    path.write_text(json.dumps(record))
    return options


def test_table_metrics_and_page_show_the_repair(call, at_home: Path, repaired: list) -> None:
    status, out, err = call("compare", *repaired)
    assert status == 0, err
    row = next(line for line in out.split("as removed")[1].splitlines() if "unstructured" in line)
    assert row.split() == ["unstructured", "10.00", "%", "50.00", "%"]
    models = json.loads((at_home / "o/metrics.json").read_text())["models"]
    assert models["baseline"]["repair"] is None
    entry = models["unstructured"]["repair"]
    assert (entry["removed"], entry["repaired"]) == (10, 50)
    assert set(entry["layers"]) == {row.name for row in SMALL.rows}
    status, _, err = call("report", *repaired)
    assert status == 0, err
    page = (at_home / "o/report.html").read_text()
    figure = page[page.index('<figure id="figure-repair"') :]
    figure = figure[: figure.index("</figure>")]
    assert "features.0" in figure and "unchanged" in figure and "unstructured, n = 10" in figure
    assert page.index('id="repaired"') < page.index('id="figure-repair"')


def test_a_recalibration_has_no_figure(call, at_home: Path, repaired: list) -> None:
    path = at_home / "o/records/unstructured.json"
    record = json.loads(path.read_text())
    record["repair"].update(method="recalibrate", result=None)
    path.write_text(json.dumps(record))
    status, _, err = call("report", *repaired)
    assert status == 0, err
    page = (at_home / "o/report.html").read_text()
    assert 'id="repaired"' in page and "figure-repair" not in page


def test_a_record_with_a_wrong_repair_is_refused(call, at_home: Path, repaired: list) -> None:
    path = at_home / "o/records/unstructured.json"
    record = json.loads(path.read_text())
    record["repair"]["removed"]["correct"] += 1
    path.write_text(json.dumps(record))
    status, _, err = call("compare", *repaired)
    assert status == 2
    assert "records/unstructured.json" in one_line(err)
