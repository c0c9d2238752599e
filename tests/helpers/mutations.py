"""Seeded changes of valid checkpoints, as accidents or attackers make them."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tp_vgg.network.checkpoint import save, to_dict
from tp_vgg.network.vgg.model import VGG

NASTY = [
    0, 1, -1, 2, 3, 7, 255, 65535, 65536, 10**12, 2**31 - 1, 2**31, 2**63, 2**64, -(2**40), True,
    False, None, 0.5, float("nan"), float("inf"), -0.0, "", "x", "1", "\x1b[31m", "<script>",
    "../x", "a\nb", [], [1], [True] * 8, [10**12] * 8, {}, {"a": 1}, [[]], [None], 10**5000,
]  # fmt: skip
"""Values that replace others."""
GLOBALS = [
    "os system", "posix system", "builtins eval", "builtins exec", "builtins getattr",
    "builtins bytearray", "__builtin__ apply", "nt system", "subprocess Popen", "torch.hub load",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_meta_tensor_no_storage", "torch._tensor _rebuild_from_type_v2",
    "torch Size", "torch device", "torch Tensor", "torch ByteStorage", "torch DoubleStorage",
    "torch ComplexFloatStorage", "torch QInt8Storage", "torch UntypedStorage",
    "collections Counter", "collections OrderedDict", "tp_vgg.network.vgg.model VGG",
    "functools partial", "_codecs encode", "torch.serialization load",
    "torch.nn.parameter Parameter", "numpy.core.multiarray _reconstruct",
]  # fmt: skip


@dataclass(frozen=True)
class Bases:
    """Valid files by suffix, and the checkpoint that they were made of."""

    raw: dict[str, bytes]
    checkpoint: dict[str, Any]
    canary: Path
    """A file that any payload creates if it runs."""

    @classmethod
    def of(cls, model: VGG, directory: Path) -> Bases:
        made = {}
        for suffix in (".pth", ".safetensors", ".sparse"):
            save(model, directory / f"base{suffix}")
            made[suffix] = (directory / f"base{suffix}").read_bytes()
        legacy = io.BytesIO()
        torch.save(model.state_dict(), legacy, _use_new_zipfile_serialization=False)
        made[".legacy.pth"] = legacy.getvalue()
        other = io.BytesIO()
        torch.save(model.state_dict(), other, pickle_protocol=4)
        made[".protocol4.pth"] = other.getvalue()
        return cls(made, to_dict(model), directory / "canary")


def mutate(seed: int, bases: Bases) -> tuple[str, str, bytes]:
    """Return (kind of change, suffix, file content) for a seed."""
    rng = random.Random(seed)
    kind = rng.choice(list(_KINDS))
    suffix, content = _KINDS[kind](rng, bases)
    return kind, suffix, content


def _any(rng: random.Random, bases: Bases) -> tuple[str, bytearray]:
    suffix = rng.choice(list(bases.raw))
    return suffix, bytearray(bases.raw[suffix])


def _flips(rng: random.Random, bases: Bases) -> tuple[str, bytes]:
    suffix, raw = _any(rng, bases)
    # Half of the flips are in the headers or at the end of the archive.
    where = len(raw) if rng.random() < 0.5 else min(4096, len(raw))
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = rng.randrange(where)
        raw[place if rng.random() < 0.5 else -1 - place] ^= 1 << rng.randrange(8)
    return suffix, bytes(raw)


def _cut(rng: random.Random, bases: Bases) -> tuple[str, bytes]:
    suffix, raw = _any(rng, bases)
    place, length = rng.randrange(len(raw)), rng.choice((1, 8, 64, 4096))
    junk = rng.randbytes(length) if rng.random() < 0.5 else bytes(length)
    change = rng.randrange(5)
    if change == 0:
        return suffix, bytes(raw[:place])
    if change == 1:
        return suffix, bytes(raw[:place] + raw[place + length :])
    if change == 2:
        return suffix, bytes(raw[:place] + junk + raw[place:])
    if change == 3:
        return suffix, bytes(raw + junk) if rng.random() < 0.5 else junk + bytes(raw)
    return suffix, bytes(raw[:place] + junk + raw[place + length :])


def _members(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    # zipfile warns of duplicate names.
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(file, "w", compression) as archive,
    ):
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def _archive(rng: random.Random, bases: Bases) -> tuple[str, bytes]:
    """Rename, duplicate, drop, exchange or compress members, or add a zip bomb."""
    members = list(_members(bases.raw[".pth"]).items())
    place, other = rng.randrange(len(members)), rng.randrange(len(members))
    name, content = members[place]
    change = rng.randrange(8)
    if change == 0:
        members[place] = (
            rng.choice(
                [
                    "../../canary",
                    "/canary",
                    "a/../../x",
                    "base/..",
                    "x",
                    "base/data/999",
                    "con\n",
                    name + "/",
                    name * 50,
                ]
            ),
            content,
        )
    elif change == 1:
        members.append((name, rng.choice([content, members[other][1], b""])))
    elif change == 2:
        del members[place]
    elif change == 3:
        members[place], members[other] = (name, members[other][1]), (members[other][0], content)
    elif change == 4:
        return ".pth", _zipped(members, zipfile.ZIP_DEFLATED)
    elif change == 5:
        members[place] = (name, bytes(64 << 20))
        return ".pth", _zipped(members, zipfile.ZIP_DEFLATED)
    elif change == 6:
        other_text = content[: rng.randrange(len(content) + 1)] + rng.randbytes(
            rng.choice((0, 4, 4096))
        )
        # Of equal length it would be another valid model.
        members[place] = (name, other_text + bytes(len(other_text) == len(content)))
    else:
        members += [(f"{name.split('/')[0]}/data/{i}", b"") for i in range(1000, 3000)]
    return ".pth", _zipped(members)


def _headers(rng: random.Random, bases: Bases) -> tuple[str, bytes]:
    """Change fields of the archive's headers: sizes, offsets, flags, counts."""
    raw = bytearray(bases.raw[".pth"])
    mark = rng.choice([b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04", b"PK\x06\x06", b"PK\x06\x07"])
    places = [i for i in range(len(raw) - 46) if raw[i : i + 4] == mark] or [len(raw) - 22]
    place = rng.choice(places) + rng.randrange(4, 46)
    value = rng.choice([0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, rng.randrange(1 << 32)])
    raw[place : place + 4] = struct.pack("<I", value)
    return ".pth", bytes(raw)


def _opcodes(rng: random.Random, bases: Bases) -> tuple[str, bytes]:
    """Change opcodes of the pickle: numbers, names, payloads; or save the bare pickle.

    The checksums of the archive are right.
    """
    members = _members(bases.raw[".pth"])
    (name,) = (name for name in members if name.endswith("/data.pkl"))
    members[name] = _forged(rng, members[name], bases.canary)
    if rng.random() < 0.2:
        return ".pth", members[name]
    return ".pth", _zipped(list(members.items()))


def _legacy(rng: random.Random, bases: Bases) -> tuple[str, bytes]:
    """The same for one of the five pickles of a legacy file."""
    raw = bases.raw[".legacy.pth"]
    file = io.BytesIO(raw)
    ends = [0]
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        ends.append(file.tell())
    which = rng.randrange(5)
    forged = _forged(rng, raw[ends[which] : ends[which + 1]], bases.canary)
    return ".pth", raw[: ends[which]] + forged + raw[ends[which + 1] :]


def _forged(rng: random.Random, text: bytes, canary: Path) -> bytes:
    codes = list(pickletools.genops(text))
    starts = [place for _, _, place in codes] + [len(text)]
    parts = [text[starts[i] : starts[i + 1]] for i in range(len(codes))]  # type: ignore[misc]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(parts))
        change = rng.randrange(7)
        numbers = [
            i for i, (code, _, _) in enumerate(codes) if code.name.startswith(("BININT", "LONG1"))
        ]
        names = [i for i, (code, _, _) in enumerate(codes) if code.name == "GLOBAL"]
        if change <= 1 and numbers:
            parts[rng.choice(numbers)] = _number(
                rng.choice(
                    [0, 1, 2, 3, 255, 2**31 - 1, -1, 2**40, 2**62, 2**70, rng.randrange(10**6)]
                )
            )
        elif change == 2 and names:
            parts[rng.choice(names)] = (
                b"c" + rng.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"
            )
        elif change == 3:
            parts[place] = b""
        elif change == 4:
            parts[place] *= 2
        elif change == 5:
            parts[place] = rng.choice(_payloads(canary)) + parts[place]
        else:
            other = rng.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
    return b"".join(parts)


def _number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _payloads(canary: Path) -> list[bytes]:
    """Opcodes that create the canary if they run, ask for much memory, or are malformed."""
    shell = b"cposix\nsystem\n" + _text(f"touch {canary}") + b"\x85R0"
    python = b"c__builtin__\neval\n" + _text(f"open({str(canary)!r}, 'w')") + b"\x85R0"
    return [
        shell, python, b"(S'touch " + str(canary).encode() + b"'\niposix\nsystem\n0",
        b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R0",
        b"N" + b"r\xff\xff\xff\x7f" + b"0", b"X\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f",
        b"(" * 20000, b"]" * 20000 + b"a" * 19999 + b"0", b"N0" * 1000, b"\x80\x05", b"\x93",
        b"\x82\x01", b"Pabc\n", b"Nb", b"}(X\x06\x00\x00\x00__dictU\x01xub", b"\x81",
    ]  # fmt: skip


def _fields(rng: random.Random, bases: Bases) -> tuple[str, bytes]:
    """Change fields of the spec, the metadata, the kept channels, or tensors."""
    checkpoint = {**bases.checkpoint, "state_dict": dict(bases.checkpoint["state_dict"])}
    for part in ("spec", "meta", "kept"):
        checkpoint[part] = json.loads(json.dumps(checkpoint[part]))
    for _ in range(rng.choice((1, 1, 2))):
        part = rng.choice(
            ["spec", "spec", "meta", "kept", "state_dict", "state_dict", "state_dict", ""]
        )
        target = checkpoint.get(part) if part else checkpoint
        if not isinstance(target, dict):
            continue
        key = rng.choice([*target, "extra", "<b>", 5, None])
        if part == "state_dict" and isinstance(target.get(key), torch.Tensor):
            target[key] = rng.choice(_TENSORS)(target[key])
        elif isinstance(target.get(key), list) and target[key] and rng.random() < 0.6:
            target[key][rng.randrange(len(target[key]))] = rng.choice(NASTY)
        elif rng.random() < 0.2:
            target.pop(key, None)
        else:
            target[key] = rng.choice(NASTY)
    file = io.BytesIO()
    torch.save(checkpoint, file, _use_new_zipfile_serialization=rng.random() < 0.8)
    return ".pth", file.getvalue()


_TENSORS: list[Callable[[torch.Tensor], object]] = [
    lambda t: t.double(), lambda t: t.to(torch.int32), lambda t: t.to(torch.complex64),
    lambda t: t.bool(), lambda t: t.half(), lambda t: t.flatten()[:-1], lambda t: t.unsqueeze(0),
    lambda t: t.flatten(), lambda t: t.t() if t.ndim == 2 else t.flip(0),
    lambda t: torch.full_like(t.float(), float("nan")), lambda t: t.float() + float("inf"),
    lambda t: -t, lambda t: t.flatten()[:1].expand(t.numel()).view(t.shape),
    lambda t: t.flatten()[:1].expand(10**9), lambda t: t.to("meta"),
    lambda t: t.float().flatten().to_sparse(), lambda t: t.flatten()[0], lambda t: t.flatten()[:0],
    lambda t: torch.as_strided(t.flatten().contiguous(), t.shape, [0] * t.ndim),
    lambda t: t.float().numpy(), lambda t: t.tolist(), lambda t: torch.nn.Parameter(t.float()),
    lambda t: str(t.shape),
]  # fmt: skip


def _safetensors(rng: random.Random, bases: Bases) -> tuple[str, bytes]:
    """Change the header of a safetensors file: offsets, shapes, dtypes, lengths, metadata."""
    suffix = rng.choice([".safetensors", ".sparse"])
    raw = bases.raw[suffix]
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(header))
        entry = header[name]
        if name == "__metadata__" or (rng.random() < 0.4 and "__metadata__" in header):
            texts = header["__metadata__"]
            key = rng.choice(list(texts) or ["format"])
            texts[key] = rng.choice(
                [
                    json.dumps(rng.choice(NASTY[:20]), allow_nan=True),
                    "[" * 50000,
                    "{",
                    texts.get(key, "")[:-1],
                    "1" * 9000,
                    texts.get(key, "").replace("8", "800"),
                ]
            )
            continue
        change = rng.randrange(5)
        if change == 0:
            entry["data_offsets"] = [
                rng.choice([0, 4, entry["data_offsets"][0], 10**15, 2**63]),
                rng.choice([0, 8, entry["data_offsets"][1], 10**15, 2**64 - 1]),
            ]
        elif change == 1:
            entry["shape"] = rng.choice(
                [[10**12], [-1], [2**32, 2**32], [], entry["shape"][::-1], [True], ["1"], [1] * 70]
            )
        elif change == 2:
            entry["dtype"] = rng.choice(["F64", "F16", "I64", "U8", "BOOL", "F8_E4M3", "X", 3])
        elif change == 3:
            del header[name]
        else:
            header[
                rng.choice(["x:mask", "../x", "<b>", "features.0.weight:values", "a" * 70000])
            ] = entry
        if "__metadata__" not in header:
            break
    text = json.dumps(header).encode()
    told = rng.choice(
        [len(text)] * 8 + [0, 1, len(text) - 1, len(text) + 1, 10**9, 2**63, 2**64 - 1]
    )
    return suffix, struct.pack("<Q", told) + text + raw[8 + length :]


_KINDS: dict[str, Callable[[random.Random, Bases], tuple[str, bytes]]] = {
    "flips": _flips,
    "cut": _cut,
    "archive": _archive,
    "headers": _headers,
    "opcodes": _opcodes,
    "legacy": _legacy,
    "fields": _fields,
    "safetensors": _safetensors,
}
