"""This script writes docs/images/ from a run directory.

`python docs/make_images.py runs/DIRECTORY FIGURE.png …` needs Chromium, and playwright of the extra
`test`.
:func:`terminal` draws the output of a command, for a script of its own.
"""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import sync_playwright

from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.report.figures import save_png
from tp_vgg.report.sweep_figures import sensitivity
from tp_vgg.sensitivity.table import Point, Sensitivity

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
SWEEP = DOCS / "sensitivity" / "structured_sensitivity.csv"
"""The sweep of CIFAR-10 as JPEG q75 that docs/results.md describes."""
WIDTH = 900
"""Pixels of a picture's width in README."""
COLORS = 64
PICTURES = {
    "page.png": (1100, 900, "light"),
    "page-dark.png": (1100, 900, "dark"),
    "phone.png": (400, 860, "light"),
    "phone-dark.png": (400, 860, "dark"),
}
"""Width and height of the window in pixels and the colour scheme, by picture of the page's top."""


def small(picture: bytes, path: Path, width: int = WIDTH) -> None:
    """Write a PNG at most ``width`` pixels wide, in few colours, so that README loads fast."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)
    image.quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def screenshot(
    address: str, width: int, height: int, scheme: str = "light", part: str | None = None
) -> bytes:
    """Return a PNG of an HTML page in a window of this size, at twice its pixels.

    ``address``: the page's address. ``scheme``: ``light`` or ``dark``. ``part``: the CSS selector
    of the element to show instead of the window.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise click.ClickException("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            device_scale_factor=2,
        )
        tab.goto(address)
        picture: bytes = tab.locator(part).screenshot() if part else tab.screenshot()
        browser.close()
    return picture


def terminal(text: str, path: Path, columns: int = 80) -> None:
    """Draw the output of a command as a PNG of a terminal with so many columns.

    Colours and other escape sequences are left out. Longer lines are broken, as a terminal does.
    """
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).rstrip("\n")
    page = f"""<!doctype html><meta charset="utf-8"><style>
        body {{ margin: 0; }}
        pre {{ display: inline-block; width: {columns}ch; margin: 0; padding: 14px 18px;
          background: #14171a; color: #e6e9ec; white-space: pre-wrap; word-break: break-all;
          font: 14px/1.4 "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
        </style><pre>{html.escape(plain)}</pre>"""
    copy = path.with_suffix(".html")
    copy.write_text(page, encoding="utf-8")
    try:
        small(screenshot(copy.resolve().as_uri(), 1100, 900, part="pre"), path)
    finally:
        copy.unlink()


def sweep_of(path: Path) -> Sensitivity:
    """Read the CSV of a structured sweep of vgg11_bn, as far as a heatmap needs it."""
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    points = [
        Point(
            row["layer"],
            float(row["ratio"]),
            0,
            **vars(Accuracy.of(int(row["correct"]), int(row["n"]))),
            drop=float(row["drop"]),
            drop_low=float(row["drop"]),
            drop_high=float(row["drop"]),
            redone=0,
        )
        for row in rows
    ]
    first = points[0]
    dense = Accuracy.of(round(first.correct + first.drop * first.n / 100), first.n)
    spec = VGGSpec.preset("vgg11_bn").to_dict()
    return Sensitivity("", "structured", "l1", "fp32", spec, dense, tuple(points))


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("figures", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(run: Path, figures: tuple[Path, ...]) -> None:
    """Draw the page of a finished run directory, and the heatmap of the sweep in docs/.

    FIGURES: PNGs that experiments drew, such as plots/accuracy_by_epochs.png of pareto.py.
    """
    IMAGES.mkdir(exist_ok=True)
    address = (run / "report.html").resolve().as_uri()
    for name, (width, height, scheme) in PICTURES.items():
        picture = screenshot(address, width, height, scheme)
        small(picture, IMAGES / name, WIDTH if width > WIDTH else 2 * width)
    heatmap = SWEEP.with_suffix(".png")
    save_png(sensitivity(sweep_of(SWEEP)), heatmap)
    small(heatmap.read_bytes(), IMAGES / "heatmap.png")
    for figure in figures:
        small(figure.read_bytes(), IMAGES / figure.name)


if __name__ == "__main__":
    main()
