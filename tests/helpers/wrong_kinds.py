"""Values of kinds that people give by mistake, or to see what happens."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from helpers.networks import SMALL, lively


class Text(str):
    """A string of a type of its own."""


class Table(Mapping):
    """A mapping that is no dict."""

    def __getitem__(self, key: object) -> object:
        return 1 / 0 if key == "a" else object()

    def __iter__(self) -> Iterator[object]:
        return iter(["a", 3])

    def __len__(self) -> int:
        return 2


class Broken:
    """An object of which nothing works."""

    def _fails(self, *_: object) -> Any:
        raise KeyError("broken\nin two lines")

    __len__ = __iter__ = __getitem__ = __repr__ = __str__ = __eq__ = __float__ = _fails
    __int__ = __index__ = __bool__ = __fspath__ = __getattr__ = __contains__ = _fails
    __hash__ = _fails


class Numbers(list):
    """A list that fails half-way."""

    def __iter__(self) -> Iterator[object]:
        yield 0.5
        raise OSError("gone")


class Colour(enum.Enum):
    """Two names that are no text."""

    RED = 1


class Size(enum.IntEnum):
    """A number with a name."""

    SMALL = 3


def _itself() -> list:
    values: list = [0.5]
    values.append(values)
    return values


def _masked():
    model = lively()
    prune.l1_unstructured(model.features[0], "weight", 0.5)
    return model


def _changed(**attributes: object):
    model = lively()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    with torch.device("meta"):
        return getattr(models, name)(num_classes=10)


def _without(name: str):
    model = lively()
    model.__delattr__(name)
    return model


PLAIN: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "false": lambda: False,
    "zero": lambda: 0,
    "int": lambda: 3,
    "negative": lambda: -1,
    "huge": lambda: 10**5000,
    "large": lambda: 2**70,
    "float": lambda: 2.5,
    "nan": lambda: float("nan"),
    "infinite": lambda: float("inf"),
    "complex": lambda: 0.5j,
    "decimal": lambda: Decimal("0.5"),
    "fraction": lambda: Fraction(1, 2),
    "empty text": lambda: "",
    "text": lambda: "abc",
    "long text": lambda: "x" * 100_000,
    "nul": lambda: "a\0b",
    "surrogate": lambda: "a\ud800b",
    "lines": lambda: "a\nb",
    "text of its own": lambda: Text("abc"),
    "bytes": lambda: b"abc",
    "empty list": list,
    "list": lambda: [object(), None],
    "list of texts": lambda: ["a", "b", "c"],
    "list in itself": _itself,
    "list of lists": lambda: [[0.5], [0.5], [0.5]],
    "list that fails": Numbers,
    "tuple": lambda: (1, "a", None),
    "set": lambda: {"a", 3},
    "empty dict": dict,
    "dict of ints": lambda: {0: 0.5},
    "dict of texts": lambda: {"features.0": "0.5"},
    "dict of objects": lambda: {"features.0": object(), "macs": object()},
    "nested dict": lambda: {"features.0": {"ratio": 0.5}, "macs": {"macs": 0.5}},
    "dict of NaN": lambda: {"features.0": float("nan"), "macs": float("nan")},
    "mapping": Table,
    "object": object,
    "broken": Broken,
    "class": lambda: dict,
    "function": lambda: lambda *_: None,
    "module": lambda: itertools,
    "date": lambda: date(2026, 1, 1),
    "enum": lambda: Colour.RED,
    "int enum": lambda: Size.SMALL,
    "iterator": lambda: iter([0.5, object()]),
    "endless": itertools.count,
    "endless texts": lambda: itertools.repeat("features.0"),
    "generator": lambda: (1 / 0 for _ in range(2)),
    "numpy float": lambda: np.float32(0.5),
    "numpy int": lambda: np.int64(3),
    "numpy bool": lambda: np.bool_(True),
    "array 0d": lambda: np.array(0.25),
    "array": lambda: np.array([0.5, 0.25]),
    "array 2d": lambda: np.zeros((2, 2)),
    "empty array": lambda: np.array([]),
    "array of objects": lambda: np.array([object(), None]),
    "array of an object": lambda: np.array(object()),
    "tensor 0d": lambda: torch.tensor(0.25),
    "tensor": lambda: torch.tensor([0.5, 0.25]),
    "empty tensor": lambda: torch.tensor([]),
    "tensor on meta": lambda: torch.zeros((), device="meta"),
    "tensors on meta": lambda: torch.zeros(3, device="meta"),
    "sparse tensor": lambda: torch.eye(3).to_sparse(),
    "images": lambda: torch.zeros(2, 3, 32, 32),
    "tensor pair": lambda: (torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)),
    "loader": lambda: torch.utils.data.DataLoader([0]),
    "device": lambda: torch.device("cpu"),
    "dtype": lambda: torch.float32,
    "spec": lambda: SMALL,
}  # fmt: skip
"""Values of every kind, each made anew."""
MODULES: dict[str, Callable[[], Any]] = {
    "network": lively,
    "network class": lambda: type(lively()),
    "half": lambda: lively().half(),
    "double": lambda: lively().double(),
    "network on meta": lambda: lively().to("meta"),
    "masked": _masked,
    "wrapped": lambda: nn.DataParallel(lively()),
    "in a sequence": lambda: nn.Sequential(lively()),
    "linear": lambda: nn.Linear(2, 2),
    "sequence": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
    "empty sequence": nn.Sequential,
    "resnet18": lambda: _torchvision("resnet18"),
    "torchvision vgg11_bn": lambda: _torchvision("vgg11_bn"),
    "other spec": lambda: _changed(spec=replace(SMALL, widths=(8,) * 8)),
    "spec none": lambda: _changed(spec=None),
    "spec dict": lambda: _changed(spec=SMALL.to_dict()),
    "spec class": lambda: _changed(spec=type(SMALL)),
    "meta none": lambda: _changed(meta=None),
    "meta empty": lambda: _changed(meta={}),
    "meta wrong": lambda: _changed(meta={"mean": "abc", "std": [0, 0, 0]}),
    "kept none": lambda: _changed(kept=None),
    "kept wrong": lambda: _changed(kept={"features.0": ["a"], 3: 4}),
    "kept far": lambda: _changed(kept={"features.0": [0, 10**9]}),
    "no features": lambda: _without("features"),
    "no spec": lambda: _without("spec"),
    "state dict": lambda: lively().state_dict(),
}
"""Networks and modules, wrong in one way each."""


def paths(directory: Path) -> dict[str, Callable[[], Any]]:
    """Return paths to things that are no file of ours, in a new ``directory``."""
    junk = directory / "junk.pth"
    junk.write_bytes(b"\x80junk\x00" * 100)
    text = directory / "junk.json"
    text.write_text('{"features.0": ')
    (directory / "loop").symlink_to(directory / "loop")
    return {
        "directory": lambda: directory,
        "directory text": lambda: str(directory),
        "missing file": lambda: directory / "missing",
        "below a file": lambda: junk / "below",
        "junk file": lambda: junk,
        "junk text": lambda: str(text),
        "loop of links": lambda: directory / "loop",
        "long name": lambda: directory / ("x" * 300),
        "open file": lambda: junk.open("rb"),
    }
