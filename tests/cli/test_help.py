"""The help of every command: own options first, every default, what it is for in one line."""

from __future__ import annotations

import importlib
import inspect
import re

import click
import pytest

from tp_vgg.cli import COMMANDS
from tp_vgg.cli.command import Command, SharedOption


def command_of(name: str) -> click.Command:
    found = importlib.import_module(f"tp_vgg.cli.{name}").command
    assert isinstance(found, Command)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_own_options_come_first_and_the_shared_ones_after(name: str, call) -> None:
    status, out, _ = call(name, "--help")
    assert status == 0
    own, _, shared = out.partition("Options of every command:")
    options = [one for one in command_of(name).params if isinstance(one, click.Option)]
    assert {one.name for one in options if isinstance(one, SharedOption)} == {
        "arch", "head", "image_size", "mean", "std", "quiet",
        *(
            "dataset", "data_dir", "out", "tag", "checkpoint", "device", "precision", "seed",
            "limit_train", "limit_val", "limit_test", "skip_corrupt",
        ) * (name != "export"),  # it has no data and no run directory
    }  # fmt: skip
    for one in options:
        place = shared if isinstance(one, SharedOption) else own
        assert re.search(rf"^  (-\w, )?{re.escape(one.opts[-1])}\b", place, re.MULTILINE), one.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_sentence_and_shows_its_default(name: str) -> None:
    """Flags are off and a required option has none; of the rest some stand for "not asked"."""
    silent = {"ratios", "ratio", "sparsity", "show"}  # nothing is done without one of them
    command = command_of(name)
    context = click.Context(command)
    for one in command.params:
        if isinstance(one, click.Option):
            record = one.get_help_record(context)
            assert record is not None
            assert one.help
            assert one.help.rstrip().endswith("."), f"{name} --{one.name}"
            plain_flag = one.is_flag and not one.secondary_opts
            if not (plain_flag or one.required or one.name in silent):
                assert "[default: " in record[1], f"{name} --{one.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_line_says_what_it_is_for_and_when(name: str) -> None:
    """The group's list says the same: what, then when or for which end."""
    first = inspect.cleandoc(command_of(name).help or "").splitlines()[0]
    assert first == COMMANDS[name]
    assert re.search(r"[;,:] ", first), "what it does, and when or why one needs it"
    assert len(first) <= 100


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--steps", "two", "'two' is not a valid whole number."),
        ("--seed", "-1", "-1 is not in the range 0<=x<=2147483647."),
        ("--lr", "fast", "'fast' is not a valid number."),
        ("--lr", "nan", "NaN is not a number."),
    ],
)
def test_click_refuses_in_plain_words(option: str, value: str, said: str, call) -> None:
    status, out, err = call("structured", option, value)
    assert (status, out) == (2, "")
    assert said in err
