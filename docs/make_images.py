"""This script writes docs/images/ from a run directory.

`python docs/make_images.py runs/DIRECTORY` needs Chromium, and playwright of the extra `test`.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
HEATMAP = DOCS / "sensitivity" / "structured_sensitivity.png"
"""The sweep of CIFAR-10 as JPEG q75 that docs/results.md describes."""
WIDTH = 900
"""Pixels of a picture's width in README."""
COLORS = 64


def small(picture: bytes, path: Path) -> None:
    """Write a PNG at most :data:`WIDTH` pixels wide, in few colours, so that README loads fast."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.LANCZOS)
    image.quantize(COLORS).save(path, optimize=True)


def screenshot(page: Path, height: int) -> bytes:
    """Return a PNG of the top of an HTML page in a window 1,100 pixels wide, at twice that size."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise click.ClickException("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(
            viewport={"width": 1100, "height": height}, color_scheme="light", device_scale_factor=2
        )
        tab.goto(page.resolve().as_uri())
        picture: bytes = tab.screenshot()
        browser.close()
    return picture


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--height", default=900, show_default=True, help="Pixels of the page to show.")
def main(run: Path, height: int) -> None:
    """Draw the page of a finished run directory, and the heatmap of the sweep in docs/."""
    IMAGES.mkdir(exist_ok=True)
    small(screenshot(run / "report.html", height), IMAGES / "page.png")
    small(HEATMAP.read_bytes(), IMAGES / "heatmap.png")


if __name__ == "__main__":
    main()
