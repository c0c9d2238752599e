"""The page in a real browser: sliders, buttons, the downloaded file, a phone's width."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import pages
from helpers.records import repair

from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning.loss_curves import LossCurves
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.report.page import REPAIR, Drawn, render
from tp_vgg.report.repair_figure import repair_by_layer

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
    """The findings of a run whose model was repaired and then fine-tuned."""
    made = pages.findings(SPEC)
    fitted = repair(21, 170, pages.N, [row.name for row in SPEC.rows])
    (dense, before), (name, tuned) = made.records.items()
    records = {
        dense: before,
        "unstructured": pages.record(SPEC, 150, repair=repair(20, 150, pages.N)),
        "structured_pruned": replace(tuned, repair=fitted),
        name: replace(tuned, repair=fitted),
    }
    figure = repair_by_layer({"structured": fitted.result})
    drawn = Drawn.of(REPAIR, "Repair, layer by layer", "How to read it.", figure)
    return replace(made, records=records, drawn=(*made.drawn, drawn))


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


def multiples_of(page: Any, count: int) -> None:
    page.fill("#round-to", str(count))
    page.dispatch_event("#round-to", "change")


def kept(page: Any) -> dict[str, int]:
    """The channels that the page says it keeps, from the numbers beside the sliders."""
    return {layer: int(page.input_value(f'[id="keep-{layer}"]')) for layer in SPEC.prunable}


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
    ends = f"[{said.drop_low:+.2f}, {said.drop_high:+.2f}]"
    assert ends in page.inner_text("#drop").replace("\u2212", "-")


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
    multiples_of(page, 1)
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


@pytest.mark.parametrize(
    ("kind", "limit", "round_to"),
    [
        ("macs", 0.75, 8), ("macs", 0.4, 8), ("macs", 0.12, 16), ("params", 0.3, 8),
        ("latency", 0.5, 32), ("drop", 2.0, 8), ("drop", 20.0, 16), ("macs", 1.0, 8),
    ],
)  # fmt: skip
def test_a_typed_budget_is_met_within_the_stated_bound_of_the_best_plan(
    page: Any, found: Any, kind: str, limit: float, round_to: int
) -> None:
    """The exact search finds nothing below the bound, and nothing far better than the page."""
    multiples_of(page, round_to)
    page.select_option("#budget-kind", kind)
    page.fill("#budget-value", f"{limit:g}")
    page.click("#budget button")
    best = make_plan(
        found.sweeps["structured"], {kind: limit}, round_to=round_to, profile=found.profile
    )
    channels = kept(page)
    assert all(
        count % round_to == 0 or count == SPEC.prunable[layer] for layer, count in channels.items()
    )
    small = SPEC.with_widths(channels)
    assert (value(page, "params"), value(page, "macs")) == (small.params(), small.macs())
    spent = {
        "macs": small.macs() / SPEC.macs(), "params": small.params() / SPEC.params(),
        "latency": value(page, "time"), "drop": value(page, "drop"),
    }  # fmt: skip
    assert spent[kind] <= limit + 1e-9
    bound = value(page, "budget-note")
    if kind == "drop":
        assert bound - 1e-9 <= best.prediction.params_share <= spent["params"] + 1e-9
        assert spent["params"] <= bound + 0.02
    else:
        assert best.least_drop is not None
        assert bound - 1e-9 <= best.least_drop.prediction.drop <= value(page, "drop") + 1e-9
        assert value(page, "drop") <= bound + 0.5
    note = page.inner_text("#budget-note")
    assert "approximate" in note
    assert f"plan --budget {kind}={limit:g} --round-to {round_to}" in note


@pytest.mark.parametrize(
    ("kind", "limit", "said"),
    [
        ("macs", "0.0001", "no plan within the sweep's ratios"), ("macs", "1.5", "at most 1"),
        ("macs", "0", "at most 1"), ("macs", "-1", "at most 1"), ("params", "", "at most 1"),
        ("drop", "-2", "above 0 percentage points"),
    ],
)  # fmt: skip
def test_a_budget_that_no_plan_meets_says_so_and_moves_nothing(
    page: Any, kind: str, limit: str, said: str
) -> None:
    before = kept(page)
    page.select_option("#budget-kind", kind)
    page.fill("#budget-value", limit)
    page.click("#budget button")
    assert said in page.inner_text("#budget-note")
    assert kept(page) == before


@pytest.mark.parametrize("round_to", [1, 3, 8, 100, 5000])
def test_every_way_to_set_channels_keeps_what_round_to_keeps(page: Any, round_to: int) -> None:
    """Sliders, keys and typed numbers end at kept channels that `structured --round-to` makes."""
    multiples_of(page, round_to)
    allowed = {
        layer: {width, *range(round_to, width, round_to)} for layer, width in SPEC.prunable.items()
    }
    assert all(count in allowed[layer] for layer, count in kept(page).items())
    for wanted in (1, 7, 33, 250):
        drag(page, {layer: width - min(wanted, width) for layer, width in SPEC.prunable.items()})
        assert all(count in allowed[layer] for layer, count in kept(page).items())
    for layer, width in SPEC.prunable.items():
        for typed in (1, width // 2 + 1, width, 10 * width):
            number = page.get_by_role("spinbutton", name=f"{layer}: channels kept")
            number.fill(str(typed))
            number.press("Tab")
            expected = min(width, -(-typed // round_to) * round_to)
            assert int(number.input_value()) == expected
            slider = page.locator(f'[data-layer="{layer}"]')
            assert width - max(int(slider.input_value()), 0) == expected
        slider.press("Home")
        assert kept(page)[layer] == width
        slider.press("ArrowRight")
        assert kept(page)[layer] == max(allowed[layer] - {width}, default=width)


@pytest.mark.parametrize("typed", ["", "0", "-3"])
def test_a_typed_number_that_is_none_changes_nothing(page: Any, typed: str) -> None:
    before = kept(page)
    number = page.get_by_role("spinbutton", name="features.8: channels kept")
    number.fill(typed)
    number.press("Tab")
    assert kept(page) == before


def test_the_drawing_follows_the_sliders(page: Any) -> None:
    page.click("#reset")
    block = page.locator('#live [data-block="features.8"]')
    was, now = block.locator("rect").all()
    assert now.get_attribute("width") == was.get_attribute("width").rstrip("0").rstrip(".")
    drag(page, {"features.8": 192})
    assert float(now.get_attribute("width")) == float(was.get_attribute("width")) / 4
    assert block.locator(".now").text_content() == "→ 64"
    shown = page.locator("#network + .network .now").all_text_contents()
    page.click("#reset")
    assert page.locator("#network + .network .now").all_text_contents() == shown


def test_every_entry_of_the_contents_leads_to_its_section(page: Any) -> None:
    links = page.get_by_role("navigation", name="Contents").get_by_role("link").all()
    assert len(links) >= 6
    for link in links:
        target = page.locator(f'[id="{link.get_attribute("href")[1:]}"]')
        link.click()
        assert 0 <= target.bounding_box()["y"] <= page.evaluate("innerHeight")


def test_the_table_of_the_repaired_models_leads_to_their_figure(page: Any) -> None:
    link = page.locator("main").get_by_role("link", name="Repair, layer by layer").first
    link.click()
    box = page.locator("#figure-repair").bounding_box()
    assert 0 <= box["y"] <= page.evaluate("innerHeight")
    assert box["width"] <= 1280


def test_past_the_sweep_nothing_is_predicted(page: Any) -> None:
    page.click("#reset")
    multiples_of(page, 1)
    drag(page, {"features.0": 63})
    assert page.inner_text("#drop").startswith("not known")
    assert "features.0: beyond the sweep's ratios" in page.inner_text("#drop")
    assert value(page, "params") == SPEC.with_widths({"features.0": 1}).params()


def test_a_prediction_near_chance_names_chance(page: Any) -> None:
    page.click("#reset")
    assert "chance" not in page.inner_text("#drop")
    multiples_of(page, 1)
    drag(page, {layer: int(0.89 * width) for layer, width in SPEC.prunable.items()})
    assert "(chance: 10 %)" in page.inner_text("#drop")


def test_by_keyboard_and_for_a_screen_reader(page: Any) -> None:
    page.click("#reset")
    multiples_of(page, 1)
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


@pytest.mark.parametrize(("width", "hinted"), [(400, True), (1280, False)])
def test_a_figure_that_is_too_wide_says_that_it_scrolls(
    browser: Any, file: Path, width: int, hinted: bool
) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.goto(file.as_uri())
    for box in opened.locator(".drawn, .wide").all():
        wider = box.evaluate("(box) => box.scrollWidth > box.clientWidth + 1")
        hint = box.evaluate("(box) => getComputedStyle(box, '::before').content")
        assert ("scroll sideways" in hint) is wider
    assert ("scrolls" in opened.locator(".drawn").first.get_attribute("class")) is hinted
    opened.close()


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
