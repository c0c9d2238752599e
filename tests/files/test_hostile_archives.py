"""Files from others are refused in one line or loaded intact; no code in them runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.mutations import Bases, mutate
from helpers.networks import SMALL

from tp_vgg.errors import BadInput
from tp_vgg.network.checkpoint import load, save

QUICK, LONG = 500, 10_000
"""Number of files in the default run and in the long one."""
ROOM = 512 << 20
"""Bytes of address space that a load may add to the process; the files are under 1 MB."""
PATIENCE = 30
"""Seconds that a load may take."""


@pytest.mark.parametrize("count", [QUICK, pytest.param(LONG, marks=pytest.mark.long)])
def test_mutated_files_are_refused_in_one_line_or_whole(
    count: int, make_model, tmp_path: Path, record_property
) -> None:
    bases = Bases.of(make_model(SMALL), tmp_path)
    torch.set_num_threads(1)  # a thread pool would not survive the fork
    workers = min(os.cpu_count() or 1, 8)
    context = multiprocessing.get_context("fork")
    logs = [tmp_path / f"{place}.log" for place in range(workers)]
    started = [
        context.Process(
            target=_work, args=(range(place, count, workers), bases, tmp_path / str(place), log)
        )
        for place, log in enumerate(logs)
    ]
    for worker in started:
        worker.start()
    for worker in started:
        worker.join()
    told = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert [worker.exitcode for worker in started] == [0] * workers, (
        f"died after {[log.read_text()[-80:] for log in logs]}"
    )
    assert len(told) == count
    wrong = [line for line in told if line["outcome"] not in ("refused", "whole")]
    assert not wrong, f"{len(wrong)} of {count}: {wrong[:5]}"
    assert not bases.canary.exists()
    record_property("cases", count)
    found = Counter((line["kind"], line["outcome"]) for line in told)
    for (kind, outcome), times in sorted(found.items()):
        record_property(f"{kind} {outcome}", times)
    assert {kind for kind, outcome in found if outcome == "refused"} == {
        kind for kind, _ in found
    }, "each kind is refused at times"


def _work(seeds: range, bases: Bases, directory: Path, log: Path) -> None:
    directory.mkdir()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    with log.open("w") as lines:
        for seed in seeds:
            kind, suffix, content = mutate(seed, bases)
            signal.alarm(PATIENCE)
            outcome = _outcome(directory / f"case{suffix}", content, kind, bases)
            signal.alarm(0)
            lines.write(json.dumps({"seed": seed, "kind": kind, "outcome": outcome}) + "\n")
            lines.flush()


def _outcome(path: Path, content: bytes, kind: str, bases: Bases) -> str:
    path.write_bytes(content)
    try:
        model = load(path)
    except BadInput as refusal:
        line = str(refusal)
        good = (
            line.isprintable()
            and line.isascii()
            and str(path) in line
            and len(line) < len(str(path)) + 300
        )
        return "refused" if good else f"said: {line[:500]!r}"
    except BaseException as error:  # noqa: BLE001
        return f"raised: {error!r:.300}"
    finally:
        left = os.listdir(path.parent)
        path.unlink()
    if left != [path.name]:
        return f"left: {left}"
    return _whole(model, kind, path.suffixes, bases)


def _whole(model: Any, kind: str, suffixes: list[str], bases: Bases) -> str:
    """Judge a loaded model; if only bytes were changed, it must be the saved network."""
    with torch.inference_mode():
        if model(torch.zeros(1, 3, model.spec.image_size, model.spec.image_size)).shape != (
            1,
            model.spec.num_classes,
        ):
            return "no network"
    # Legacy files have no checksums.
    checked = suffixes != [".legacy", ".pth"]
    if kind in ("flips", "cut", "headers", "archive") and checked:
        saved = bases.checkpoint["state_dict"]
        same = all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
        # Exchanged tensors with new checksums make another valid model.
        if kind == "archive" and not same:
            same = sorted(map(_raw, model.state_dict().values())) == sorted(
                map(_raw, saved.values())
            )
        return (
            "whole"
            if same and model.spec.to_dict() == bases.checkpoint["spec"]
            else "other weights"
        )
    return "whole"


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


def test_a_tensor_marked_as_a_directory_is_refused(make_model, tmp_path: Path) -> None:
    """torch would leave its memory uninitialised, although all checksums are right."""
    path = tmp_path / "marked.pth"
    save(make_model(SMALL), path)
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0x10 if name.endswith("/data/3") else 0
            archive.writestr(info, content)
    with pytest.raises(
        BadInput, match=r"marked\.pth: .*data/3' is not one that torch\.save writes"
    ):
        load(path)
