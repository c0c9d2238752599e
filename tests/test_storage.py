from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tp_vgg.errors import BadInput
from tp_vgg.storage import fingerprint, locked, read_json, write_atomic, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "old")

    def fail_halfway(file) -> None:
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail_halfway)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.txt"]


def test_files_have_ordinary_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) is None
    write_json(path, {"a": [1, 2.5, None]})
    assert read_json(path) == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    for text in ("{", "[]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(BadInput, match="delete it"):
            read_json(path)


def test_fingerprints_tell_parts_apart() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("abc",), (b"abc",), (["ab", "c"],), ({"a": 1},), ({"a": 1.5},)]
    assert len({fingerprint(*p) for p in parts}) == len(parts)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    script = f"import sys; from tp_vgg.storage import locked; from pathlib import Path\nwith locked(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=f"in use by process {holder.pid}"), locked(tmp_path):
            pass
        holder.kill()
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
