"""The files of a run directory are read once, and again only if they have changed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers.records import record

from tp_vgg.errors import BadInput
from tp_vgg.files import read as reading
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import RunDir


@pytest.fixture
def contents(tmp_path: Path) -> RunContents:
    (tmp_path / "records").mkdir()
    return RunContents(RunDir(tmp_path, tmp_path, "digits"))


def test_a_file_is_hashed_once_until_it_changes(
    contents: RunContents, tmp_path: Path, hashed: Counter[str]
) -> None:
    path, twin = tmp_path / "m.pth", tmp_path / "n.pth"
    path.write_bytes(b"weights")
    twin.write_bytes(b"weights")
    assert contents.sha256(path) == contents.sha256(path) == contents.sha256(twin)
    assert hashed == {"m.pth": 1, "n.pth": 1}
    before = contents.sha256(path)
    path.write_bytes(b"other weights")
    assert contents.sha256(path) != before
    assert hashed["m.pth"] == 2


def test_models_are_of_one_baseline_and_of_the_files_as_they_are(
    contents: RunContents, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    hits = [1, 0, 1, 1]
    digests = {}
    for name in ("baseline", "unstructured", "structured_pruned"):
        path = tmp_path / f"{name}.pth"
        path.write_text(name)
        digests[name] = contents.sha256(path)
        about = record(
            hits, checkpoint=path.name, sha256=digests[name], baseline=digests["baseline"]
        )
        (tmp_path / "records" / f"{name}.json").write_text(json.dumps(about.to_dict()))
    assert list(contents.models) == ["baseline", "unstructured", "structured_pruned"]
    (tmp_path / "unstructured.pth").write_text("trained again elsewhere")
    again = RunContents(contents.run)
    assert list(again.models) == list(again.models) == ["baseline", "structured_pruned"]
    (said,) = caplog.messages  # one message for any number of reads
    assert said.startswith("unstructured has no file, or another one than was measured")


def test_a_damaged_record_is_refused_and_a_damaged_extra_left_out(
    contents: RunContents, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "records" / "baseline.json").write_text('{"checkpoint": 1}')
    with pytest.raises(BadInput, match=r"baseline\.json: not a record of this version"):
        contents.record("baseline")
    for name in ("latency.json", "plan.json", "records/structured_sensitivity.json"):
        (tmp_path / name).write_text("[")
    (tmp_path / "history.csv").write_text("epoch\n1\n")
    assert contents.latency is None
    assert "latency.json: not a benchmark of this version" in caplog.messages[0]
    assert (contents.plans, contents.plan_commands(), contents.sweep("structured")) == (
        {},
        [],
        None,
    )
    assert contents.history("baseline") == ()


def test_what_changes_meanwhile_is_seen(contents: RunContents, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_text("weights")
    about = record([1, 1], checkpoint=path.name, sha256=contents.sha256(path))
    (tmp_path / "records" / "baseline.json").write_text(json.dumps(about.to_dict()))
    assert list(contents.models) == ["baseline"]
    path.write_text("written over")
    assert contents.models == {}


def test_each_table_is_parsed_once(
    contents: RunContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    real = reading.read_json

    def counted(path: Path) -> dict | None:
        reads[path.name] += 1
        return real(path)

    monkeypatch.setattr("tp_vgg.rundir.contents.read_json", counted)
    (tmp_path / "plan.json").write_text('{"command": "plan"}')
    (tmp_path / "records" / "structured_sensitivity.json").write_text("{}")
    for _ in range(2):
        assert contents.plans == {}
        assert contents.plan_commands() == ["plan"]
        assert contents.other_plan("structured") is None
        assert contents.sweep("structured") is None
    assert reads == {"plan.json": 1, "structured_sensitivity.json": 1}


def test_a_file_in_the_place_of_the_records_is_refused(
    contents: RunContents, tmp_path: Path
) -> None:
    """It is refused before any work, because nothing could be recorded."""
    (tmp_path / "records").rmdir()
    (tmp_path / "records").write_text("a file")
    with pytest.raises(BadInput, match=r"records/baseline\.json: can't be read"):
        contents.record("baseline")
    with pytest.raises(FileNotFoundError):
        contents.sha256(tmp_path / "none.pth")
