"""The finished results in run directories, recognised by content wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

Result = tuple[Hashable, ...]
PLAN_NAMES = ("ratios.json", "sparsity.json")


def contents(home: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below ``home`` but locks, by relative path."""
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def finished(home: Path, hashes: dict[str, str]) -> dict[Result, set[str]]:
    """Return the finished results below ``home`` and the files that each lies in.

    ``hashes``: the files, by :func:`contents`. A result's first field is its run directory, then
    comes its kind. It is

    * ``checkpoint``: a model, by its bytes;
    * ``model``: a record of a model that is there, by the model's bytes and the key;
    * ``sweep``: by its key;
    * ``plan``: by its bytes, a user's own too;
    * ``latency``: a timed case, by the bytes of all models and the case.

    Not counted: unfinished work, and what another file holds too (reports, tables, figures).
    """
    results: defaultdict[Result, set[str]] = defaultdict(set)
    models = {digest for name, digest in hashes.items() if name.endswith(".pth")}
    for name, digest in hashes.items():
        path, root = Path(name), run_directory(name)
        if root is None or ".partial" in path.name:
            continue
        if path.suffix == ".pth" and not path.stem.endswith("_sensitivity_results"):
            results[root, "checkpoint", digest].add(name)
        elif path.name in PLAN_NAMES:
            results[root, "plan", digest].add(name)
        elif path.name == "latency.json":
            for identity in _timed(_json(home / name)):
                results[root, "latency", *identity].add(name)
        elif path.parent.name == "records" and path.suffix == ".json":
            record = _json(home / name)
            if "points" in record and "key" in record:
                results[root, "sweep", str(record["key"])].add(name)
            elif record.get("sha256") in models:
                results[root, "model", record["sha256"], str(record.get("key"))].add(name)
    return dict(results)


def run_directory(name: str) -> str | None:
    """Return the run directory of a file: its first directory, or that in ``runs``.

    ``None`` for files that lie in none.
    """
    parts = Path(name).parts
    depth = 2 if parts[0] == "runs" else 1
    return "/".join(parts[:depth]) if len(parts) > depth else None


def _timed(latency: dict[str, Any]) -> list[Result]:
    try:
        digests = frozenset(str(facts["sha256"]) for facts in latency["models"].values())
        return [
            (digests, row["mode"], row["dtype"], row["batch_size"])
            for row in latency["rows"]
            if row["median_ms"] is not None
        ]
    except (AttributeError, KeyError, TypeError):
        return []


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if it is damaged."""
    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
