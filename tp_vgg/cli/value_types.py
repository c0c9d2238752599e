"""These are the types of the values that options take."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

from tp_vgg.errors import shown

LONGEST_NAME, LONGEST_PATH = 255, 4000
"""Largest sizes in bytes of one name and of a whole path, as most file systems have them."""
MOST_THREADS = max(os.cpu_count() or 1, 64)
"""Largest number of threads that may be asked for; some thousands stall a machine."""


class FilePath(click.Path):
    """A path has text; Python would take an empty one for the current directory."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text to a path; fail if no file can have such a name."""
        text = os.fsdecode(value)
        if not text.strip():
            self.fail("the path is empty; give the name of a file or directory.", param, ctx)
        if "\0" in text:
            self.fail("a path can't hold a NUL byte.", param, ctx)
        if len(os.fsencode(text)) > LONGEST_PATH or any(
            len(os.fsencode(part)) > LONGEST_NAME for part in Path(text).parts
        ):
            self.fail(f"the path {shown(text)} is too long for a file system.", param, ctx)
        return super().convert(value, param, ctx)


PATH = FilePath(path_type=Path)
NAME_OR_PATH = FilePath()
"""A path that may be a fixed name too, such as that of a preset; it stays a text."""


class WholeNumber(click.IntRange):
    """A whole number in a range is called that in messages; click says "integer range"."""

    name = "whole number"


class Number(click.FloatRange):
    """A number in a range is never NaN; click's own range lets NaN pass."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text to a float; fail on NaN and outside of the range."""
        number = super().convert(value, param, ctx)
        return self.fail("NaN is not a number.", param, ctx) if math.isnan(number) else number


COUNT = WholeNumber(min=1)
RATE = Number(min=0, min_open=True, max=100)
