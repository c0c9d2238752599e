"""Notes use the standard library's logging; only the command line sends them to stderr."""

from __future__ import annotations

import io
import logging

import pytest

from tp_vgg.machine.console import LOGGER, hushed, muted, notes_on_stderr, progress_bar

log = logging.getLogger("tp_vgg.somewhere")


def test_notes_are_lines_on_stderr_where_the_command_line_shows_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers))
    log.info("unseen")
    with notes_on_stderr():
        log.info("one\x1b[2J")
        with muted():
            log.info("unseen")
        with muted(False):
            log.info("50 % of it")
    log.info("unseen")
    assert capsys.readouterr() == ("", "one\\x1b[2J\n50 % of it\n")
    assert (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)) == before


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("label", "quiet", "shown"), [("work", False, True), ("", False, False), ("work", True, False)]
)
def test_no_bar_without_a_label_or_where_quiet(
    label: str, quiet: bool, shown: bool, monkeypatch
) -> None:
    monkeypatch.setattr("sys.stderr", screen := Screen())
    for _ in progress_bar(label, range(3), unit="img", quiet=quiet):
        pass
    assert ("3/3" in screen.getvalue()) == shown


def test_a_note_does_not_stand_on_a_bars_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Screen())
    with notes_on_stderr(), progress_bar("work", unit="img", total=2) as bar:
        bar.update()
        log.info("a note")
    (line,) = [line for line in screen.getvalue().split("\n") if "a note" in line]
    assert line.rpartition("\r")[2] == "a note"


def test_only_errors_of_a_hushed_library_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("a_library")
    with hushed("a_library"):
        logging.getLogger("a_library.part").warning("unseen")
        library.error("an error")
    library.warning("a warning")
    assert caplog.messages == ["an error", "a warning"]
