"""The page in a real browser: sliders, buttons, the downloaded file, a phone's width."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import pages

from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning.loss_curves import LossCurves
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.report.page import render

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
SPEC = VGGSpec.preset()

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def found() -> Any:
    return pages.findings(SPEC)


@pytest.fixture(scope="module")
def file(found: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(found), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    """The open page; at the end the console is empty and nothing else was requested."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    assert said == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {file.as_uri()}
    opened.close()


def value(page: Any, name: str) -> float:
    return float(page.get_attribute(f"#{name}", "data-value"))


def drag(page: Any, removed: dict[str, int]) -> None:
    page.evaluate(
        """(removed) => { for (const [layer, gone] of Object.entries(removed)) {
            const slider = document.querySelector(`[data-layer="${layer}"]`);
            slider.value = gone;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
        } }""",
        removed,
    )


def download(page: Any, to: Path) -> dict[str, float]:
    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename == "ratios.json"
    waiting.value.save_as(to)
    plan: dict[str, float] = json.loads(to.read_text())
    return plan


def resolved(plan: Path) -> VGGSpec:
    from tp_vgg.pruning.ratios import read_ratios, resolve

    return resolve(read_ratios(plan), SPEC)


def test_it_opens_at_the_plans_solution(page: Any, found: Any) -> None:
    said = found.plans["structured"].prediction
    assert value(page, "params") == said.params
    assert value(page, "macs") == said.macs
    assert value(page, "drop") == pytest.approx(said.drop, abs=1e-9)
    assert page.inner_text("#params").startswith(f"{said.params_share:.3f}×")


def test_its_time_is_plans(page: Any, found: Any) -> None:
    plan = make_plan(
        found.sweeps["structured"], {"latency": 0.6}, round_to=8, profile=found.profile
    )
    drag(page, {row.layer: row.before - row.after for row in plan.layers})
    assert value(page, "time") == pytest.approx(plan.prediction.latency_share, abs=1e-9)
    assert value(page, "drop") == pytest.approx(plan.prediction.drop, abs=1e-9)


def test_fifty_random_plans_are_what_structured_makes_of_them(
    page: Any, found: Any, tmp_path: Path
) -> None:
    """The page's parameters and MACs are those of the spec that the downloaded file resolves to.

    The drop is that of the sweep's curves.
    """
    page.evaluate("URL.createObjectURL = (blob) => { window.given = blob; return '#'; }")
    # A browser may block fifty downloads in a row.
    page.evaluate("HTMLAnchorElement.prototype.click = () => {}")
    rng = np.random.default_rng(0)
    curves = LossCurves.of(found.sweeps["structured"])
    for i in range(50):
        removed = {
            layer: int(rng.integers(0, int(0.9 * width) + 1)) if rng.random() < 0.8 else 0
            for layer, width in SPEC.prunable.items()
        }
        drag(page, removed)
        page.click("#download")
        file = tmp_path / f"{i}.json"
        file.write_text(page.evaluate("window.given.text()"))
        assert set(json.loads(file.read_text())) == {
            layer for layer, count in removed.items() if count
        }
        target = resolved(file)
        assert target.prunable == {
            layer: width - removed[layer] for layer, width in SPEC.prunable.items()
        }
        assert value(page, "params") == target.params()
        assert value(page, "macs") == target.macs()
        loss = sum(
            float(curves.loss(curves.drop(layer, 1 - (width - removed[layer]) / width)))
            for layer, width in SPEC.prunable.items()
        )
        assert value(page, "drop") == pytest.approx(curves.drop_of(loss), abs=1e-9)


def test_the_download_is_accepted_by_the_command(page: Any, tmp_path: Path) -> None:
    page.fill("#uniform-ratio", "0.37")
    page.click("#uniform button")
    download(page, tmp_path / "ratios.json")
    command = [sys.executable, "-m", "tp_vgg", "structured", "--ratios", "ratios.json", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    total = done.stdout.splitlines()[-1]
    assert f"→ {value(page, 'params'):,.0f} " in total
    assert f"→ {value(page, 'macs'):,.0f}" in total


def test_the_buttons(page: Any, found: Any) -> None:
    page.click("#reset")
    assert (value(page, "params"), value(page, "macs"), value(page, "drop")) == (
        SPEC.params(),
        SPEC.macs(),
        0,
    )
    page.select_option("#budget-choice", label="macs=0.25")
    page.click("#budget button")
    best = make_plan(found.sweeps["structured"], {"macs": 0.25}, round_to=8).prediction
    assert value(page, "macs") == best.macs
    assert value(page, "drop") == pytest.approx(best.drop, abs=1e-9)
    page.click("#solution")
    assert value(page, "macs") == found.plans["structured"].prediction.macs


def test_any_uniform_ratio_will_do_and_no_other(page: Any) -> None:
    page.fill("#uniform-ratio", "0.375")
    page.click("#uniform button")
    half = {
        name: width * 5 // 8
        for name, width in SPEC.prunable.items()
        if name.startswith("features.")
    }
    assert value(page, "params") == SPEC.with_widths(half).params()
    for wrong in ("1", "-0.1", ""):
        page.fill("#uniform-ratio", wrong)
        page.click("#uniform button")
        assert value(page, "params") == SPEC.with_widths(half).params()


def test_the_numbers_stay_in_sight_of_the_sliders_and_no_longer(page: Any) -> None:
    top = "document.querySelector('.results').getBoundingClientRect().top"
    page.focus('[data-layer="classifier.3"]')
    assert 0 <= page.evaluate(top) < page.evaluate("innerHeight")
    page.locator("h2", has_text="To repeat it").scroll_into_view_if_needed()
    assert page.evaluate("document.querySelector('.results').getBoundingClientRect().bottom") < 0


def test_past_the_sweep_nothing_is_predicted(page: Any) -> None:
    page.click("#reset")
    drag(page, {"features.0": 63})
    assert page.inner_text("#drop").startswith("not known")
    assert "features.0: beyond the sweep's ratios" in page.inner_text("#drop")
    assert value(page, "params") == SPEC.with_widths({"features.0": 1}).params()


def test_by_keyboard_and_for_a_screen_reader(page: Any) -> None:
    page.click("#reset")
    slider = page.get_by_role("slider", name="features.8: channels removed")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext").startswith("253 of 256 kept")
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext").startswith("1 of 256 kept")
    page.keyboard.press("Home")
    assert value(page, "params") == SPEC.params()
    assert page.get_attribute(".results", "aria-live") == "polite"
    # The slider itself announces its value.
    output = slider.locator("xpath=following-sibling::output")
    assert output.get_attribute("aria-live") == "off"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(browser: Any, file: Path, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(file.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    fits = (
        "[...document.querySelectorAll('.facts, .cards')]"
        ".every((t) => t.scrollWidth <= t.parentElement.clientWidth)"
    )
    assert opened.evaluate(fits)
    background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    context.close()
