"""Hostile input: names and texts that a terminal or browser interprets, impossible tables, paths.

The tables have impossible fields; the paths lead to something that is not a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from helpers import pages
from helpers.commands import QUICK, one_line
from helpers.hostility import Page, in_time
from helpers.networks import SMALL
from helpers.records import record
from helpers.texts import EVIL, mutate
from hypothesis import given
from hypothesis import strategies as st

from tp_vgg.cli.arguments import budget_from
from tp_vgg.errors import BadInput, printable
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.read import read_json
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import Latency
from tp_vgg.network.checkpoint import load, save
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.budget import read_budget
from tp_vgg.planning.loss_curves import LossCurves
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.sensitivity.table import Sensitivity
from tp_vgg.training.history import Epoch, history_csv, read_history

NAMES = [
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred",
    "new\nline",
    "back\\slash",
    "$\\frac{",
    os.fsdecode(b"no \xff utf-8"),
    "\u202ereversed",
    "-q",
]
"""Names of classes that a file system allows."""


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make click keep the escape codes that it strips if the output is not a terminal."""
    monkeypatch.setattr(click._compat, "should_strip_ansi", lambda *_: False)
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *_: False)


@pytest.fixture
def patient() -> Iterator[None]:
    with in_time():
        yield


def is_plain(text: str) -> bool:
    return all(char == "\n" or char.isprintable() for char in text)


@given(st.text())
def test_printable_is_one_line_and_leaves_plain_texts_alone(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()


COSTS = st.sampled_from(["macs", "params", "latency", "drop", "sparsity", "x"])
LIMITS = st.floats() | st.integers() | st.text()


@given(
    st.lists(st.text() | st.builds("{}={}".format, COSTS, LIMITS), max_size=3),
    st.sampled_from(["structured", "unstructured"]),
)
def test_any_budget_is_one_or_refused(texts: list[str], kind: Any) -> None:
    said = ""
    try:
        found = read_budget(budget_from(tuple(texts)), kind)
    except BadInput as refusal:
        said = str(refusal)
    if said:
        assert said.isprintable() and len(said) < 300
    else:
        assert found and all(
            0 <= value <= (100 if name == "drop" else 1) for name, value in found.items()
        )


def _sweep_used(found: Sensitivity) -> None:
    LossCurves.of(found)
    found.csv()
    assert all(0 <= share < 1 for point in found.points for share in found.cost_removed(point))


def _profile_used(found: Staircase) -> None:
    for layer in found.layers:
        assert found.grid(layer)[1] and found.at_full_input(layer)


def _record_used(found: ModelRecord) -> None:
    json.dumps(found.metrics(), allow_nan=False)
    found.drop_against(found)


TABLES: dict[str, tuple[Any, Any, Callable[[Any], object]]] = {
    "sweep": (Sensitivity, pages.sweep(SMALL), _sweep_used),
    "zeros": (Sensitivity, pages.sweep(SMALL, "unstructured"), _sweep_used),
    "plan": (
        PlanResult,
        make_plan(pages.sweep(SMALL), {"macs": 0.9}, round_to=1),
        lambda found: found.file_text,
    ),
    "record": (ModelRecord, record([1, 0, 1]), _record_used),
    "benchmark": (Latency, pages.latency(("a", "b", "c")), Latency.headline),
    "profile": (Staircase, pages.profile(SMALL), _profile_used),
}
"""Each class of table, a valid table, and a function that uses it."""


@pytest.mark.parametrize("name", TABLES)
def test_a_changed_table_is_whole_or_refused(name: str, tmp_path: Path) -> None:
    kind, whole, use = TABLES[name]
    raw = json.dumps(whole.to_dict()).encode()
    assert kind.from_dict(json.loads(raw)) == whole
    refused = 0
    for seed in range(400):
        (tmp_path / "table.json").write_bytes(mutate(seed, "table.json", raw)[1])
        try:
            found = kind.from_dict(read_json(tmp_path / "table.json"))
        except (TypeError, KeyError, ValueError):  # BadInput is a ValueError
            refused += 1
            continue
        use(found)
        assert kind.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert 200 < refused < 400


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(EVIL),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(sorted(TABLES)), st.data())
def test_any_field_of_a_table_is_whole_or_refused(name: str, data: st.DataObject) -> None:
    kind, whole, use = TABLES[name]
    table = whole.to_dict()
    for field in data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=2)):
        table[field] = data.draw(JSON)
    try:
        found = kind.from_dict(table)
    except (TypeError, KeyError, ValueError):  # BadInput is a ValueError
        return
    use(found)
    assert kind.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@given(st.integers(0, 10**6) | st.text())
