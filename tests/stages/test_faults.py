"""Kills and failing disks at seeded moments of real commands.

No file is truncated, or loads with wrong contents, and a rerun ends with the same results.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import QUICK
from helpers.faults import Server, lose_unsynced

from tp_vgg.network.checkpoint import load

COMMANDS: dict[str, list[str]] = {
    "train": ["train", "--dataset", "digits", "--head", "linear", "--limit-train", "32",
              "--limit-val", "20", "--limit-test", "20", "--epochs", "1", "--batch-size", "16"],
    "sensitivity": ["sensitivity", "SMALL", "--kind", "structured", "--levels", "0.25,0.5"],
    "structured": ["structured", "SMALL", "--ratio", "0.5", "--finetune-epochs", "2",
                   "--steps", "2", "--show", "features.0"],
    "run": ["run", "SMALL", "--finetune-epochs", "1", "--round-to", "1"],
}  # fmt: skip
KILLS = {"train": 14, "sensitivity": 14, "structured": 10, "run": 2}
"""Kills in the slow run (40 in all); a quarter in the default one, five times in the long one."""
CASES = [
    # ``run`` takes as long as the others together.
    *((command, 0.25) for command in COMMANDS if command != "run"),
    *(pytest.param(command, 1, marks=pytest.mark.slow) for command in COMMANDS),
    *(pytest.param(command, 5, marks=pytest.mark.long) for command in COMMANDS),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("told") / "told.json")
    yield server
    server.close()


@pytest.fixture
def args(request: pytest.FixtureRequest, small: list) -> list[Any]:
    start = small[small.index("--checkpoint") :]
    mine = ["--dataset", "digits", *QUICK[4:], *start]
    words = COMMANDS[request.param]
    return [part for word in words for part in (mine if word == "SMALL" else [word])] + [
        "-q",
        "--out",
        "o",
    ]


def settled(directory: Path) -> dict[str, Any]:
    """The files that a command leaves, without times and peaks of memory.

    All are complete, and no partial file is left.
    """
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_dir() or path.name == ".lock":
            continue
        if path.suffix == ".pth":
            found[name] = (
                True
                if "sensitivity" in name
                else {k: v.tolist() for k, v in load(path).state_dict().items()}
            )
        elif path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.name.endswith("history.csv"):
            found[name] = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes() if path.suffix == ".csv" else path.stat().st_size > 0
    return found


def _timeless(data: Any) -> Any:
    if isinstance(data, list):
        return [_timeless(value) for value in data]
    if not isinstance(data, dict):
        return data
    left_out = {
        "peak_bytes", "latency", "rows", "conditions", "environment", "command", "sha256",
        "baseline", "key", "weights", "bytes", "fingerprint",
    }  # fmt: skip
    return {name: _timeless(value) for name, value in data.items() if name not in left_out}


def untimed(out: str) -> list[str]:
    """The lines of ``run``'s table of models, without the last column: a speed-up."""
    table = out.partition("\n\n")[0].splitlines()
    return [line[: table[1].rindex(" ")] for line in table]


def _sound(directory: Path) -> None:
    """Check that each file with a final name is complete and valid."""
    for path in directory.rglob("*"):
        if path.is_file() and ".partial" not in path.name:
            if path.suffix == ".pth" and "sensitivity" not in path.name:
                load(path)
            elif path.suffix == ".json":
                assert isinstance(json.loads(path.read_text()), dict)
            elif path.suffix == ".png":
                assert path.read_bytes()[-8:-4] == b"IEND"


@pytest.mark.parametrize(("args", "times"), CASES, indirect=["args"])
def test_a_kill_costs_at_most_the_step_in_hand(
    times: float,
    args: list[Any],
    server: Server,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Any,
) -> None:
    kills = math.ceil(times * KILLS[request.node.callspec.params["args"]])
    record_property("cases", kills)
    straight = tmp_path / "straight"
    straight.mkdir()
    done = server(args, straight)
    assert done["status"] == 0, done["err"]
    expected = settled(straight / "o")
    assert not [name for name in expected if "partial" in name]
    rng = np.random.default_rng(int(times))
    for kill, at in enumerate(
        sorted(rng.choice(np.arange(1, done["points"] + 1), kills, replace=False))
    ):
        home = tmp_path / str(kill)
        home.mkdir()
        killed = server(args, home, {"kind": "kill", "at": int(at)})
        assert killed["status"] == -9, killed
        if kill % 2:
            lose_unsynced(home / "o", killed["synced"], rng)
        _sound(home / "o")
        again = server(args, home)
        assert again["status"] == 0, (at, again["err"])
        assert settled(home / "o") == expected, at
        assert untimed(again["out"]) == untimed(done["out"]), at
        shutil.rmtree(home)


