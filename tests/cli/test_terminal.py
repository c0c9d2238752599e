"""On a terminal tables and notes fit its width; in a file a note is one line."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tp_vgg.cli import COMMANDS

ROOT = Path(__file__).parents[2]
NOTES = """
import logging, sys, time, warnings
import click
from tp_vgg.cli import execute, main
from tp_vgg.errors import WorkFailed
from tp_vgg.machine.console import progress_bar

log = logging.getLogger("tp_vgg.x")

@click.command()
def command():
    bar = progress_bar("work", unit="img", total=3, mininterval=0)
    bar.update()
    log.info("a note that is %s characters, which is more than 60", "n" * 9)
    bar.update()
    warnings.warn("a warning that is about as long as the note above, and longer than 60")
    if "fail" in sys.argv:
        raise WorkFailed("the work failed for a reason that takes more than 60 characters to tell")
    bar.update()
    bar.close()

import tp_vgg.cli
tp_vgg.cli.execute = lambda args, name: execute([], command)
main()
"""


def on_a_terminal(
    *words: str, columns: int, cwd: Path | None = None, **env: str
) -> tuple[int, list[str]]:
    """Run Python on a terminal: (exit status, lines as they are left on the screen)."""
    pytest.importorskip("fcntl")
    import fcntl
    import termios

    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT), **env},
    )
    os.close(follower)
    written = b""
    while True:
        try:
            chunk = os.read(leader, 1 << 16)
        except OSError:  # the end, on Linux
            break
        if not chunk:
            break
        written += chunk
    os.close(leader)
    return process.wait(), [_left(line) for line in written.decode().split("\r\n")]


def _left(line: str) -> str:
    """What a line shows after its carriage returns."""
    shown = ""
    for part in line.split("\r"):
        shown = part + shown[len(part) :]
    return shown.rstrip()


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_a_table_obeys_the_terminals_width(columns: int, tmp_path: Path) -> None:
    dry = ("-m", "tp_vgg", "structured", "--arch", "vgg19_bn", "--ratio", "0.5", "--dry-run")
    status, lines = on_a_terminal(*dry, columns=columns, cwd=tmp_path)
    assert status == 0
    assert columns - 25 < max(map(len, lines)) <= columns
    status, wide = on_a_terminal(*dry, "--wide", columns=columns, cwd=tmp_path)
    assert status == 0
    assert max(map(len, wide)) > 80
    _, other = on_a_terminal(*dry, columns=columns, cwd=tmp_path, COLUMNS="200")
    assert other == wide, "COLUMNS goes before the terminal"


@pytest.mark.parametrize("columns", ["0", "abc", "", "-5", "1e3", "9" * 30, "²"])
def test_columns_that_are_no_width_do_not_count(
    columns: str, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = ("structured", "--arch", "vgg19_bn", "--ratio", 0.5, "--dry-run")
    monkeypatch.setenv("COLUMNS", columns)
    said = call(*dry)
    assert said != call(*dry, "--wide")
    monkeypatch.setenv("COLUMNS", "80")
    assert said == call(*dry)


def test_notes_and_warnings_fit_a_terminal_and_leave_bars_whole() -> None:
    status, lines = on_a_terminal("-c", NOTES, columns=60)
    assert status == 0
    assert max(map(len, lines)) <= 60
    assert [line for line in lines if "work" in line] == [lines[-2]]
    assert "100%" in lines[-2] and "3/3" in lines[-2]
    assert lines[:4] == [
        "a note that is nnnnnnnnn characters, which is more than 60",
        *["a warning that is about as long as the note above, and", "longer than 60"],
        lines[-2],
    ]


def test_a_failure_is_one_line_and_not_on_the_line_of_a_bar() -> None:
    status, lines = on_a_terminal("-c", NOTES, "fail", columns=60)
    assert status == 1
    failed = "error: the work failed for a reason that takes more than 60 characters to tell"
    assert failed in lines
    assert sum("work:" in line for line in lines) == 1


def test_help_and_refusals_do_not_wait_for_rich(tmp_path: Path) -> None:
    probe = (
        "import sys; from tp_vgg.cli import execute; "
        "execute(['benchmark', '--help']); execute(['benchmark', '--modes', 'x']); "
        "execute(['structured', '--ratios', 'missing.json']); assert 'rich' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, env=env, check=True)


def test_notes_in_a_file_are_whole_lines() -> None:
    for env in ({}, {"COLUMNS": "30"}):
        done = subprocess.run(
            [sys.executable, "-c", NOTES],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        )
        assert [line.split()[:2] for line in done.stderr.splitlines()] == [
            ["a", "note"],
            ["a", "warning"],
        ]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_80_columns(name: str, call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = call(*([name] if name else []), "--help")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
