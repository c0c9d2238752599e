"""The options that the commands share, and what they become."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tp_vgg.data.catalogue import CATALOGUE
from tp_vgg.errors import BadInput, shown
from tp_vgg.machine.console import muted
from tp_vgg.network.spec import Spec, conv_names
from tp_vgg.network.vgg.spec import ARCHS, HEADS
from tp_vgg.planning.budget import BUDGETS
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import Plan, read_ratios
from tp_vgg.rundir.layout import RESERVED_DIRS
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune
from tp_vgg.training.recipe import SCHEDULES

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)


class Number(click.FloatRange):
    """A number in a range; NaN is in none, where click's own has it in all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return self.fail("NaN is not a number.", param, ctx) if math.isnan(number) else number


RATE = Number(min=0, min_open=True, max=100)
_COMMON = [
    click.option("--arch", type=click.Choice(ARCHS), help="Network (vgg11_bn)."),
    click.option(
        "--head",
        type=click.Choice(HEADS),
        help="Classifier: torchvision's 4096-4096, or one linear (torchvision).",
    ),
    click.option(
        "--dataset",
        type=click.Choice(list(CATALOGUE)),
        default="cifar10",
        show_default=True,
        help="folder: an ImageFolder.",
    ),
    click.option(
        "--data-dir",
        type=PATH,
        default=Path("data"),
        show_default=True,
        help="Where the images are, or go.",
    ),
    click.option("--out", type=PATH, help="Run directory (runs/ARCH-HEAD-DATASET)."),
    click.option(
        "--tag", metavar="NAME", help="Put the outputs in OUT/NAME; the baseline is shared."
    ),
    click.option(
        "--checkpoint", type=PATH, help="The dense model to start from (.pth or .safetensors)."
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="Of training and sweeps; a model's reported accuracy is always fp32.",
    ),
    click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True),
    click.option("--limit-train", type=COUNT, metavar="N", help="Train on a stratified subset."),
    click.option("--limit-val", type=COUNT, metavar="N"),
    click.option("--limit-test", type=COUNT, metavar="N"),
    click.option(
        "--skip-corrupt", is_flag=True, help="Leave out images of a folder that can't be decoded."
    ),
    click.option("-q", "--quiet", is_flag=True, help="No progress bars, no notes."),
]


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the common options; the command gets them as one ``settings``."""

    @functools.wraps(function)
    def wrapper(**options: Any) -> Any:
        given = {
            name: options.pop(name) for name in Settings.__dataclass_fields__ if name in options
        }
        settings = replace(_settings(given), command=click.get_current_context().obj or "")
        with muted(settings.quiet):
            return function(settings=settings, **options)

    for option in reversed(_COMMON):
        wrapper = option(wrapper)
    return wrapper


def check_file(option: str, path: Path) -> None:
    """Raise :class:`BadInput` unless ``path`` is a file."""
    if not path.is_file():
        raise BadInput(
            f"{option}: {path}: {'not a regular file' if path.exists() else 'no such file'}"
        )


tensorboard_option = click.option(
    "--tensorboard", is_flag=True, help="Show scalars and figures in TensorBoard: OUT/tensorboard."
)


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--lr``, ``--batch-size`` and ``--tensorboard``."""
    function = tensorboard_option(function)
    function = click.option("--batch-size", type=COUNT, metavar="N", help="Images a step.")(
        function
    )
    return click.option("--lr", type=RATE, metavar="RATE", help="Peak learning rate.")(function)


def finetune_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How to train a pruned model back; the command gets ``lr`` and the rest as fields of one ``finetune`` (its epochs apart)."""
    default = Finetune()

    @functools.wraps(function)
    def wrapper(**options: Any) -> Any:
        names = [name for name in Finetune.__dataclass_fields__ if name != "epochs"]
        given = {name: options.pop(name) for name in names}
        return function(finetune=Finetune(options.pop("finetune_epochs"), **given), **options)

    for option in (
        click.option("--distill-temperature", type=Number(0, 100, min_open=True), default=default.distill_temperature, show_default=True, metavar="T"),
        click.option("--distill-weight", type=Number(0, 1), default=default.distill_weight, show_default=True, metavar="W", help="Share of the dense model's outputs in the loss."),
        click.option("--distill/--no-distill", default=default.distill, show_default=True, help="Learn from the dense model's outputs too."),
        click.option("--schedule", type=click.Choice(SCHEDULES), default=default.schedule, show_default=True, help="Of the rate; rewind: the end of the dense model's own."),
    ):  # fmt: skip
        wrapper = option(wrapper)
    return training_options(wrapper)


def listed(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(part.strip() for part in text.split(","))


def plan_from(
    file: Path | None,
    value: float | None,
    option: str,
    kind: Kind,
    settings: Settings,
    show: str | None,
) -> Callable[[Spec], Plan]:
    """The plan once the network is known: a file's, or one value for every layer that ``option`` means; half of the layer to ``show``
    where neither is given.

    Raises :class:`BadInput` unless one of the three is given, for both a file and a value, and for all that is wrong with either.
    """
    if file is None and value is None and show is not None:
        half = Plan({show: 0.5}, "--show")
        return lambda _spec: half
    if (file is None) == (value is None):
        raise BadInput(f"give either --ratios FILE or {option} VALUE")
    if file is not None:
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
    """``NAME=VALUE`` texts as a budget. Raises :class:`BadInput`."""
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
                f"--budget: {shown(text)}: give NAME=VALUE with one of {', '.join(BUDGETS)}, such as macs=0.5"
            )
        if name in budget:
            raise BadInput(f"--budget {name}: given twice; keep one")
        budget[name] = number
    return budget


def _settings(given: dict[str, Any]) -> Settings:
    tag = given["tag"]
    if tag is not None and (not tag.strip(".") or not all(c.isalnum() or c in "._-" for c in tag)):
        raise BadInput(
            f"--tag: {tag!r} must be a plain directory name of letters, digits, '.', '_' and '-'"
        )
    if tag in RESERVED_DIRS:
        raise BadInput(
            f"--tag: {tag!r} is the run directory's own name for something; give another"
        )
    if given["checkpoint"] is not None:
        check_file("--checkpoint", given["checkpoint"])
    if CATALOGUE[given["dataset"]].local and not given["data_dir"].is_dir():
        raise BadInput(
            f"--data-dir: {given['data_dir']}: no such directory; expected train/CLASS/IMAGE and test/CLASS/IMAGE in it"
        )
    if given["data_dir"].exists() and not given["data_dir"].is_dir():
        raise BadInput(f"--data-dir: {given['data_dir']}: is not a directory")
    if given.get("tensorboard") and importlib.util.find_spec("tensorboard") is None:
        raise BadInput(
            "--tensorboard: TensorBoard is not installed; pip install 'tp_vgg[tensorboard]'"
        )
    return Settings(**given)
