"""A round keeps these from its run directories: records, small files, and the dense model.

This module does not import torch.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MIB = 1 << 20
PIECE = 15 * MIB
"""Bytes of each piece of the dense model."""
SMALL = 2 * MIB
"""Files of this many bytes or more are left out of the archive."""
MOST = 13 * MIB
"""No further file is added to the archive once it has more bytes than this."""
SUFFIXES = (".json", ".jsonl", ".csv", ".png", ".txt")
"""Kinds of files that go into the archive."""


def cut(path: Path, out: Path) -> None:
    """Copy a checkpoint to ``out`` in pieces, if it exists.

    `cat dense.pth.* > dense.pth` joins them again.
    """
    raw = path.read_bytes() if path.is_file() else b""
    for number, place in enumerate(range(0, len(raw), PIECE)):
        (out / f"dense.pth.{number}").write_bytes(raw[place : place + PIECE])


def pack(work: Path, out: Path) -> None:
    """Write files.tar.gz to ``out``: records, tables, figures and logs, the smallest first.

    The previous archive stays until this one is complete.
    """
    candidates = [
        p for pattern in ("runs/**/*", "latency-*.json", "logs/*.txt") for p in work.glob(pattern)
    ]
    sizes: dict[Path, int] = {}
    for path in candidates:
        with contextlib.suppress(OSError):  # a step may remove its file at any time
            if path.suffix in SUFFIXES and path.is_file():
                sizes[path] = path.stat().st_size
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(
            (p for p, size in sizes.items() if size < SMALL), key=lambda p: sizes[p]
        ):
            if buffer.tell() > MOST:
                break
            with contextlib.suppress(OSError):
                archive.add(path, str(path.relative_to(work)))
    partial = out / "files.tar.gz.partial"
    partial.write_bytes(buffer.getvalue())
    partial.replace(out / "files.tar.gz")


def read_runs(run_dir: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (kind of result, its data) for all models, controls and histories of a run directory.

    The kind is ``run`` or ``history``. Seconds are per epoch in a history, and in total in a run.
    """
    for path in sorted(run_dir.glob("records/*.json")):
        data = _read(path)
        if "test" in data:
            names = ("val", "test", "macs", "nonzero", "params", "peak_bytes", "command")
            yield "run", {"model": path.stem, **{name: data.get(name) for name in names}}
    for path in sorted(run_dir.glob("controls/*.json")):
        data = _read(path)
        if "arm" in data:
            names = ("arm", "seed", "recipe", "macs", "params", "widths", "one_shot", "test")
            history = data["history"]
            seconds = sum(epoch["seconds"] for epoch in history)
            yield (
                "run",
                {
                    **{name: data.get(name) for name in names},
                    "epochs": len(history),
                    "seconds": seconds,
                },
            )
    for path in sorted(run_dir.glob("*history.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        seconds = [float(row["seconds"]) for row in rows]
        yield (
            "history",
            {"file": path.name, "epochs": len(rows), "seconds": seconds, "last": rows[-1:]},
        )


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is damaged, as after an interrupted round."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
