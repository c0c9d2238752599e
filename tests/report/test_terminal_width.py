"""Tables and notes fit the width of a terminal, without breaking a word or losing a number."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import pages
from helpers.records import repair
from rich.cells import cell_len

from tp_vgg.cli.options import wide_option
from tp_vgg.evaluation.record import finetuning_note
from tp_vgg.evaluation.repaired import RepairRecord
from tp_vgg.machine.console import fitted, terminal_width, wrapped
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.report.latency_tables import render_benchmark, render_profile
from tp_vgg.report.plan_tables import render_dry_run, render_plan, render_sensitivity
from tp_vgg.report.tables import render_comparison
from tp_vgg.report.text_table import shortened, text_table
from tp_vgg.rundir.comparison import Comparison

LONG = "runs/a_directory_of_someone/with/a_long_name/pruned.pth"
DEEP = VGGSpec.preset("vgg19_bn", "torchvision")
HALF = DEEP.with_widths({name: width // 2 for name, width in DEEP.prunable.items()})
WIDTHS = (20, 40, 60, 80, 120, 300)


def comparison(*names: str) -> Comparison:
    """One model per name; the second has zeros, and all are timed."""
    records = {
        name: pages.record(
            DEEP if place < 2 else HALF,
            190 - 40 * place,
            sha256=f"{place:02}" * 32,
            nonzero=(HALF if place else DEEP).params(),
        )
        for place, name in enumerate(names)
    }
    latency = pages.latency(names)
    models = {name: {"sha256": record.sha256} for name, record in records.items()}
    return Comparison(records, type(latency)(**{**vars(latency), "models": models}))


MODELS = comparison("baseline", "unstructured", "structured_finetuned", LONG)


def repaired(models: Comparison, **repairs: RepairRecord) -> Comparison:
    """The same models, of which these were repaired."""
    records = {
        name: replace(record, repair=repairs.get(name)) for name, record in models.records.items()
    }
    return replace(models, records=records)


REFITTED = repair(20, 140, pages.N, DEEP.prunable)
ZEROED = repair(21, 150, pages.N)
THREE = ("baseline", "unstructured", "structured_pruned")
REPAIRED = repaired(
    comparison(*THREE, "structured_finetuned", LONG),
    unstructured=ZEROED, structured_pruned=REFITTED, structured_finetuned=REFITTED,
    **{LONG: repair(33, 44, pages.N)},
)  # fmt: skip
SWEEP = pages.sweep(DEEP, layers=tuple(DEEP.prunable))
RENDERED: dict[str, Callable[[int | None], str]] = {
    "comparison": lambda width: render_comparison(MODELS, width=width),
    "repaired": lambda width: render_comparison(REPAIRED, width=width),
    "not fine-tuned": lambda width: render_comparison(
        repaired(comparison(*THREE), structured_pruned=REFITTED), width=width
    ),
    "benchmark": lambda width: render_benchmark(
        pages.latency(("baseline", "structured_pruned", "structured_finetuned")), width=width
    ),
    "profile": lambda width: render_profile(pages.profile(DEEP), width=width),
    "plan": lambda width: render_plan(make_plan(SWEEP, {"macs": 0.5}), width=width),
    "unstructured plan": lambda width: render_plan(
        make_plan(pages.sweep(DEEP, "unstructured"), {"macs": 0.9}), width=width
    ),
    "sensitivity": lambda width: render_sensitivity(SWEEP, width=width),
    "dry run": lambda width: render_dry_run(
        DEEP, HALF, dict.fromkeys(DEEP.prunable, 0.5), width=width
    ),
}


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\s\-][^\s]*", text))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", RENDERED)
def test_a_table_fits_without_a_broken_word(name: str, width: int) -> None:
    whole = RENDERED[name](10_000)
    shown = RENDERED[name](width)
    longest = max(map(cell_len, words(whole)))
    assert max(map(cell_len, shown.splitlines())) <= max(width, longest + 2)
    # In blocks, a column's name is repeated with a colon; no other word may be new.
    assert {word.rstrip(":") for word in words(shown)} <= {
        word.rstrip(":") for word in words(whole)
    }
    assert {word for word in words(whole) if word[0].isdigit()} <= words(shown)


@pytest.mark.parametrize("name", RENDERED)
def test_80_columns_hold_a_table_and_not_blocks(name: str) -> None:
    """The line below a header is there, and each row has all of its cells."""
    assert re.search(r"^-+( +-+)+$", RENDERED[name](80), re.MULTILINE)


def test_the_closing_table_says_what_its_columns_are_and_keeps_long_names_short() -> None:
    shown = render_comparison(MODELS, width=80)
    header = shown.splitlines()[0].split()
    assert header == ["model", "accuracy", "drop", "params", "non-zero", "MACs", "speed-up"]
    assert "structured_finetuned" in shown and "runs/a_d…" in shown
    assert LONG not in shown.partition("95 %")[0] and shown.count(LONG) == 1
    assert "A/A 1.50×" in shown and "1.50× faster" in shown
    assert "eager fp32, batch 64" in " ".join(shown.split())
    low, high = MODELS.records["unstructured"].test.low, MODELS.records["unstructured"].test.high
    assert f"[{low:.2f}, {high:.2f}]" in shown
    assert LONG in render_comparison(MODELS, width=None)


def test_zeros_have_a_column_only_if_there_are_any() -> None:
    dense = comparison("baseline")
    assert "non-zero" not in render_comparison(dense, width=80)


def small_table(models: Comparison, width: int | None = 80, form: str = "text") -> list[list[str]]:
    """The cells of the table of the repaired models."""
    shown = render_comparison(models, form, width=width).splitlines()
    start = next(i for i, line in enumerate(shown) if "as removed" in line)
    lines = shown[start : shown.index("", start)]
    if form == "markdown":
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [re.split(r"  +", line.strip()) for line in lines]


def test_both_records_of_structured_are_one_row_with_the_fine_tuned_accuracy() -> None:
    header, _, zeroed, refitted, other = small_table(REPAIRED)
    assert header == ["accuracy", "as removed", "repaired", "fine-tuned"]
    assert zeroed == ["unstructured", "10.50 %", "75.00 %"]
    tuned = REPAIRED.records["structured_finetuned"].test.accuracy
    assert refitted == ["structured", "10.00 %", "70.00 %", f"{tuned:.2f} %"]
    assert other[1:] == ["16.50 %", "22.00 %"] and other[0].startswith("runs/a_d…")
    assert small_table(REPAIRED, None, "markdown")[2][-1] == "", "an empty cell"


def test_a_fine_tuning_that_began_from_another_repair_has_a_row_of_its_own() -> None:
    models = repaired(
        comparison(*THREE, "structured_finetuned"),
        structured_pruned=REFITTED, structured_finetuned=repair(20, 141, pages.N, DEEP.prunable),
    )  # fmt: skip
    _, _, pruned, tuned = small_table(models)
    assert pruned == ["structured_pruned", "10.00 %", "70.00 %"]
    assert tuned[:3] == ["structured_finetuned", "10.00 %", "70.50 %"] and len(tuned) == 4


@pytest.mark.parametrize("tuned", [True, False])
def test_the_note_says_whether_unstructured_was_fine_tuned(tuned: bool) -> None:
    models = repaired(comparison(*THREE), unstructured=ZEROED)
    record = models.records["unstructured"]
    note = finetuning_note(3 if tuned else 0)
    models.records["unstructured"] = replace(record, notes=(note,))
    header, _, row = small_table(models)
    last = ["fine-tuned"] if tuned else []
    assert header == ["accuracy", "as removed", "repaired", *last]
    assert row[3:] == ([f"{record.test.accuracy:.2f} %"] if tuned else [])


def test_all_columns_of_the_repaired_models_have_their_intervals() -> None:
    for form in ("text", "markdown"):
        header, _, zeroed, *_ = small_table(REPAIRED, None, form)
        assert header[0] == "accuracy [95 %]"
        assert zeroed[1] == f"10.50 % [{ZEROED.removed.low:.2f}, {ZEROED.removed.high:.2f}]"


@pytest.mark.parametrize("width", [40, 80, None])
def test_the_method_of_each_repair_is_named(width: int | None) -> None:
    shown = " ".join(render_comparison(REPAIRED, width=width).split())
    assert "Repaired by recalibrate (unstructured, " in shown
    assert "reconstruct (structured), without labels" in shown


def test_chance_is_named_if_an_accuracy_as_removed_reaches_it() -> None:
    models = comparison(*THREE)
    assert "Chance is" not in render_comparison(models, width=80)
    assert "Chance is 10 %." in render_comparison(repaired(models, unstructured=ZEROED), width=80)


def test_without_a_repair_there_is_no_table_of_repairs_and_csv_never_has_one() -> None:
    assert "as removed" not in render_comparison(MODELS, width=80)
    plain = replace(
        REPAIRED, records={n: replace(r, repair=None) for n, r in REPAIRED.records.items()}
    )
    assert render_comparison(REPAIRED, "csv") == render_comparison(plain, "csv")


def test_a_repaired_models_odd_name_stays_one_line_of_text() -> None:
    name = "a\x1b[31m|\nb.pth"
    models = repaired(comparison("baseline", name), **{name: ZEROED})
    for form, width in (("text", 80), ("text", None), ("markdown", None)):
        shown = render_comparison(models, form, width=width)
        assert "\x1b" not in shown
        assert small_table(models, width, form)[2][0].startswith("a\\x1b[31m")


@pytest.mark.parametrize("form", ["markdown", "csv", "json"])
def test_other_formats_do_not_know_of_a_width(form: str) -> None:
    assert render_comparison(MODELS, form, width=20) == render_comparison(MODELS, form)


def test_characters_are_counted_in_places_and_not_in_bytes() -> None:
    table = text_table(["name", "n"], [["日本語", "1"], ["cafe\u0301", "2"], ["plain", "3"]])
    assert len({cell_len(line) for line in table.splitlines()[2:]}) == 1
    assert wrapped("日本 日本 日本", 9).splitlines() == ["日本 日本", "日本"]


def test_text_wraps_between_words_and_a_long_word_stays_whole() -> None:
    path = "a/path/that/is/longer/than/a/line.pth"
    assert wrapped(f"wrote {path} and that is all", 20).splitlines() == [
        "wrote",
        path,
        "and that is all",
    ]


def test_long_names_that_are_cut_to_the_same_text_are_told_apart() -> None:
    paths = [f"run/pareto-macs0.{end}/vgg11_structured_finetuned.pth" for end in ("75", "5")]
    wide = "日本語" * 20 + ".pth"
    short = shortened(["baseline", *paths, wide])
    assert len(set(short.values())) == 4 and short["baseline"] == "baseline"
    assert max(map(cell_len, short.values())) <= 20
    shown = render_comparison(comparison("baseline", *paths, wide), width=80)
    assert all(path in shown for path in (*paths, wide))


def test_a_number_and_its_percent_sign_stay_on_one_line() -> None:
    assert wrapped("an accuracy of 10.00 % here", 20).splitlines() == [
        "an accuracy of",
        "10.00 % here",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_wraps_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    line = fitted("one line that is longer than the terminal", stream)
    assert line.count("\n") == (2 if terminal else 0)


@pytest.mark.parametrize(
    ("columns", "width"), [("100", 100), ("0", None), ("-3", None), ("abc", None), ("9" * 30, None)]
)
def test_columns_counts_only_if_it_is_a_width(
    columns: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as only_here, Path(os.devnull).open("w") as nowhere:
        only_here.setenv("COLUMNS", columns)  # pytest's own lines would be as wide
        assert terminal_width(nowhere) == width


def test_a_file_gets_80_columns_and_wide_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import click
    from click.testing import CliRunner

    monkeypatch.delenv("COLUMNS", raising=False)

    @click.command()
    @wide_option
    def command(width: int | None) -> None:
        click.echo(str(width))

    runner = CliRunner()
    assert runner.invoke(command, []).output == "80\n"
    assert runner.invoke(command, ["--wide"]).output == "None\n"
    monkeypatch.setenv("COLUMNS", "123")
    assert runner.invoke(command, []).output == "123\n"


def test_a_table_is_text_in_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert text_table(["a"], [["b"]]).splitlines() == ["a", "-", "b"]
