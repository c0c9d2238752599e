"""This script measures the table of docs/reliability.md.

For each promise it runs the tests that hold it, counts their cases, and says how they ended. Every
promise is a row of :data:`PROMISES`. A test reports its number of cases by
``record_property("cases", n)``; otherwise it counts as one case.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import click

from tp_vgg.report.text_table import markdown_table
from tp_vgg.stages.defaults import duration

TESTS = Path(__file__).resolve().parent.parent / "tests"

PROMISES = {
    "A damaged or forged checkpoint is refused in one line, or is whole; nothing in it runs": (
        "files/test_hostile_archives.py",
    ),
    "What the checkpoint reader refuses, by name": (
        "network/test_checkpoint.py",
        "network/test_bitmask.py",
    ),
    "Plans, budgets, tables and run directories of others: used or refused in one line": (
        "cli/test_hostile_text.py",
        "cli/test_hostile_names.py",
        "pruning/test_ratios.py",
    ),
    "Bad options: one line, exit 2, nothing written": (
        "cli/test_cli.py::test_bad_input_is_one_line_and_writes_nothing",
        "cli/test_cli.py::test_every_refusal_is_one_line_and_writes_nothing",
    ),
    "A text from a file stays text in the page": (
        "report/test_page.py::test_a_text_stays_text",
        "report/test_page.py::test_its_policy_forbids_the_network",
    ),
    (
        "A kill (SIGKILL, power) at any moment of writing: nothing half or wrong under a final "
        "name; a rerun ends where a straight run does"
    ): ("stages/test_faults.py::test_a_kill_costs_at_most_the_step_in_hand",),
    "A kill at any moment of a sweep, and in each stage of `run`": (
        "cli/test_cli_sensitivity.py::test_ten_kills_leave_the_table_of_a_straight_run",
        "cli/test_cli_run.py::test_killed_at_each_stage_it_ends_at_the_same_metrics",
    ),
    "A disk that is full, fails or is read-only: one line, and a rerun completes": (
        "stages/test_faults.py::test_a_disk_that_fails_is_one_line_and_a_rerun_completes",
        "cli/test_cli.py::test_a_full_disk_is_one_line_and_leaves_no_final_file",
    ),
    "Files are whole or absent; one command at a time in a run directory": (
        "files/test_atomic.py",
    ),
    "Ctrl-C keeps what is done": (
        "training/test_trainer.py::test_ctrl_c_saves_and_a_rerun_ends_at_the_same_numbers",
        "cli/test_cli.py::test_ctrl_c_exits_130_and_a_rerun_goes_on",
        "cli/test_cli_sensitivity.py::test_ctrl_c_keeps_finished_layers_and_says_so",
    ),
    "Numbers that lie: worked with, or refused in one line": (
        "cli/test_odd_numbers.py",
        "training/test_trainer.py::test_a_non_finite_loss_stops_and_keeps_the_last_good_epoch",
        "training/test_trainer.py::test_a_runaway_rate_is_caught",
    ),
    "Images that can't be decoded are named and counted": (
        "data/test_datasets.py::test_corrupt_images_are_counted_and_left_out_only_where_asked",
        "data/test_datasets.py::test_bad_folders_are_refused_by_name",
    ),
    "Out of memory: half the block, the same results": (
        "evaluation/test_evaluate.py::test_out_of_memory_halves_the_batch_and_says_so",
        "sensitivity/test_sweep.py::test_out_of_memory_goes_on_in_halves_with_the_same_counts",
    ),
    "Peak memory is within 1.5 times what docs/concepts/memory.md says": (
        "machine/test_peak_memory.py",
    ),
    "The seed decides every bit, on one machine with one number of threads": (
        "stages/test_determinism.py",
    ),
    "An sdist and a wheel hold all that is needed": ("project/test_packaging.py",),
}
"""For each promise, the test files or functions that hold it."""


@dataclass(frozen=True)
class Outcome:
    """An outcome sums up the tests of one promise."""

    cases: int
    """Cases of the tests that were not skipped."""
    passed: int
    """Number of tests that passed."""
    failed: int
    skipped: int
    notes: str
    """Everything else that the tests counted, as text."""


def outcome(testcases: Iterable[ElementTree.Element]) -> Outcome:
    """Sum up the ``testcase`` elements of a JUnit report."""
    cases = passed = failed = skipped = 0
    counted: Counter[str] = Counter()
    notes: list[str] = []
    for test in testcases:
        properties = {str(p.get("name")): str(p.get("value")) for p in test.iter("property")}
        if test.find("skipped") is not None:
            skipped += 1
            continue
        cases += int(properties.pop("cases", 1))
        bad = test.find("failure") is not None or test.find("error") is not None
        failed, passed = failed + bad, passed + (not bad)
        counted.update(
            {name: int(value) for name, value in properties.items() if value.isdecimal()}
        )
        notes += [f"{name} {value}" for name, value in properties.items() if not value.isdecimal()]
    notes += [f"{name} {times:,}" for name, times in sorted(counted.items())]
    return Outcome(cases, passed, failed, skipped, ", ".join(notes))


def run_tests(names: tuple[str, ...], marks: str, report: Path) -> list[ElementTree.Element]:
    """Run tests by pytest and return the ``testcase`` elements of its JUnit report.

    ``names``: files or functions below tests/. ``marks``: pytest's expression for ``-m``.
    ``report``: path at which pytest writes the report. pytest's output goes to stderr.
    """
    options = ["-q", "-p", "no:cacheprovider", "--dist", "worksteal", "-m", marks]
    options += ["-o", "junit_family=xunit1", "--junitxml", str(report)]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(TESTS / name) for name in names)],
        cwd=TESTS.parent, stdout=sys.stderr, check=False,
    )  # fmt: skip
    return list(ElementTree.parse(report).iter("testcase"))


@click.command()
@click.option(
    "--long", "everything", is_flag=True, help="Run the long tests too: about an hour on 2 cores."
)
@click.option("--only", metavar="TEXT", default="", help="Only promises that contain TEXT.")
def main(everything: bool, only: str) -> None:
    """Print the table of docs/reliability.md; exit with status 1 if a test failed."""
    start = time.monotonic()
    rows, failures = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for promise, names in PROMISES.items():
            if only.lower() not in promise.lower():
                continue
            marks = "not gpu and not browser" + ("" if everything else " and not slow and not long")
            result = outcome(run_tests(names, marks, Path(folder) / "report.xml"))
            failures += result.failed
            ended = (
                f"{result.failed} of {result.failed + result.passed} tests failed"
                if result.failed
                else "held"
            )
            if not result.passed + result.failed:
                ended = "not run"
            rows.append(
                [
                    promise,
                    ", ".join(f"`{name}`" for name in names),
                    f"{result.cases:,}",
                    ended,
                    result.notes,
                ]
            )
    click.echo(markdown_table(["promise", "tests", "cases", "result", "counted"], rows))
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "pytest", "hypothesis")
    )
    kinds = "all tests" if everything else "without slow and long tests"
    click.echo(
        f"\n{kinds}; Python {platform.python_version()}, {versions};"
        f" {duration(time.monotonic() - start)}"
    )
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
