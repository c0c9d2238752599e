"""What a round takes home from its run directories: records, small files, the dense model in pieces (no torch)."""

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
SMALL = 2 * MIB
"""Larger files are left behind."""
MOST = 13 * MIB
"""Bytes of the archive of small files."""
SUFFIXES = (".json", ".jsonl", ".csv", ".png", ".txt")


def cut(path: Path, out: Path) -> None:
    """Copy a checkpoint in pieces; `cat dense.pth.* > dense.pth` makes it whole again."""
    raw = path.read_bytes() if path.is_file() else b""
    for number, place in enumerate(range(0, len(raw), PIECE)):
        (out / f"dense.pth.{number}").write_bytes(raw[place : place + PIECE])


def pack(work: Path, out: Path) -> None:
    """Write files.tar.gz: records, tables, figures and logs, the smallest first.

    The archive before stays until this one is whole.
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
    """(kind of result, its data) of every trained model, control and history of a run directory."""
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
    """A JSON object; an empty one for a file that is none, as a cut may leave it."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
