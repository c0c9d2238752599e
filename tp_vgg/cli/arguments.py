"""The texts of options become settings, plans and budgets, or are refused, here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tp_vgg.data.catalogue import CATALOGUE
from tp_vgg.errors import BadInput, missing_packages, shown
from tp_vgg.network.spec import Spec, conv_names
from tp_vgg.planning.budget import BUDGETS
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import Plan, read_ratios
from tp_vgg.rundir.layout import RESERVED_DIRS
from tp_vgg.rundir.settings import Settings


def check_file(option: str, path: Path) -> None:
    """Raise :class:`BadInput` unless ``path`` is a file."""
    if not path.is_file():
        raise BadInput(
            f"{option}: {path}: {'not a regular file' if path.exists() else 'no such file'}"
        )


def check_one_process(command: str) -> None:
    """Raise :class:`BadInput` if torchrun started ``command``, which is one process."""
    if "LOCAL_RANK" in os.environ:
        raise BadInput(
            f"{command}: is one process; use torchrun with train, sensitivity, structured or"
            " unstructured"
        )


def listed(text: str) -> tuple[str, ...]:
    """Split a text at its commas."""
    return tuple(part.strip() for part in text.split(","))


def plan_from(
    file: Path | None,
    value: float | None,
    option: str,
    kind: Kind,
    settings: Settings,
    show: str | None,
) -> Callable[[Spec], Plan]:
    """Return a function from the network's spec to the plan that the options ask for.

    The plan is that of ``file``; or ``value`` for every conv (structured) or layer (unstructured);
    or, if neither is given, half of the layer ``show``. Raises :class:`BadInput` if none of the
    three is given, or both a file and a value, or if one of them is invalid.
    """
    if file is None and value is None and show is not None:
        half = Plan({show: 0.5}, "--show")
        return lambda _spec: half
    if (file is None) == (value is None):
        raise BadInput(
            f"give either --ratios FILE or {option} VALUE, or only --show LAYER (to draw)"
        )
    if file is not None:
        check_file("--ratios", file)
        roots = [*Path("runs").glob("*/"), *([settings.out] if settings.out else [])]
        places = [place for root in roots for place in (root, *root.glob("*/"))]
        plan = read_ratios(file, kind, plan_dirs=tuple(places))
        return lambda _spec: plan
    assert value is not None
    amount = value
    Plan.uniform(amount, ("features.0",), option)

    def for_spec(spec: Spec) -> Plan:
        return Plan.uniform(
            amount, conv_names(spec) if kind == "structured" else tuple(spec.prunable), option
        )

    return for_spec


def budget_from(texts: tuple[str, ...]) -> dict[str, float]:
    """Parse ``NAME=VALUE`` texts into a budget.

    Raises :class:`BadInput` for another form, an unknown name, or a name that is given twice.
    """
    budget: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
            number = 0.0
        if not equals or name not in BUDGETS:
            raise BadInput(
                f"--budget: {shown(text)}: give NAME=VALUE with one of {', '.join(BUDGETS)}, "
                "such as macs=0.5"
            )
        if name in budget:
            raise BadInput(f"--budget {name}: given twice; keep one")
        budget[name] = number
    return budget


def settings_from(options: dict[str, Any]) -> Settings:
    """Return the settings in the options of every command.

    Raises :class:`BadInput` if one of them is invalid or names something that is not there.
    """
    tag = options.get("tag")
    if tag is not None and (not tag.strip(".") or not all(c.isalnum() or c in "._-" for c in tag)):
        raise BadInput(
            f"--tag: {tag!r} must be a plain directory name of letters, digits, '.', '_' and '-'"
        )
    if tag is not None and len(os.fsencode(tag)) > 200:
        raise BadInput(f"--tag: {shown(tag)} is too long for a directory's name")
    if tag is not None and ".partial" in tag:
        raise BadInput(f"--tag: {tag!r} looks like an unfinished file; give another name")
    if tag in RESERVED_DIRS:
        raise BadInput(
            f"--tag: {tag!r} is reserved for a directory of tp_vgg's own; give another name"
        )
    if options.get("checkpoint") is not None:
        check_file("--checkpoint", options["checkpoint"])
    numbers = {name: _three_numbers(name, options.get(name)) for name in ("mean", "std")}
    if (numbers["mean"] is None) != (numbers["std"] is None):
        raise BadInput("--mean, --std: give both, they belong together")
    if "data_dir" in options:
        _check_data_dir(options["dataset"], options["data_dir"])
    if options.get("tensorboard") and (missing := missing_packages("tensorboard")):
        raise BadInput(f"--tensorboard: {missing}")
    return Settings(**{**options, **numbers})


def _three_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """Parse the text of ``--mean`` or ``--std``: three finite numbers, those of std positive."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(math.isfinite(value) for value in numbers):
        raise BadInput(
            f"--{name}: {shown(text)}: give three numbers with commas between, for red, green and"
            " blue in [0, 1], such as 0.485,0.456,0.406"
        )
    if max(map(abs, numbers)) > 4:
        raise BadInput(
            f"--{name}: {shown(text)}: is for pixels in [0, 1]; divide numbers for [0, 255] by 255"
        )
    if name == "std" and min(numbers) <= 0:
        raise BadInput(f"--std: {shown(text)}: must be above 0")
    return numbers


def _check_data_dir(dataset: str, data_dir: Path) -> None:
    if CATALOGUE[dataset].local and not data_dir.is_dir():
        raise BadInput(
            f"--data-dir: {data_dir}: no such directory; expected train/CLASS/IMAGE and"
            " test/CLASS/IMAGE in it"
        )
    if data_dir.exists() and not data_dir.is_dir():
        raise BadInput(f"--data-dir: {data_dir}: is not a directory")
