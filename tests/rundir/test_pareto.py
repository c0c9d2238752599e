"""A Pareto table counts only for the dense model, the images and the files that it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tp_vgg.report.pareto import pareto_csv, render_pareto
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import RunDir
from tp_vgg.rundir.pareto import Pareto, ParetoPoint, pareto_of

IMAGES = {"dataset": "digits", "fingerprint": "f", "train": 9, "val": 9, "test": 60}
POINT = ParetoPoint(
    budget="macs=0.5", checkpoint="p/m.pth", sha256=hashlib.sha256(b"m").hexdigest(),
    macs_share=0.5, params_share=0.4, one_shot=10.0, accuracy=90.0, low=80.0, high=95.0, n=60,
    drop=1.5, drop_low=-1.0, drop_high=4.0, predicted_drop=20.0,
)  # fmt: skip
TIMES = {
    "speedup": 1.5, "speedup_low": 1.4, "speedup_high": 1.6, "verdict": "faster",
    "case": "folded fp32, batch 64",
}  # fmt: skip
TABLE = Pareto("key", "dense", {}, IMAGES, 91.5, 10.0, (POINT,))
DENSE: Any = SimpleNamespace(
    sha256="dense", normalisation={}, baseline=None, test_images=("digits", "f", 60)
)


@pytest.fixture
def kept(tmp_path: Path) -> Callable:
    """Keep a table and the file of its model; return the contents of the run directory."""

    def keep(data: object) -> RunContents:
        run = RunDir(tmp_path, tmp_path, "digits")
        for path in (run.pareto_record, tmp_path / "p" / "m.pth"):
            path.parent.mkdir(exist_ok=True)
        (tmp_path / "p" / "m.pth").write_bytes(b"m")
        run.pareto_record.write_text(json.dumps(data))
        return RunContents(run)

    return keep


def test_it_is_read_back_as_it_was(kept: Callable) -> None:
    for table in (
        TABLE,
        replace(TABLE, points=(replace(POINT, **TIMES),), control=(1.0, 0.9, 1.1)),
    ):
        assert pareto_of(kept(table.to_dict()), DENSE) == table


@pytest.mark.parametrize(
    "dense",
    [
        {"sha256": "another"},
        {"normalisation": {"mean": (0.5, 0.5, 0.5)}},
        {"test_images": ("digits", "f", 59)},
        {"test_images": ("digits", "g", 60)},
        {"test_images": ("cifar10", "f", 60)},
    ],
    ids=str,
)
def test_of_another_dense_model_or_other_images_it_is_none(dense: dict, kept: Callable) -> None:
    other: Any = SimpleNamespace(**{**vars(DENSE), **dense})
    assert pareto_of(kept(TABLE.to_dict()), other) is None


@pytest.mark.parametrize("content", [None, b"other"])
def test_with_a_model_that_changed_or_is_gone_it_is_none(
    content: bytes | None, kept: Callable, tmp_path: Path
) -> None:
    contents = kept(TABLE.to_dict())
    path = tmp_path / "p" / "m.pth"
    path.unlink() if content is None else path.write_bytes(content)
    assert pareto_of(contents, DENSE) is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("format", "tp_vgg/pareto/0"),
        ("points", []),
        ("accuracy", 101.0),
        ("accuracy", float("nan")),
        ("control", [1.0]),
        ("macs_share", 0.0),
        ("macs_share", "0.5"),
        ("n", 0),
        ("accuracy of the point", 99.0),
        ("budget", "$\\frac$"),
        ("budget", ""),
        ("case", "$x$"),
        ("speedup", -1.0),
    ],
)
def test_a_record_that_it_did_not_write_is_none(place: str, value: object, kept: Callable) -> None:
    data = TABLE.to_dict()
    point = {**asdict(POINT), **TIMES}
    name = place.removesuffix(" of the point")
    if name != place or name not in data:
        data["points"] = [{**point, name: value}]
    else:
        data[name] = value
    assert pareto_of(kept(data), DENSE) is None


def test_the_table_is_short_and_the_csv_has_all() -> None:
    timed = replace(POINT, budget="params=0.5+macs=0.7+latency=0.6", **TIMES)
    table = replace(TABLE, points=(timed, timed), control=(1.0, 0.9, 1.1))
    for shown in (table, TABLE):
        text = render_pareto(shown)
        assert max(map(len, text.splitlines())) <= 80
        assert ("speed-up" in text) is (shown is table)
    assert "A/A control 1.00 [0.90, 1.10]" in render_pareto(table)
    header, *rows = pareto_csv(table).splitlines()
    assert header.startswith("budget,checkpoint,macs_share") and header.endswith(",verdict,case")
    assert len(rows) == 2 and rows[0].endswith('faster,"folded fp32, batch 64"')
    assert pareto_csv(TABLE).splitlines()[1].endswith(",20.0,,,,,")


def test_if_one_model_was_not_timed_no_times_are_shown() -> None:
    table = replace(TABLE, points=(replace(POINT, **TIMES), POINT))
    assert table.case is None and "speed-up" not in render_pareto(table)


def test_chance_is_said_if_a_model_may_guess() -> None:
    assert "chance" not in render_pareto(TABLE)
    guess = replace(POINT, accuracy=12.0, low=8.0, high=20.0)
    assert "dense: 91.50 %; chance: 10 %" in render_pareto(replace(TABLE, points=(POINT, guess)))
