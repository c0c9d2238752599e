"""Random command lines on run directories in many states.

No line ends in a traceback, is refused after it has changed a file, or loses a finished result.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import json
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from helpers import quick
from helpers.commands import QUICK, one_line
from helpers.finished_results import Result, contents, finished, run_directory
from helpers.hostility import in_time
from helpers.random_commands import Line, draw
from helpers.run_states import STATES, SWEEP, lay_inputs

from tp_vgg import cli
from tp_vgg.files.journal import Journal
from tp_vgg.latency.table import FEWEST_TRIALS, cases_of
from tp_vgg.stages.options import BenchmarkOptions
from tp_vgg.stages.session import Session

LINES = 10
"""Lines of a sequence: each finds the run directory as the ones before it left it."""
SHORT, LONG = 4, 26
"""Sequences in the default run, and further ones in the long one: 40 and 260 lines."""
WHERE = ["--out", "o", "-q"]
WORK_FAILED = (
    "could not be downloaded", "download from torchvision failed", "non-finite", "not finite",
    "would be zero",
)  # fmt: skip
"""What may be said by a line that fails at work: these lines can't know it before."""
FORCED = {
    "plan": ("*ratios.json", "*sparsity.json"),
    "structured": ("*_structured_pruned*.pth", "*records/structured_[pf]*.json"),
    "unstructured": ("*unstructured_pruned_*.pth", "*records/unstructured.json"),
}
FORCED["run"] = tuple(pattern for patterns in FORCED.values() for pattern in patterns)
"""Files that a line with ``--force`` may replace, by command."""
BASELINE = ("*_finetuned.pth", "records/baseline.json", "history.csv", "*.partial.pth")
"""Files of a baseline, which a tagged line makes if there is none."""
TEMPORARY = "*.????????.partial"
"""Files that a killed process left half written; whoever takes the lock removes them."""


@pytest.fixture(scope="module", autouse=True)
def small_work() -> Iterator[None]:
    """Keep the work of every line small, and the network out of reach."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    with (
        quick.thin(),
        quick.undrawn(),
        quick.brief(),
        quick.digits_once(),
        pytest.MonkeyPatch.context() as patch,
    ):
        once = BenchmarkOptions(cases_of(("folded",), ("fp32",), (1,)), FEWEST_TRIALS)
        patch.setattr("tp_vgg.stages.run.BENCHMARK", once)
        patch.setattr("tp_vgg.stages.run.PROFILE", once)
        patch.setattr("tp_vgg.training.trainer.SAVE_EVERY", 0.0)
        patch.setattr("torchvision.datasets.CIFAR10.download", unreachable)
        patch.setattr("torch.hub.load_state_dict_from_url", unreachable)
        patch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
        patch.setattr(torch, "compile", unreachable)  # it takes half a minute
        yield


@pytest.fixture(scope="module")
def home_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the working directory with a state's run directory, made when first asked for."""
    places = tmp_path_factory.mktemp("states")

    def home_of(name: str) -> Path:
        home, state = places / name.replace(" ", "-"), STATES[name]
        if home.is_dir():
            return home
        if state.parent is None:
            home.mkdir()
            with contextlib.chdir(home):
                lay_inputs()
        else:
            shutil.copytree(home_of(state.parent), home)
        with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
            if state.unfinished:
                patch.setattr(Journal, "remove", lambda _: None)
                patch.setattr(Session, "discard", lambda *_: None)
            for line in state.lines:
                levels = SWEEP if line.startswith("sens") and "--levels" not in line else []
                status, _, err = executed([*line.split(), *levels, *QUICK, *WHERE])
                assert status == 0, f"{line}: {err}"
            state.spoil(home / "o")
        return home

    return home_of