def held(directory: Path) -> set[bytes]:
    """What the finished checkpoints, tables and records in a directory hold, wherever they lie."""
    return {
        path.read_bytes()
        for path in directory.rglob("*")
        if path.suffix in (".pth", ".csv", ".json") and ".partial." not in path.name
    }


@pytest.mark.parametrize("args", ["structured"], indirect=True)
@pytest.mark.parametrize("times", [0.25, *(pytest.param(n, marks=pytest.mark.slow) for n in (1,))])
def test_a_kill_while_former_models_give_way_loses_neither(
    times: float, args: list[Any], server: Server, tmp_path: Path, record_property: Any
) -> None:
    """At any moment the former set is whole, in its place or in ``replaced/``."""
    kills = math.ceil(times * KILLS["structured"])
    record_property("cases", kills)
    first, straight = tmp_path / "first", tmp_path / "straight"
    first.mkdir()
    former_args = [*args, "--finetune-epochs", "2", "--seed", "1"]
    assert server(former_args, first)["status"] == 0
    former = held(first / "o")
    shutil.copytree(first, straight)
    done = server(args, straight)
    assert done["status"] == 0, done["err"]
    expected = settled(straight / "o")
    assert len(list((straight / "o/replaced").iterdir())) == 1
    assert former <= held(straight / "o")
    rng = np.random.default_rng(int(times))
    # The models get their names at the end.
    moments = [*range(done["points"] - 30, done["points"] - 30 + kills // 2)]
    moments += rng.choice(np.arange(1, done["points"] + 1), kills - len(moments)).tolist()
    for at in moments:
        home = tmp_path / str(at)
        shutil.copytree(first, home, dirs_exist_ok=True)
        killed = server(args, home, {"kind": "kill", "at": int(at)})
        assert killed["status"] == -9, killed
        _sound(home / "o")
        assert former <= held(home / "o"), at
        again = server(args, home)
        assert again["status"] == 0, (at, again["err"])
        assert former <= held(home / "o"), at
        assert settled(home / "o") == expected, at
        shutil.rmtree(home)


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "EROFS", "limit"])
@pytest.mark.parametrize(
    "args", ["sensitivity", pytest.param("structured", marks=pytest.mark.long)], indirect=True
)
def test_a_disk_that_fails_is_one_line_and_a_rerun_completes(
    kind: str, args: list[Any], server: Server, tmp_path: Path, record_property: Any
) -> None:
    """``limit`` is a largest file size, which the system enforces (RLIMIT_FSIZE)."""
    straight, home = tmp_path / "straight", tmp_path / "home"
    straight.mkdir()
    home.mkdir()
    done = server(args, straight)
    expected = settled(straight / "o")
    sizes = sorted(path.stat().st_size for path in (straight / "o").rglob("*") if path.is_file())
    moments = (1, done["points"] // 3, done["points"] // 2, done["points"] - 3)
    places = (4096, 20_000, sizes[-1] // 2, sizes[-1] - 1) if kind == "limit" else moments
    record_property("cases", len(places))
    failures = 0
    for at in places:
        failed = server(args, home, {"kind": kind, "at": at})
        if failed["status"] != 0:  # a failed removal may be harmless
            failures += 1
            assert failed["status"] == 1, failed
            assert failed["err"].count("\n") == 1 and failed["err"].startswith("error: "), failed[
                "err"
            ]
        _sound(home / "o")
    assert failures
    again = server(args, home)
    assert again["status"] == 0, again["err"]
    assert settled(home / "o") == expected
