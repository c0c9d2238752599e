"""Seeded changes of the JSON, CSV and journal files of a run directory.

They range from truncated lines to impossible counts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from helpers.mutations import NASTY

EVIL = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</script><b>", "\x1b[31m",
    "\x1b]0;title\x07", "\x9b31m", "a\nerror: b", "a\rb", "../../x", "/etc/passwd", "a/b", "a\\b",
    "$\\frac{", "%s{0}", "x" * 100_000, "\ud800", "\u202ereversed", "\x00", "features.0",
    "classifier", "--out", "; rm -rf x", "`x`", "é\u200b", "|",
]  # fmt: skip
"""Texts that replace others."""
_HUGE = "@huge@"
_VALUES: list[Any] = [
    *(_HUGE if value == 10**5000 else value for value in NASTY),
    10**400,
    -(10**15),
    1e308,
    5e-324,
    -1e308,
]
_RAW = [
    "", "[]", "null", '"x"', "1", "{", "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "\ufeff{}",
    '{"a": 1e999}', '{"a": NaN}', "{}", "\x00", '{"a": 1, "a": 2}',
]  # fmt: skip


def mutate(seed: int, name: str, content: bytes) -> tuple[str, bytes]:
    """Return (kind of change, file content) for a seed; the suffix of ``name`` is the format."""
    rng = random.Random(seed)
    of_json = ["values"] * 3 + ["texts", "fields", "counts", "nested"]
    kind = rng.choice(["torn", *(of_json if name.endswith(".json") else ["lines"] * 3)])
    return kind, _KINDS[kind](rng, content)


def _torn(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) or 1)
    return rng.choice([
        content[:place], content[:place] + b"\xff\xfe" + content[place:],
        content[:place] + rng.randbytes(8) + content[place + 8 :], content * 2, content + b"}",
        content[:place] + b"\x00" + content[place:], content.decode().encode("utf-16"),
        rng.choice(_RAW).encode(),
    ])  # fmt: skip


def _lines(rng: random.Random, content: bytes) -> bytes:
    """Replace fields, or drop, duplicate or exchange lines, of a CSV or a journal."""
    lines = content.decode().splitlines()
    for _ in range(rng.choice((1, 1, 3))):
        place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        change = rng.randrange(4)
        if change == 0 and lines[place].startswith("{"):
            lines[place] = _dumped(
                _changed(rng, json.loads(lines[place]), rng.choice([*_VALUES, *EVIL]))
            )
        elif change <= 1:
            fields = lines[place].split(",")
            wrong = ["nan", "inf", "-1", "1e999", "1" * 5000, '"', "", "\x00", "١", *EVIL]
            value = rng.choice(wrong)
            fields[rng.randrange(len(fields))] = value
            lines[place] = ",".join(fields)
        elif change == 2:
            lines[place], lines[other] = lines[other], lines[place]
        else:
            lines[place : place + 1] = rng.choice([[], lines[place : place + 1] * 2])
        lines = lines or [""]
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def _values(rng: random.Random, content: bytes) -> bytes:
    data = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 3))):
        data = _changed(rng, data, rng.choice(_VALUES))
    return _dumped(data).encode()


def _texts(rng: random.Random, content: bytes) -> bytes:
    """Replace a text or the name of a field."""
    data, evil = json.loads(content), rng.choice(EVIL)
    where = [(holder, key) for holder, key in _places(data) if isinstance(holder[key], str)]
    named = [(holder, key) for holder, key in _places(data) if isinstance(holder, dict)]
    if where and rng.random() < 0.7:
        holder, key = rng.choice(where)
        holder[key] = evil
    elif named:
        holder, key = rng.choice(named)
        holder[evil] = holder.pop(key)
    return _dumped(data).encode()


def _fields(rng: random.Random, content: bytes) -> bytes:
    """Remove, add, duplicate or exchange a field."""
    data = json.loads(content)
    places = _places(data)
    (holder, key), (other, there) = rng.choice(places), rng.choice(places)
    change = rng.randrange(4)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice(["extra", *EVIL])] = rng.choice([*_VALUES, *EVIL])
    elif change == 2 and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice((1, 50)))
    else:
        holder[key], other[there] = json.loads(json.dumps([other[there], holder[key]]))
    return _dumped(data).encode()


def _counts(rng: random.Random, content: bytes) -> bytes:
    """Make counts contradict each other; the values derived from them agree with the new counts."""
    data = json.loads(content)
    values = [holder[key] for holder, key in _places(data)]
    counted = [one for one in values if isinstance(one, dict) and {"correct", "n"} <= set(one)]
    if not counted:
        return _values(rng, content)
    for found in counted if rng.random() < 0.3 else [rng.choice(counted)]:
        n = found["n"] or 1
        found["correct"], found["n"] = rng.choice([
            (n + 1, n), (-1, n), (0, 0), (n, 1), (0, -n), (n, 10**12), (10**15, 10**15), (0.5, n),
            (True, n), (n, n), (0, n),
        ])  # fmt: skip
        if found["n"]:
            found["accuracy"] = found["low"] = found["high"] = 100 * found["correct"] / found["n"]
        if "drop" in found and "baseline" in data and isinstance(data["baseline"], dict):
            lost = data["baseline"].get("correct", 0) - found["correct"]
            drop = 100 * lost / (found["n"] or 1)
            found["drop"] = found["drop_low"] = found["drop_high"] = drop
    return _dumped(data).encode()


def _nested(rng: random.Random, content: bytes) -> bytes:
    data, depth = json.loads(content), rng.choice((30, 500, 900))
    inner: Any = rng.choice(_VALUES)
    for _ in range(depth):
        inner = rng.choice([[inner], {"a": inner}])
    return _dumped(_changed(rng, data, inner)).encode()


def _changed(rng: random.Random, data: Any, value: Any) -> Any:
    """Put ``value`` in the place of a leaf, or now and then of a whole object or list."""
    places = _places(data)
    leaves = [(holder, key) for holder, key in places if not isinstance(holder[key], dict | list)]
    if not places:
        return value
    holder, key = rng.choice(leaves if leaves and rng.random() < 0.7 else places)
    holder[key] = json.loads(json.dumps(value))
    return data


def _places(data: Any) -> list[tuple[Any, Any]]:
    """List (holder, key or index) of everything below ``data``."""
    found, todo = [], [data]
    while todo:
        holder = todo.pop()
        keys = (
            list(holder)
            if isinstance(holder, dict)
            else range(len(holder))
            if isinstance(holder, list)
            else ()
        )
        for key in keys:
            found.append((holder, key))
            todo.append(holder[key])
    return found


def _dumped(data: Any) -> str:
    return json.dumps(data).replace(f'"{_HUGE}"', "1" * 5000)


_KINDS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "torn": _torn, "lines": _lines, "values": _values, "texts": _texts, "fields": _fields,
    "counts": _counts, "nested": _nested,
}  # fmt: skip
