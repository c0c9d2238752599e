"""An empty path is refused, by every option and by every function that takes a path."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from helpers.commands import one_line

import tp_vgg
from tp_vgg import cli
from tp_vgg.cli.value_types import FilePath
from tp_vgg.data import load_data
from tp_vgg.errors import BadInput
from tp_vgg.files.read import as_path

BLANK = ["", " ", "\t ", "\n"]
TAKES = {
    "--out": "train", "--data-dir": "train", "--checkpoint": "compare", "--weights": "train",
    "--ratios": "structured", "--output": "plan --budget macs=0.5",
    "--profile": "plan --budget latency=0.5",
}  # fmt: skip


def command(name: str) -> click.Command:
    found = cli.cli.get_command(click.Context(cli.cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize("text", BLANK, ids=ascii)
@pytest.mark.parametrize("option", TAKES)
def test_an_option_with_an_empty_path_is_named(option: str, text: str, call, at_home: Path) -> None:
    for args in ([option, text], [f"{option}={text}"]):
        status, out, err = call(*TAKES[option].split(), "--dataset", "digits", *args)
        assert (status, out) == (2, "")
        assert f"'{option}': the path is empty" in one_line(err)
    assert os.listdir(at_home) == []


@pytest.mark.parametrize("text", BLANK, ids=ascii)
@pytest.mark.parametrize(
    "args", ["compare", "benchmark", "export --format torch"], ids=lambda args: args.split()[0]
)
def test_an_empty_argument_is_named(args: str, text: str, call, at_home: Path) -> None:
    for words in ([text], ["x.pth", text]) if args != "export --format torch" else ([text],):
        status, out, err = call(*args.split(), *words)
        assert (status, out) == (2, "")
        assert "CHECKPOINT" in one_line(err)
        assert "the path is empty" in err
    assert os.listdir(at_home) == []


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_path_of_every_command_is_checked(name: str) -> None:
    """A new option that takes a path must have the type that refuses an empty one."""
    paths = [
        parameter
        for parameter in command(name).params
        if isinstance(parameter.type, click.Path | click.File)
        or (parameter.metavar or "").strip("{}").split(",")[-1] in ("PATH", "FILE", "DIR")
    ]
    assert paths
    assert all(isinstance(parameter.type, FilePath) for parameter in paths)


@pytest.mark.parametrize("option", ["--tag", "--device"])
def test_an_empty_name_is_refused(option: str, call, at_home: Path) -> None:
    status, _, err = call("train", "--dataset", "digits", option, "")
    assert (status, option in one_line(err)) == (2, True)
    assert os.listdir(at_home) == []


def test_a_path_with_a_nul_byte_is_refused(call, at_home: Path) -> None:
    status, _, err = call("train", "--out", "a\0b")
    assert (status, "'--out': a path can't hold a NUL byte" in one_line(err)) == (2, True)


@pytest.mark.parametrize("path", [*BLANK, "a\0b", None, 3, b"x"], ids=ascii)
def test_functions_refuse_what_is_no_path(path: object, make_model, at_home: Path) -> None:
    for use in (
        tp_vgg.load,
        tp_vgg.read_ratios,
        lambda path: tp_vgg.save(make_model(), path),
        lambda path: load_data("digits", path, "cpu"),
        as_path,
    ):
        with pytest.raises(BadInput, match=r"is empty|NUL|is not a path") as caught:
            use(path)
        assert str(caught.value).isprintable()
    assert os.listdir(at_home) == []


def test_a_path_stays_what_it_is(tmp_path: Path) -> None:
    for path in (tmp_path, str(tmp_path), Path(), " x ", os.fsdecode(b"no \xff utf-8")):
        assert as_path(path) == Path(path)