def executed(args: list[str]) -> tuple[int, str, str]:
    quick.settle()
    out, err = io.StringIO(), io.StringIO()
    with in_time(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.execute(args)
    return status, out.getvalue(), err.getvalue()


def tried(line: Line, home: Path) -> tuple[int, str, list[str]]:
    """Run a line in ``home``; return its status, the end of stderr, and what it did wrong."""
    before = contents(home)
    results = finished(home, before)
    try:
        status, out, err = executed(line.args)
    except BaseException as error:  # noqa: BLE001  KeyboardInterrupt and SystemExit too
        raised = "".join(traceback.format_exception(error)[-3:])
        return 70, raised, [raised, *_done_wrong(line, 70, home, before, results)]
    faults = [*_said_wrong(line, status, out, err)]
    faults += _done_wrong(line, status, home, before, results)
    return status, (err.splitlines() or [""])[-1][:300], faults


def _done_wrong(
    line: Line,
    status: int,
    home: Path,
    before: Mapping[str, str],
    results: Mapping[Result, set[str]],
) -> Iterator[str]:
    after = contents(home)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if status == 2 and (wrong := {n for n in changed if not fnmatch.fnmatch(n, TEMPORARY)}):
        yield f"refused, but changed {sorted(wrong)}"
    still = finished(home, after)
    for result in sorted(results.keys() - still.keys(), key=str):
        if not _forced(line, results[result]):
            yield f"lost {result[1]} of {sorted(results[result])}: {str(result[2:])[:150]}"
    output = {str(Path(line.value("--output") or "."))}
    for name in sorted(changed & before.keys()):
        new = output if line.value("--force") else set()
        if run_directory(name) in (None, "plans") and name not in new:
            yield f"changed the user's {name}"
    tag = line.value("--tag")
    if tag is not None and status in (0, 1):
        for name in sorted(changed - output):
            if not _of_tag(line, tag, name, before):
                yield f"a line of tag {tag} changed {name}"


def _said_wrong(line: Line, status: int, out: str, err: str) -> Iterator[str]:
    if not all(char == "\n" or char.isprintable() for char in out + err):
        yield f"printed control characters: {out[-300:]!a} {err[-300:]!a}"
    errors = [text for text in err.splitlines(keepends=True) if text.startswith("error: ")]
    if status == 0:
        if errors or not out.strip():
            yield f"done, with stdout {out[-200:]!a} and stderr {err[-300:]!a}"
        if line.value("--format") == "json" and line.command == "compare":
            json.loads(out)
    elif status in (1, 2):
        if len(errors) != 1 or not err.endswith(errors[0]) or not one_line(errors[0]):
            yield f"status {status} without one line of error at the end: {err[-600:]!a}"
        if status == 2 and out:
            yield f"refused, with stdout {out[:300]!a}"
        if status == 1 and not any(reason in err for reason in WORK_FAILED):
            yield f"failed at work: {err.strip()[-300:]}"
    else:
        yield f"status {status}: {err.strip()[-300:]}"


def _forced(line: Line, files: set[str]) -> bool:
    """Tell whether the line asked to replace the files."""
    if line.value("--force") is None:
        return False
    allowed = [*FORCED.get(line.command, ()), str(Path(line.value("--output") or "."))]
    return all(any(fnmatch.fnmatch(name, pattern) for pattern in allowed) for name in files)


def _of_tag(line: Line, tag: str, name: str, before: Mapping[str, str]) -> bool:
    """Tell whether a line with a tag may change a file."""
    out = line.value("--out")
    pattern = "runs/*" if out is None else str(Path(out))
    if fnmatch.fnmatch(name, f"{pattern}/{tag}/*") or fnmatch.fnmatch(
        name, f"{pattern}/profiles/*"
    ):
        return True
    if fnmatch.fnmatch(name, TEMPORARY) or name.startswith("pictures/.tp_vgg-cache"):
        return True
    if line.command == "export" and name not in before:
        return True  # beside the checkpoint
    had = [n for n in before if fnmatch.fnmatch(n, f"{pattern}/vgg*_finetuned.pth")]
    return not [n for n in had if "structured" not in n] and any(
        fnmatch.fnmatch(name, f"{pattern}/{file}") for file in BASELINE
    )


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=[] if seed < SHORT else pytest.mark.long)
        for seed in range(SHORT + LONG)
    ],
)
def test_no_random_line_ends_in_a_traceback_or_loses_a_result(
    seed: int,
    home_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    rng, state = random.Random(seed), list(STATES)[seed % len(STATES)]
    home = tmp_path / "home"
    shutil.copytree(home_of(state), home)
    monkeypatch.chdir(home)
    told: Counter[str] = Counter()
    wrong, script = [], [f"# seed {seed}, from the state {state!r}"]
    for number in range(1, LINES + 1):
        line = draw(rng, sorted(contents(home)))
        status, said, faults = tried(line, home)
        told[f"{line.command} {status}"] += 1
        script += [str(line), f"# status {status}: {said}"]
        script += [f"# {text}" for fault in faults for text in fault.splitlines()]
        wrong += [f"line {number}: {line}\n    {fault}" for fault in faults]
    for outcome, times in sorted(told.items()):
        record_property(outcome, times)
    path = tmp_path / "commands.sh"
    path.write_text("\n".join([*script, ""]))
    assert not wrong, "\n".join([f"{len(wrong)} faults:", *wrong, f"{path}:", *script])
