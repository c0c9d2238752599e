"""Run directories, data and names from others.

Every command works, or prints one printable line and leaves all files as they were.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import torch
from helpers.commands import QUICK, one_line
from helpers.hostility import Page, in_time
from helpers.networks import SMALL
from helpers.quick import brief, undrawn
from helpers.texts import mutate

from tp_vgg import cli
from tp_vgg.files.journal import Journal
from tp_vgg.network.checkpoint import save
from tp_vgg.network.vgg.model import build
from tp_vgg.training.history import Epoch, history_csv

SHORT, LONG = 150, 3000
"""Number of cases in the default run and in the long one."""
DRAWN = 20
"""One in this many cases draws its figures."""
EVERY = ",".join(SMALL.prunable)
WHERE = ["--dataset", "digits", *QUICK[4:], "--out", "o", "-q"]
JOURNALED = [
    "sensitivity",
    "--kind",
    "structured",
    "--levels",
    "0.5",
    "--layers",
    "features.4",
    "--tag",
    "j",
]
COMPARE, REPORT = (
    [["compare", "--format", form] for form in ("text", "markdown", "json", "csv")],
    ["report"],
)
PLANS = [
    ["plan", "--kind", kind, "--budget", "macs=0.6", "--round-to", "2", "--force"]
    for kind in ("structured", "unstructured")
]
SWEEPS = [
    ["sensitivity", "--kind", kind, "--levels", "0.25,0.5,0.9", "--layers", EVERY]
    for kind in ("structured", "unstructured")
]
TIMED = ["plan", "--budget", "latency=1", "--round-to", "2", "--force"]
RATIOS = [
    "structured",
    "--ratios",
    "o/ratios.json",
    "--dry-run",
    "--checkpoint",
    "o/vgg11_digits_finetuned.pth",
]
RUN = ["run", "--budget", "macs=0.9", "--round-to", "2"]
REFUSED = ["benchmark", "--modes", "graph"]
READERS: dict[str, list[list[str]]] = {
    "records/structured_sensitivity.json": [*PLANS[:1] * 6, SWEEPS[0], REPORT],
    "records/unstructured_sensitivity.json": [*PLANS[1:] * 6, SWEEPS[1], REPORT],
    "records/": [*COMPARE, *COMPARE, REFUSED, RUN, REPORT],
    "plan.json": [*COMPARE, *PLANS, *[RATIOS] * 2, *[RUN] * 2, REPORT],
    "ratios.json": [RATIOS, PLANS[0][:-1], RUN],
    "sparsity.json": [PLANS[1][:-1], RUN],
    "latency.json": [*COMPARE, *COMPARE, REPORT],
    "profiles/": [TIMED, TIMED, [*TIMED, "--profile", "PATH"], REPORT],
    "history.csv": [REPORT],
    "structured_history.csv": [REPORT],
    "structured_sensitivity.csv": [SWEEPS[0]],
    "j/": [JOURNALED],
}
"""The commands that read a file, by the name of the file or of its directory."""


@dataclass(frozen=True)
class Place:
    """A working directory ``home`` with a run directory ``o``, and its files as first written."""

    home: Path
    kept: dict[str, bytes]

    def restore(self) -> None:
        for name, content in held(self.home).items():
            if self.kept.get(name) != content:
                (self.home / name).unlink()
        for name, content in self.kept.items():
            if not (self.home / name).is_file():
                (self.home / name).parent.mkdir(parents=True, exist_ok=True)
                (self.home / name).write_bytes(content)


def held(home: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def executed(args: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with in_time(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.execute([str(arg) for arg in args])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch, read_digits: Callable) -> None:
    """Make click keep the escape codes that it strips if the output is not a terminal."""
    monkeypatch.setattr("tp_vgg.data.datasets._digits", read_digits)
    monkeypatch.setattr(click._compat, "should_strip_ansi", lambda *_: False)
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *_: False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    home = tmp_path_factory.mktemp("home")
    with contextlib.chdir(home), undrawn(), brief(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        model = build(SMALL)
        model.meta = {
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.25, 0.3],
            "dataset": "digits",
            "classes": list("0123456789"),
        }
        Path("o").mkdir()
        save(model, "o/vgg11_digits_finetuned.pth")
        epochs = [Epoch(1, 0.1, 2.0, 20.0, 30.0, 1.0), Epoch(2, 0.0, 1.0, 80.0, 90.0, 1.0)]
        Path("o/history.csv").write_text(history_csv(epochs))
        for args in (
            *SWEEPS,
            *PLANS,
            ["structured", "--ratios", "o/ratios.json", "--finetune-epochs", "1"],
            ["unstructured", "--ratios", "o/sparsity.json"],
            [
                "benchmark",
                "--modes",
                "folded",
                "--dtypes",
                "fp32",
                "--batch-sizes",
                "1",
                "--trials",
                "9",
            ],
            ["benchmark", "--profile", "--batch-sizes", "1"],
        ):
            status, _, err = executed([*args, *WHERE])
            assert status == 0, err
        patch.setattr(Journal, "remove", lambda _: None)
        assert executed([*JOURNALED, *WHERE])[0] == 0
        Path("o/j/records/structured_sensitivity.json").unlink()
    return Place(home, held(home))


def readers(name: str) -> list[list[str]]:
    place = name.removeprefix("o/")
    return next((commands for start, commands in READERS.items() if place.startswith(start)), [])


def targets(made: Place) -> list[str]:
    """The files to change; JSON files more often, because reading them is quick."""
    names = sorted(
        name
        for name in made.kept
        if Path(name).suffix in (".json", ".jsonl", ".csv") and readers(name)
    )
    return names + 3 * [name for name in names if name.endswith(".json")]


def check(status: int, out: str, err: str, before: dict[str, bytes], home: Path) -> str:
    """Check the rule of this module; return ``works`` or ``refused``."""
    assert all(char == "\n" or char.isprintable() for char in out + err), (out[-500:], err[-500:])
    if status == 0:
        page = home / "o/report.html"
        if page.is_file():
            found = Page(page.read_text("utf-8")).tags
            assert (found["script"], found["b"], found["img"]) == (2, 0, 0)
        return "works"
    assert status == 2, err
    assert out == ""
    assert len(one_line(err)) < 1000
    assert held(home) == before
    return "refused"


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
def test_a_run_directory_of_others_works_or_is_refused(
    count: int, made: Place, monkeypatch, record_property
) -> None:
    monkeypatch.chdir(made.home)
    # Run only the checks that come before any work.
    monkeypatch.setattr("tp_vgg.stages.run._Pipeline.steps", lambda _: [])
    names = targets(made)
    told: Counter[tuple[str, str]] = Counter()
    wrong = []
    for seed in range(count):
        rng = random.Random(seed)
        name = rng.choice(names)
        args = [word.replace("PATH", name) for word in rng.choice(readers(name))]
        kind, content = mutate(seed, name, made.kept[name])
        (made.home / name).write_bytes(content)
        figures = undrawn if seed % DRAWN else contextlib.nullcontext
        try:
            with figures():
                found = executed([*args, *WHERE[: None if rng.random() < 0.5 else -1]])
            told[args[0], check(*found, {**made.kept, name: content}, made.home)] += 1
        except Exception as error:  # noqa: BLE001  all of them are told
            wrong.append((seed, kind, name, args[0], f"{type(error).__name__}: {error!s:.300}"))
        made.restore()
    assert not wrong, f"{len(wrong)} of {count}: " + "\n".join(map(str, wrong[:40]))
    record_property("cases", count)
    for (command, outcome), times in sorted(told.items()):
        record_property(f"{command} {outcome}", times)
    assert {outcome for _, outcome in told} == {"works", "refused"}


ODD = {
    "o/records/baseline.json": [COMPARE[0], RUN],
    "o/records/structured_sensitivity.json": [PLANS[0], SWEEPS[0]],
    "o/plan.json": [COMPARE[0], PLANS[0], RATIOS, RUN],
    "o/ratios.json": [PLANS[0][:-1], RATIOS, RUN],
    "o/latency.json": [COMPARE[0]],
    "o/structured_sensitivity_results.pth": [SWEEPS[0]],
    "o/history.csv": [REPORT],
    "o/j/structured_sensitivity.partial.jsonl": [JOURNALED],
    "o/.lock": [PLANS[0]],
}


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
@pytest.mark.parametrize("name", ODD)
def test_nothing_waits_for_what_is_no_file(name: str, kind: str, made: Place, monkeypatch) -> None:
    monkeypatch.chdir(made.home)
    path = made.home / name
    path.unlink(missing_ok=True)
    {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "directory": Path.mkdir}[
        kind
    ](path)
    try:
        with undrawn():
            for args in ODD[name]:
                before = held(made.home)
                check(*executed([*args, *WHERE]), before, made.home)
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
        made.restore()


@pytest.mark.parametrize("name", [".lock", "j/structured_sensitivity.partial.jsonl"])
def test_a_link_in_a_run_directory_changes_nothing_elsewhere(
    name: str, made: Place, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(made.home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    path = made.home / "o" / name
    path.unlink(missing_ok=True)
    path.symlink_to(elsewhere)
    try:
        status, _, err = executed([*JOURNALED, *WHERE])
        assert (status, elsewhere.read_text()) == (2, "mine")
        assert str(name) in one_line(err)
    finally:
        path.unlink()
        made.restore()
