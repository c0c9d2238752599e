"""This module turns a matplotlib figure into SVG for an HTML page."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "savefig.transparent": True,
}
"""Settings of matplotlib that keep text as text: small, searchable, in the page's own font."""


@contextlib.contextmanager
def missing_glyphs_ignored() -> Iterator[None]:
    """Ignore matplotlib's warnings on letters that its font lacks, as in the names of files.

    A PNG shows a box for such a letter; the page has the fonts of the browser.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        yield


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """Return the figure as one ``<svg>`` element.

    ``name`` is put before every id in it, because a page holds several figures. ``label`` is the
    text that a screen reader reads out. The same figure and name give the same text.
    """
    text = io.StringIO()
    with missing_glyphs_ignored(), matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure.savefig(
            text,
            format="svg",
            dpi=200,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    # Hundredths of a point can't be seen, and paths are most of the text.
    svg = re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    width, height = size.groups()
    # Not smaller, so that its text stays readable; not larger, so that it is no banner.
    sizes = f"min-width: {0.95 * float(width):.0f}px; max-width: {1.4 * float(width):.0f}px"
    head = (
        f'<svg role="img" aria-label="{escape(label)}" style="{sizes}"'
        f' viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg"'
        ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    )
    return Markup(re.sub(r"^<svg[^>]*", head, svg, count=1))
