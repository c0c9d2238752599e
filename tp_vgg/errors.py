"""The two ways in which a command ends badly; the command line turns them into exit statuses."""

from __future__ import annotations


class BadInput(ValueError):
    """What the user gave can't be used (exit 2): one line that names the file, the field and the fix."""


class WorkFailed(RuntimeError):
    """The work itself failed (exit 1): one line that says what happened and what is kept."""
