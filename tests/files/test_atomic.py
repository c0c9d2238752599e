from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_atomic, write_json, write_text
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.files.journal import Journal, parked_path
from tp_vgg.files.lock import locked
from tp_vgg.files.read import read_json


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


def test_a_scalars_fingerprint_is_the_same_on_every_python() -> None:
    """It is the one of Python 3.11, so that older keys stay valid.

    From Python 3.12 on, a buffer without dimensions has no length.
    """
    scalar, table = memoryview(ctypes.c_int64(7)), memoryview(bytes(range(6))).cast("B", (2, 3))
    assert (
        fingerprint("a", scalar, table)
        == "3d5e093b2b5a065248062d1ccbeb5c2a3e669379a88d866258d56b337b2a562e"
    )


def test_fingerprints_tell_parts_apart() -> None:
    parts = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (b"abc",),
        (["ab", "c"],),
        ({"a": 1},),
        ({"a": 1.5},),
    ]
    assert len({fingerprint(*p) for p in parts}) == len(parts)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    script = (
        "import sys; from tp_vgg.files.lock import locked; from pathlib import Path\n"
        f"with locked(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
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


def test_a_journal_keeps_what_was_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "work.partial.jsonl"
    journal = Journal(path, "a" * 64)
    assert journal.entries == []
    journal.append({"n": 1}, {"n": 2})
    journal.append({"n": 3})
    assert Journal(path, "a" * 64).entries == [{"n": 1}, {"n": 2}, {"n": 3}]
    whole = path.read_bytes()
    for torn in (b'{"n": 4', b'{"n": 4}', b"\x00\xff\n", b"[4]\n", b'{"n": 4\n{"n": 5}\n'):
        path.write_bytes(whole + torn)
        again = Journal(path, "a" * 64)
        assert again.entries == [{"n": 1}, {"n": 2}, {"n": 3}]
        again.append({"n": 4})
        assert path.read_bytes() == whole + b'{"n": 4}\n'
    again.remove()
    assert not path.exists()


def test_a_torn_first_line_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    path.write_bytes(b'{"key": "aaa')
    journal = Journal(path, "aaaa")
    journal.append({"n": 1})
    assert Journal(path, "aaaa").entries == [{"n": 1}]


@pytest.mark.parametrize("where", [".", "plots", "tag/plots"])
def test_what_a_killed_process_was_writing_goes(where: str, tmp_path: Path) -> None:
    directory = tmp_path / where
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("figure.png.a1b2c3d4.partial", "model.partial.pth"):
        (directory / name).touch()
    with locked(tmp_path):
        assert {path.name for path in directory.iterdir() if path.is_file()} - {".lock"} == {
            "model.partial.pth"
        }


def test_other_works_journal_is_put_aside_and_found_again(tmp_path: Path) -> None:
    path, first, second = tmp_path / "work.jsonl", "a" * 64, "b" * 64
    Journal(path, first).append({"n": 1})
    Journal(path, second).append({"n": 2})
    assert parked_path(path, first).is_file()
    assert Journal(path, first).entries == [{"n": 1}]
    assert parked_path(path, second).is_file()
    assert not parked_path(path, first).exists()
    assert Journal(path, second).entries == [{"n": 2}]


def test_appended_lines_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "work.jsonl", "a")
    synced: list[bytes] = []
    monkeypatch.setattr(
        os, "fsync", lambda _handle: synced.append((tmp_path / "work.jsonl").read_bytes())
    )
    journal.append({"n": 1})
    assert synced[-1].endswith(b'{"n": 1}\n')


@pytest.mark.parametrize("key", ['"../../x"', '"a/b"', '"a\\u0000b"', '""', "null", "[1]", "7"])
def test_a_journal_with_a_strange_key_is_nobodys(key: str, tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    path.write_text(f'{{"key": {key}}}\n{{"n": 1}}\n')
    assert Journal.key_of(path) is None
    assert Journal(path, "a" * 64).entries == []
    assert os.listdir(tmp_path) == ["work.jsonl"]
