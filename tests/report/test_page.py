"""The page: its statements, its completeness, and that texts in it are escaped."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import pages
from helpers.networks import SMALL, VARIANTS
from helpers.records import repair

from tp_vgg.evaluation.hits import pack_hits
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.latency.verdicts import UNEXPLAINED
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning.allocation import RealisedPlan
from tp_vgg.planning.loss_curves import LossCurves
from tp_vgg.report import figures, model_figures, sweep_figures
from tp_vgg.report.explorer import explorer_data
from tp_vgg.report.network_drawing import blocks
from tp_vgg.report.page import Drawn, digits, render
from tp_vgg.report.summary import summary_sentences
from tp_vgg.report.svg import inline_svg

EVIL = '<script>alert("1")</script>'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    return parser.found


def test_the_page_asks_for_nothing() -> None:
    for tag, attributes in tags(render(pages.findings(SMALL))):
        assert tag not in ("link", "img", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (
                tag,
                attributes,
            )


def test_its_policy_forbids_the_network() -> None:
    policies = [
        a["content"] for tag, a in tags(render(pages.findings(SMALL))) if a.get("http-equiv")
    ]
    assert len(policies) == 1
    assert policies[0] is not None and policies[0].startswith("default-src 'none'")


def test_every_id_is_there_once_and_every_label_has_its_control() -> None:
    found = tags(render(pages.findings(SMALL)))
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in ("for", "aria-labelledby"):
        assert {attributes[name] for _, attributes in found if name in attributes} <= set(ids)


def test_a_text_stays_text() -> None:
    """Names of models, files, data and classes, notes, commands, lines and figures are escaped."""
    base = pages.record(
        SMALL, 190, checkpoint=EVIL, notes=(EVIL,),
        data={"dataset": EVIL, "fingerprint": EVIL, "train": 1, "val": 1, "test": 1},
        environment={"device": "cpu", "cpu": EVIL, "threads": 1, EVIL: EVIL},
    )  # fmt: skip
    table = replace(pages.sweep(SMALL), key=EVIL, importance=EVIL)
    figure = figures.history({EVIL: pages.findings(SMALL).drawn and [_epoch()]})
    names = (EVIL, f"2{EVIL}", f"3{EVIL}")
    timed = pages.latency(names, EVIL)
    others = {name: pages.record(SMALL, 180, checkpoint=EVIL) for name in names[1:]}
    found = pages.findings(
        SMALL, records={EVIL: base, **others}, sweeps={"structured": table}, latency=timed,
        quoted={row.model: row for row in timed.rows[:3]}, prune_command=EVIL,
        plan_outcomes=(EVIL,), commands=(EVIL,), drawn=(Drawn.of("evil", EVIL, EVIL, figure),),
    )  # fmt: skip
    page = render(found)
    scripts = [attributes for tag, attributes in tags(page) if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "explorer-data"}, {}]
    assert page.count("alert(") > 30
    assert EVIL not in page
    assert "timed as 2" in page


def _epoch():
    from tp_vgg.training.history import Epoch

    return Epoch(1, 0.1, 1.0, 50.0, 50.0, 1.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_explorer_has_the_specs_arithmetic(name: str) -> None:
    """Its rows, resized like in the page's script, give the parameters and MACs of any widths."""
    spec = VARIANTS[name]
    rows = explorer_data(spec, None, None, None)["rows"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        left = {layer: int(rng.integers(1, width + 1)) for layer, width in spec.prunable.items()}
        params = macs = 0
        before = 3
        for row in rows:
            after = left.get(row["name"], row["out"])
            weights = row["weights"] // (row["in"] * row["out"]) * row["reads"] * before * after
            params += weights + (row["params"] - row["weights"]) // row["out"] * after
            macs += weights * row["side"] ** 2
            before = after
        pruned = spec.with_widths(left)
        assert (params, macs) == (pruned.params(), pruned.macs())


def test_the_explorer_has_plans_tables() -> None:
    found = pages.findings(SMALL)
    plan = found.plans["structured"]
    data = json.loads(
        json.dumps(explorer_data(SMALL, found.sweeps["structured"], found.profile, plan))
    )
    curves = LossCurves.of(found.sweeps["structured"])
    assert data["curves"]["features.4"] == {
        "levels": list(curves.levels["features.4"]),
        "drops": list(curves.drops["features.4"]),
    }
    assert data["plan"] == {row.layer: row.after for row in plan.layers}
    assert data["round_to"] == plan.round_to
    assert set(data["time"]["layers"]) == set(SMALL.conv_names)


def test_without_a_sweep_it_offers_no_prediction() -> None:
    data = explorer_data(SMALL, None, None, None)
    assert (data["accuracy"], data["curves"], data["time"], data["plan"]) == (None, {}, None, None)
    page = render(
        pages.findings(
            SMALL, sweeps={}, plans={}, profile=None, drawn=(), plan_outcomes=(), commands=()
        )
    )
    assert "The plan&#39;s solution" not in page
    assert 'id="solution"' not in page and 'id="budget"' not in page


def row(verdict: str, **changed: object) -> LatencyRow:
    known = {
        "median_ms": 1.0, "iqr_ms": 0.1, "speedup": 1.5, "speedup_low": 1.4, "speedup_high": 1.6,
        "over_eager": 1.0, "mac_ratio": 2.0, "efficiency": 0.75, "efficiency_low": 0.7,
        "efficiency_high": 0.8, "seconds": (1.0,) * 9,
    }  # fmt: skip
    return LatencyRow("m", "folded", "fp32", 64, verdict, (), **{**known, **changed})


def test_the_verdict_claims_no_more_than_the_intervals() -> None:
    dense = pages.record(SMALL, 190)
    small = SMALL.with_widths({"features.4": 6})
    claims = [
        summary_sentences(dense, pages.record(small, right), None, None)[1].claim
        for right in (100, 189, 200)
    ]
    assert claims == ["Less accurate", "No loss of accuracy shown", "More accurate"]
    size, accuracy, time = summary_sentences(dense, pages.record(small, 188), None, None)
    assert size.claim == "Smaller"
    assert f"{small.params() / SMALL.params():.3f}×" in size.text
    assert "a drop of +1.00 percentage points [" in accuracy.text
    assert f"n = {pages.N}" in accuracy.text
    assert time.claim == "Time: not measured"


def test_chance_stands_beside_each_accuracy_that_reaches_it_and_no_other() -> None:
    dense = pages.record(SMALL, 190)
    small = SMALL.with_widths({"features.4": 6})
    records = {"baseline": dense, "pruned": pages.record(small, pages.N // 10)}
    page = " ".join(render(pages.findings(SMALL, records=records, latency=None, quoted={})).split())
    assert page.count("(chance: 10 %)") == 2, "in the table and in the verdict"
    pattern = r'10\.00 % <small>\[[\d., ]+\]</small> <small class="warn">\(chance: 10 %\)'
    assert re.search(pattern, page)
    sentence = summary_sentences(dense, records["pruned"], None, None)[1]
    assert sentence.claim == "The pruned network guesses"
    assert "] (chance: 10 %) of 200 test images" in sentence.text
    (alone,) = summary_sentences(records["pruned"], records["pruned"], None, None)
    assert "(chance: 10 %)" in alone.text
    assert "chance: 10" not in render(pages.findings(SMALL))


def test_the_contents_name_each_section_once() -> None:
    for found in (
        pages.findings(SMALL),
        pages.findings(SMALL, latency=None, quoted={}, sweeps={}, plans={}, drawn=()),
    ):
        page = render(found)
        nav = page[page.index('<nav class="screen" aria-label="Contents">') : page.index("</nav>")]
        links = re.findall(r'href="#([^"]+)"', nav)
        sections = re.findall(r'<h2 id="([^"]+)"', page)
        assert [link for link in links if not link.startswith("figure-")] == sections
        assert all(f'id="{link}"' in page for link in links)
        assert page.count("<h2") == len(sections)


def test_the_overview_is_the_first_figure() -> None:
    found = pages.findings(SMALL)
    drawn = Drawn.of("overview", "T", "R", model_figures.accuracy_against_cost(found.records))
    page = render(replace(found, drawn=(*found.drawn, drawn)))
    figures_of = re.findall(r'<figure id="figure-([^"]+)"', page)
    assert figures_of == ["overview", "sweep", "training"]
    assert page.index('id="figure-overview"') < page.index('<h2 id="network"')


def repaired_page(removed: int = 21, method: str = "reconstruct", drawn: bool = True) -> str:
    """The page of a run with two repaired models, of which one was fine-tuned; one line."""
    small = SMALL.with_widths({"features.4": 6})
    layers = [row.name for row in SMALL.rows] if method == "reconstruct" else []
    fitted = repair(removed, 170, pages.N, layers)
    records = {
        "baseline": pages.record(SMALL, 190),
        "unstructured": pages.record(SMALL, 151, repair=repair(44, 151, pages.N, layers)),
        "structured_pruned": pages.record(small, 170, repair=fitted),
        "structured_finetuned": pages.record(small, 188, repair=fitted),
    }
    figure = Drawn.of("repair", "T", "R", figures.history({"baseline": [_epoch()]}))
    found = pages.findings(
        SMALL, records=records, latency=None, quoted={}, drawn=(figure,) if drawn else ()
    )
    return " ".join(render(found).split())


def repairs_of(page: str) -> list[list[str]]:
    """The cells of the table of the repaired models, without the intervals."""
    table = page[page.index('id="repaired"') :]
    rows = re.findall(r"<tr>.*?</tr>", table[: table.index("</table>")])
    plain = [re.sub(r"<small>.*?</small>", "", row) for row in rows]
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in plain
    ]


def test_the_page_has_the_accuracies_as_removed_repaired_and_fine_tuned() -> None:
    page = repaired_page(removed=55)
    assert repairs_of(page) == [
        ["test accuracy, n = 200", "as removed", "repaired", "fine-tuned", "repair"],
        ["unstructured", "22.00 %", "75.50 %", "–", "reconstruct"],
        ["structured", "27.50 %", "85.00 %", "94.00 %", "reconstruct"],
    ]
    assert "from 100 training images" in page
    assert '<a href="#figure-repair">T</a>' in page and 'id="figure-repair"' in page
    assert "[21.78, 34.07]" in page, "the interval of 55 of 200"


def test_without_a_figure_or_a_refitted_layer_the_page_claims_neither() -> None:
    page = repaired_page(method="recalibrate", drawn=False)
    assert [row[-1] for row in repairs_of(page)] == ["repair", "recalibrate", "recalibrate"]
    assert "figure-repair" not in page
    assert not re.search(r"from \d+ training images", page)


def test_a_page_without_a_repair_has_no_table_of_repairs() -> None:
    page = render(pages.findings(SMALL))
    assert 'id="repaired"' not in page and "as removed" not in page.lower()


def test_chance_stands_beside_an_accuracy_as_removed_that_reaches_it() -> None:
    page = repaired_page(removed=21)
    assert page.count("(chance: 10 %)") == 2, "in the table of the repairs and in the verdict"
    assert "(chance: 10 %)" in page[page.index('id="repaired"') : page.index('id="network"')]
    assert "chance: 10" not in repaired_page(removed=55)


def test_the_verdict_says_what_the_model_had_as_removed_and_repaired() -> None:
    dense = pages.record(SMALL, 190)
    small = SMALL.with_widths({"features.4": 6})
    plain = pages.record(small, 188)
    repaired = replace(plain, repair=repair(55, 170, pages.N))
    without, sentence = (summary_sentences(dense, one, None, None)[1] for one in (plain, repaired))
    added = sentence.text.removeprefix(without.text)
    assert added == (
        " As removed, the network classified 27.50 % correctly; repaired, before any fine-tuning,"
        " 85.00 %."
    )
    assert sentence.line == without.line, "the terminal's line has no room for it"


def test_of_a_dense_network_that_guesses_no_accuracy_is_claimed() -> None:
    guessing = pages.record(SMALL, pages.N // 10)
    sentence = summary_sentences(
        guessing, pages.record(SMALL.with_widths({"features.4": 6}), pages.N // 10), None, None
    )[1]
    assert sentence.claim == "The dense network guesses"
    assert sentence.text.endswith("while always predicting one class gives 10.00 %.")


def test_with_a_dense_model_alone_nothing_is_claimed() -> None:
    dense = pages.record(SMALL, 190)
    (sentence,) = summary_sentences(dense, dense, None, None)
    assert sentence.claim == "Nothing is pruned yet"
    page = render(
        pages.findings(
            SMALL, records={"baseline": dense}, sweeps={}, plans={}, latency=None, quoted={}
        )
    )
    assert "Nothing is pruned yet" in page
    assert "the sweep's prediction" not in page
    assert "the drop is not known before" in page
    assert "before and after</h2>" not in page
    assert "→" not in page[page.index("</style>") : page.index("<script")]


def test_the_verdict_on_zeros_and_on_time() -> None:
    place = {"device": "cpu", "cpu": "a CPU", "threads": 1}
    latency = Latency("baseline", {"baseline": {}, "m": {}}, place, {}, (row("faster"),))
    dense = pages.record(SMALL, 190)
    masked = pages.record(SMALL, 190, nonzero=SMALL.params() // 10)
    size, _, _ = summary_sentences(dense, masked, None, None)
    assert "non-zero parameters" in size.text
    assert "a dense kernel still does all" in size.text
    assert (
        "a CPU, 1 CPU thread)" in summary_sentences(dense, masked, row("faster"), latency)[2].text
    )
    for said, claim in (("faster", "Faster"), ("slower", "Slower"), ("no gain", "No faster")):
        sentence = summary_sentences(dense, masked, row(said), latency)[2]
        assert sentence.claim == claim
        assert "1.50× [1.40, 1.60]" in sentence.text
        assert "n = 9" in sentence.text


def test_blocks_are_the_network() -> None:
    dense = VGGSpec.preset()
    found = blocks(dense, dense.with_widths({"features.0": 16, "classifier.0": 1024}))
    assert [block.name for block in found] == list(dense.prunable)
    assert found[0].width_after == found[0].width_before / 4
    widths = {block.name: block.width_before for block in found}
    # Convs and linears each have their own scale.
    assert widths["features.25"] == widths["classifier.3"] == 8 * widths["features.0"]
    assert found[0].height > found[1].height > found[-1].height > 0
    for left, right in itertools.pairwise(found):
        assert left.x + left.width_before < right.x


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1430.137, "1430"),
        (372.422, "372"),
        (53.255, "53.3"),
        (9.204, "9.20"),
        (0.05, "0.0500"),
        (0.0, "0"),
        (1e-9, "0.000000"),
    ],
)
def test_no_more_digits_than_were_measured(value: float, said: str) -> None:
    assert digits(value) == said


def test_a_shortfall_without_a_reason_is_said_as_such() -> None:
    found = pages.latency(("baseline", "structured_finetuned"), UNEXPLAINED)
    assert "faster<small>less than its MACs promise: no rule explains it</small>" in render(
        pages.findings(SMALL, latency=found)
    )


def test_figures_do_not_share_ids() -> None:
    table = pages.sweep(SMALL)
    one, two = (
        inline_svg(sweep_figures.sensitivity_cost(table), name, "a label")
        for name in ("one", "two")
    )
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, known in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= known
        assert svg.startswith('<svg role="img" aria-label="a label"')
    assert one.replace("one-", "two-") != one


def test_the_same_findings_are_the_same_page() -> None:
    assert render(pages.findings(SMALL)) == render(pages.findings(SMALL))


def test_the_drop_is_paired() -> None:
    dense = pages.record(SMALL, 190)
    other = pages.record(SMALL, 190, hits=pack_hits(np.arange(pages.N) >= 10))
    assert "[-4." in summary_sentences(dense, other, None, None)[1].text


def test_plans_that_were_realised_stand_on_the_page() -> None:
    found = pages.findings(SMALL)
    rows = tuple(
        RealisedPlan(name, {}, 1.25, 0.5, 0.4, drop, drop - 0.5, drop + 0.5, taken=name == "2")
        for name, drop in (("best", 2.0), ("2", 1.75), ("uniform", 9.0))
    )
    assert "Plans that were really pruned" not in render(found)
    plans = {"structured": replace(found.plans["structured"], realised=rows, realise=2)}
    page = " ".join(render(replace(found, plans=plans)).split())
    assert "Plans that were really pruned: structured" in page
    for name, drop, low, high in (
        ("best", "+2.00", "+1.50", "+2.50"), ("2 (taken)", "+1.75", "+1.25", "+2.25"),
        ("uniform", "+9.00", "+8.50", "+9.50"),
    ):  # fmt: skip
        assert f'<th scope="row">{name}</th> <td data-label="predicted drop">+1.25</td>' in page
        assert f"{drop} <small>[{low}, {high}]</small>" in page
