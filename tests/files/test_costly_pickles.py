"""A small file can't take much time or memory, nor change the functions that read it."""

from __future__ import annotations

import datetime
import io
import pickle
import resource
import signal
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import SMALL

from tp_vgg.errors import BadInput, shown
from tp_vgg.files import left_out, torch_pickle
from tp_vgg.files.torch_archive import read_archive
from tp_vgg.files.torch_pickle import CheckingUnpickler
from tp_vgg.network.checkpoint import load, to_dict
from tp_vgg.network.state_dict import checked_tensors

ROOM = 512 << 20
"""Bytes of address space that a test may add to the process."""


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """Ten seconds and 512 MiB."""

    def late(*_: object) -> None:
        raise AssertionError("too long")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


def doubled(times: int = 40) -> tuple:
    value: tuple = ()
    for _ in range(times):
        value = (value, value)
    return value


class Call:
    """An object that is pickled as a call of a name in a module."""

    def __init__(self, name: str, *arguments: object, state: object = None) -> None:
        self.name, self.arguments, self.state = name, arguments, state


class Writer(pickle._Pickler):
    """It writes names that need not exist."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if type(obj) is not Call:
            super().save(obj, save_persistent_id)
            return
        module, _, name = obj.name.rpartition(".")
        self.write(f"c{module}\n{name}\n".encode())
        if obj.state is None:
            self.save(obj.arguments)
            self.write(b"R")
        else:
            self.save(obj.state)
            self.write(b"b")


def pickled(value: object, protocol: int = 2) -> io.BytesIO:
    file = io.BytesIO()
    Writer(file, protocol).dump(value)
    file.seek(0)
    return file


def read(value: object, protocol: int = 2) -> object:
    return CheckingUnpickler(pickled(value, protocol)).value


def test_one_text_encoded_many_times_takes_no_memory() -> None:
    text = "x" * (1 << 20)
    values = read([Call("_codecs.encode", text, "latin1") for _ in range(3000)])
    assert isinstance(values, list) and {type(value) for value in values} == {left_out.LeftOut}
    assert read(Call("_codecs.encode", "\xff" * 8, "latin1")) == b"\xff" * 8


@pytest.mark.parametrize("code", [doubled(), ["f8"], 3, None], ids=["tuple", "list", "int", "none"])
def test_a_dtype_of_no_text_is_left_out(code: object) -> None:
    made = read(Call("numpy.core.multiarray.scalar", Call("numpy.dtype", code), b"12345678"), 3)
    assert type(made) is left_out.LeftOut


def test_an_ordered_dict_is_made_of_its_own_pairs_only() -> None:
    assert read(Call("collections.OrderedDict", [["a", 1], ["b", 2]])) == {"a": 1, "b": 2}
    assert read(Call("collections.OrderedDict")) == {}
    big = {str(number): 0 for number in range(100_000)}
    with pytest.raises(BadInput, match=r"an ordered dict that torch\.save does not write"):
        read([Call("collections.OrderedDict", big)] * 3)
    pairs = [[str(number), 0] for number in range(1000)]
    with pytest.raises(BadInput, match=r"an ordered dict that torch\.save does not write"):
        read([Call("collections.OrderedDict", pairs) for _ in range(100)])
    with pytest.raises(BadInput, match="whose keys are not strings"):
        read(Call("collections.OrderedDict", [[doubled(), 0]]))


@pytest.mark.parametrize(
    "name",
    ["builtins.list", "collections.defaultdict", "_codecs.encode", "numpy.dtype"],
)
def test_a_call_with_many_arguments_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="a call with over 256 arguments"):
        read(Call(name, *range(1000)))


@pytest.mark.parametrize(
    "name",
    [
        "_codecs.encode",
        "numpy.core.multiarray.scalar",
        "collections.defaultdict",
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.FloatStorage",
        "builtins.list",
        "numpy.dtype",
    ],
)
@pytest.mark.parametrize("slot", ["__defaults__", "__name__", "function", "code", "name"])
def test_no_stand_in_is_changed_by_a_file(name: str, slot: str) -> None:
    ours = [
        part
        for module in (left_out, torch_pickle)
        for part in vars(module).values()
        if isinstance(part, types.FunctionType | type) and part.__module__ == module.__name__
    ]
    before = [dict(vars(part)) for part in ours]
    defaults = [getattr(part, "__defaults__", None) for part in ours]
    names = [part.__name__ for part in ours]
    with pytest.raises((BadInput, TypeError, AttributeError)):
        read(Call(name, state=(None, {slot: "x" if "name" in slot else ("x",)})))
    assert [dict(vars(part)) for part in ours] == before
    assert [getattr(part, "__defaults__", None) for part in ours] == defaults
    assert [part.__name__ for part in ours] == names


KEY = b")" + b"".join(b"q%ch%c\x86" % (place, place) for place in range(40))
"""A tuple of two tuples of two tuples and so on, each written once."""


@pytest.mark.parametrize(
    "content",
    [
        b"}" + KEY + b"K\x00s",
        b"}(K\x01K\x00" + KEY + b"K\x00u",
        b"(" + KEY + b"K\x00d",
        b"\x8f(K\x01" + KEY + b"\x90",
    ],
    ids=["dict", "two keys", "old dict", "set"],
)
def test_keys_that_take_long_to_hash_are_refused(content: bytes) -> None:
    file = io.BytesIO(b"\x80\x04" + content + b".")
    with pytest.raises(BadInput, match="nested tuples as keys; use strings"):
        CheckingUnpickler(file)


@pytest.mark.parametrize("protocol", [2, 4])
def test_short_tuples_are_good_keys(protocol: int) -> None:
    value = {(name, number): (name,) for name in "ab" for number in range(5000)}
    assert read(value, protocol) == value


def file_of(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_many_tensors_of_the_same_data_are_refused(tmp_path: Path) -> None:
    tensor = torch.ones(250_000)
    path = file_of({f"features.{n}.weight": tensor[:] for n in range(4000)}, tmp_path / "m.pth")
    assert path.stat().st_size < 2 << 20
    with pytest.raises(BadInput, match="tensors have 4000000000 bytes and its data 1000000; save"):
        load(path)


def test_many_names_for_one_tensor_are_refused() -> None:
    tensor = torch.ones(250_000)
    with pytest.raises(BadInput, match="tensors have 4000000000 bytes and their data 1000000;"):
        checked_tensors({f"features.{n}.weight": tensor for n in range(4000)})


def test_tied_weights_are_good(tmp_path: Path) -> None:
    tensor = torch.ones(5_000_000)
    state = {name: tensor.view(-1) for name in "abcd"}
    loaded: Any = read_archive(file_of(state, tmp_path / "m.pth"))
    assert set(loaded) == set(state)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        frozenset(),
        frozenset({"a", "b"}),
        {"classes": frozenset({("a", 1)})},
        bytearray(),
        bytearray(b"abc"),
        bytearray(b"x" * 300),
        b"",
        b"x" * 300,
        datetime.date(2024, 1, 2),
        datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        datetime.time(1, 2),
        datetime.timedelta(1, 2),
        types.SimpleNamespace(lr=0.1),
        range(3),
        slice(3),
        1 << 2000,
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:12]}",
)
def test_harmless_values_beside_the_weights_do_not_matter(
    value: object, protocol: int, make_model, tmp_path: Path
) -> None:
    state = make_model(SMALL).state_dict()
    path = tmp_path / "m.pth"
    torch.save({"state_dict": state, "value": value}, path, pickle_protocol=protocol)
    assert torch.equal(load(path).state_dict()["features.0.weight"], state["features.0.weight"])


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_large_integer_is_refused_in_one_clear_line(protocol: int, tmp_path: Path) -> None:
    torch.save({"value": 1 << 3000}, tmp_path / "m.pth", pickle_protocol=protocol)
    with pytest.raises(BadInput, match="an integer of over 255 bytes; leave it out or save it"):
        load(tmp_path / "m.pth")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_torch_file_named_safetensors_is_told(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    torch.save(
        {"a": torch.ones(3)},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=False,
    )
    with pytest.raises(BadInput, match=r"if torch\.save wrote it, rename it to \.pth"):
        load(path)


def test_a_format_of_nested_tuples_is_shown_shortly(make_model, tmp_path: Path) -> None:
    checkpoint = to_dict(make_model(SMALL)) | {"format": doubled()}
    with pytest.raises(BadInput, match=r"format: \(+.*\.\.\. is not"):
        load(file_of(checkpoint, tmp_path / "m.pth"))


def test_keys_of_a_legacy_file_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({}, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes().endswith(b"]q\x00.")
    path.write_bytes(path.read_bytes()[:-4] + b"](" + KEY + b"e.")
    with pytest.raises(BadInput, match="list of tensor data does not match"):
        read_archive(path)


@pytest.mark.parametrize(
    "value",
    [
        None, 3, "text", "it's", 1.5, [], [1, [2, 3]], (), (1,), (1, 2), {}, {"a": (1,), 2: [3]},
        set(), {1}, frozenset(), frozenset({1}), OrderedDict(), "ä\n", b"x", [1] * 100, "x" * 100,
    ],
)  # fmt: skip
def test_values_are_shown_as_python_writes_them(value: object) -> None:
    text = ascii(value)
    assert shown(value) == (text if len(text) <= 60 else f"{text[:57]}...")


@pytest.mark.parametrize("kind", [tuple, list, dict, OrderedDict])
def test_values_of_endless_text_are_shown_shortly(kind: type) -> None:
    value: Any = kind()
    for _ in range(40):
        pairs = [("a", value), ("b", value)]
        value = kind(pairs if issubclass(kind, dict) else (value, value))
    assert len(shown(value)) == 60 and shown(value).endswith("...")