def test_any_history_is_read_or_refused(change: int | str) -> None:
    whole = history_csv([Epoch(1, 0.1, 2.0, 20.0, 30.0, 1.0), Epoch(2, 0.0, 1.0, 80.0, 90.0, 1.0)])
    text = (
        change
        if isinstance(change, str)
        else mutate(change, "x.csv", whole.encode())[1].decode(errors="replace")
    )
    try:
        assert all(
            abs(value) < 2**61 for epoch in read_history(text) for value in vars(epoch).values()
        )
    except (TypeError, ValueError):
        return


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder with an odd name, whose classes have the ``NAMES``."""
    import numpy as np
    from PIL import Image

    root, rng = tmp_path / "pictures \x1b[31m<b>\n", np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
                    root / split / name / f"{i}.png"
                )
    return root


@pytest.mark.usefixtures("thin")
def test_classes_of_any_name_are_trained_compared_and_reported(
    call, classes: Path, at_home: Path
) -> None:
    where = [
        "--dataset",
        "folder",
        "--data-dir",
        classes,
        "--head",
        "linear",
        "--limit-train",
        "16",
    ]
    for args in (
        ["train", "--epochs", "1"],
        ["compare"],
        ["compare", "--format", "csv"],
        ["report"],
    ):
        status, out, err = call(*args, *where)
        assert status == 0, err
        assert is_plain(out + err)
    (page,) = at_home.rglob("report.html")
    found = Page(page.read_text("utf-8")).tags
    assert (found["script"], found["img"], found["b"]) == (2, 0, 0)
    (checkpoint,) = at_home.rglob("*.pth")
    assert load(checkpoint).meta["classes"] == sorted(NAMES)


def test_an_odd_name_in_a_refusal_is_printable(call, classes: Path, at_home: Path) -> None:
    for name in NAMES[:3]:
        (classes / "test" / name / "0.png").write_bytes(b"none")
        status, out, err = call("train", "--dataset", "folder", "--data-dir", classes)
        assert (status, out) == (2, "")
        assert "can't be decoded" in one_line(err)
        (classes / "test" / name / "0.png").unlink()
    (classes / "test" / "only\x1b[2J").mkdir()
    status, _, err = call("train", "--dataset", "folder", "--data-dir", classes)
    assert (status, "has no images" in one_line(err)) == (2, True)


@pytest.mark.parametrize("evil", [text for text in EVIL if len(text) < 1000], ids=ascii)
def test_texts_in_a_checkpoint_stay_texts(evil: str, call, make_model, at_home: Path) -> None:
    model = make_model()
    model.meta |= {
        "dataset": evil,
        "notes": [evil],
        "source": evil,
        "training": {"epochs": evil, "seed": evil},
    }
    save(model, "odd.pth")
    where = ["--dataset", "digits", *QUICK[4:], "--out", "o"]
    status, out, err = call("compare", "odd.pth", *where, "--checkpoint", "odd.pth")
    assert (status, is_plain(out + err)) == (0, True), err
    model.meta["classes"] = [evil] * 10
    save(model, "odd.pth")
    status, out, err = call("compare", "odd.pth", *where, "--checkpoint", "odd.pth")
    assert (status, out) == (2, "")
    assert "other class names" in one_line(err)


TAKE_A_FILE = [
    ["structured", "--ratios"], ["structured", "--dry-run", "--ratios"],
    ["unstructured", "--ratios"], ["structured", "--ratio", "0.5", "--checkpoint"],
    ["structured", "--dry-run", "--ratio", "0.5", "--checkpoint"],
    ["sensitivity", "--kind", "structured", "--checkpoint"],
    ["plan", "--budget", "macs=0.5", "--checkpoint"],
    ["plan", "--budget", "latency=0.5", "--profile"], ["export", "--format", "torch"], ["compare"],
    ["compare", "--checkpoint"], ["benchmark"], ["benchmark", "--profile", "--checkpoint"],
    ["train", "--weights"], ["report", "--checkpoint"], ["run", "--checkpoint"],
]  # fmt: skip


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("args", TAKE_A_FILE, ids=" ".join)
def test_what_is_no_file_is_refused_at_once(args: list[str], call, at_home: Path) -> None:
    os.mkfifo("pipe")
    Path("directory").mkdir()
    for path in (
        "pipe",
        "directory",
        "/dev/zero",
        "/dev/stdin",
        "missing",
        "directory/missing",
        "pipe/missing",
        "\x1b[31m",
    ):
        status, out, err = call(*args, path, "--dataset", "digits")
        assert (status, out) == (2, ""), (path, err)
        one_line(err)
    assert sorted(os.listdir()) == ["directory", "pipe"]


@pytest.mark.usefixtures("patient")
def test_load_takes_files_alone(at_home: Path) -> None:
    for suffix in (".pth", ".safetensors", ".sparse"):
        os.mkfifo(f"pipe{suffix}")
        Path(f"zero{suffix}").symlink_to("/dev/zero")
        for path in (f"pipe{suffix}", f"zero{suffix}", ".", "/dev/stdin"):
            with pytest.raises(BadInput, match="not a regular file"):
                load(path)


@pytest.mark.parametrize(
    "args",
    [
        ["export", "m.pth", "--format", "safetensors", "--output", "m.pth/x.safetensors"],
        ["plan", "--budget", "macs=0.5", "--output", "m.pth/x.json"],
        ["compare", "--out", "m.pth/x"],
        ["report", "--out", "m.pth"],
        ["train", "--dataset", "cifar10", "--data-dir", "m.pth"],
        ["train", "--dataset", "folder", "--data-dir", "m.pth"],
    ],
    ids=" ".join,
)
def test_a_file_is_no_directory(args: list[str], call, make_model, at_home: Path) -> None:
    save(make_model(), "m.pth")
    status, out, err = call(*args)
    assert (status, out) == (2, "")
    assert "m.pth" in one_line(err)
    assert os.listdir() == ["m.pth"]
