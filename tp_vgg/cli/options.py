"""Commands share these options."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import click
from click.core import ParameterSource

from tp_vgg.cli.arguments import settings_from
from tp_vgg.cli.command import option, shared_option
from tp_vgg.cli.value_types import COUNT, PATH, RATE, Number, WholeNumber
from tp_vgg.data.catalogue import CATALOGUE
from tp_vgg.errors import BadInput
from tp_vgg.machine.console import muted, terminal_width
from tp_vgg.network.vgg.spec import ARCHS, HEADS
from tp_vgg.pruning.repairs import CALIBRATION_IMAGES, REPAIR_IMAGES, RepairOption
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune, RepairOptions
from tp_vgg.training.recipe import SCHEDULES

Function = Callable[..., Any]
_Option = TypeVar("_Option", bound=RepairOption)
_NETWORK = [
    shared_option(
        "--arch",
        type=click.Choice(ARCHS),
        show_default="vgg11_bn, or the checkpoint's",
        help="Network.",
    ),
    shared_option(
        "--head",
        type=click.Choice(HEADS),
        show_default="torchvision, or the checkpoint's",
        help="Classifier: torchvision's with two hidden layers of 4096, or one linear layer.",
    ),
    shared_option(
        "--image-size",
        type=WholeNumber(32, 1024),
        metavar="N",
        show_default="32, or the checkpoint's",
        help="Side of the images in pixels; images of other sizes are resized.",
    ),
    shared_option(
        "--mean",
        metavar="R,G,B",
        show_default="the checkpoint's, else CIFAR-10's",
        help="Mean by which a checkpoint from elsewhere normalises pixels in [0, 1].",
    ),
    shared_option(
        "--std",
        metavar="R,G,B",
        show_default="the checkpoint's, else CIFAR-10's",
        help="Standard deviation that belongs to --mean.",
    ),
]
"""Options that say which network a checkpoint holds."""
_DATA = [
    shared_option(
        "--dataset",
        type=click.Choice(list(CATALOGUE)),
        default="cifar10",
        help="Images; folder: your own, as DATA_DIR/train/CLASS/IMAGE and "
        "DATA_DIR/test/CLASS/IMAGE.",
    ),
    shared_option(
        "--data-dir",
        type=PATH,
        default=Path("data"),
        help="Directory of the images; a download goes there.",
    ),
    shared_option("--out", type=PATH, show_default="runs/ARCH-HEAD-DATASET", help="Run directory."),
    shared_option(
        "--tag",
        metavar="NAME",
        show_default="none",
        help="Write to OUT/NAME and share OUT's dense model: for variants.",
    ),
    shared_option(
        "--checkpoint",
        type=PATH,
        show_default="OUT's own",
        help="The dense model to start from (.pth or .safetensors).",
    ),
    shared_option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N."),
    shared_option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        help="Arithmetic of training and sweeps. A model's recorded accuracy is always fp32.",
    ),
    shared_option(
        "--seed",
        type=WholeNumber(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="Seed of all random numbers.",
    ),
    *(
        shared_option(
            f"--limit-{split}",
            type=COUNT,
            metavar="N",
            show_default="all",
            help=f"Use N {split} images, the same share of each class.",
        )
        for split in ("train", "val", "test")
    ),
    shared_option(
        "--skip-corrupt", is_flag=True, help="Leave out images of a folder that can't be decoded."
    ),
]
_QUIET = [shared_option("-q", "--quiet", is_flag=True, help="Show no progress bars and no notes.")]


def common_options(function: Function) -> Function:
    """Add the options of every command; the command gets them as one ``settings``."""
    return _shared(function, [*_NETWORK, *_DATA, *_QUIET])


def network_options(function: Function) -> Function:
    """Add those of the common options that fit a command without data and run directory."""
    return _shared(function, [*_NETWORK, *_QUIET])


def _shared(function: Function, decorators: list[Function]) -> Function:
    @functools.wraps(function)
    def wrapper(**options: Any) -> Any:
        context = click.get_current_context()
        fields = {
            name: options.pop(name) for name in Settings.__dataclass_fields__ if name in options
        }
        explicit = frozenset(
            name
            for name in fields
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        )
        settings = replace(settings_from(fields), command=context.obj or "", explicit=explicit)
        with muted(settings.quiet):
            return function(settings=settings, **options)

    for decorate in reversed(decorators):
        wrapper = decorate(wrapper)
    return wrapper


tensorboard_option = option(
    "--tensorboard",
    is_flag=True,
    help="Log scalars and figures for TensorBoard in OUT/tensorboard.",
)


def round_to_option(default: int) -> Callable[[Function], Function]:
    """Add ``--round-to`` with this default."""
    return option(
        "--round-to",
        type=COUNT,
        default=default,
        metavar="N",
        help="Keep channels in multiples of N.",
    )


wide_option = option(
    "--wide",
    "width",
    is_flag=True,
    callback=lambda _context, _option, wide: None if wide else terminal_width(sys.stdout) or 80,
    help="Print all columns, in lines as long as they take.",
)
"""The command gets the most characters of a line as ``width``; with ``--wide`` that is None."""
profile_option = option(
    "--profile",
    type=PATH,
    show_default="the one in OUT/profiles",
    help="Table of `benchmark --profile`, for latency=.",
)

force_option = option(
    "--force",
    is_flag=True,
    help="Make the models again if they are there, and delete those of other settings instead of "
    "moving them to OUT/replaced.",
)


def training_options(what: str, *, lr: str, batch_size: str) -> Callable[[Function], Function]:
    """Add ``--lr``, ``--batch-size`` and ``--tensorboard``, with these defaults in the help.

    ``what`` they are for: "training" or "fine-tuning".
    """

    def add(function: Function) -> Function:
        for decorate in (
            tensorboard_option,
            option(
                "--batch-size",
                type=COUNT,
                metavar="N",
                show_default=batch_size,
                help=f"Images per step of {what}.",
            ),
            option(
                "--lr",
                type=RATE,
                metavar="RATE",
                show_default=lr,
                help=f"Peak learning rate of {what}.",
            ),
        ):
            function = decorate(function)
        return function

    return add


def repair_options(function: Function) -> Function:
    """Add the options of the repair after pruning; the command gets them as one ``repair``."""

    @functools.wraps(function)
    def wrapper(
        repair: RepairOption, recalibrate: bool, repair_images: int | None, **options: Any
    ) -> Any:
        method = repair_of(repair, recalibrate=recalibrate)
        return function(repair=RepairOptions(method, repair_images), **options)

    for decorate in (
        option("--recalibrate", is_flag=True, help="The same as --repair recalibrate."),
        option(
            "--repair-images",
            type=WholeNumber(min=2),
            metavar="N",
            show_default=f"{REPAIR_IMAGES}, or {CALIBRATION_IMAGES} to recalibrate",
            help="Training images on which the repair looks; it reads no labels.",
        ),
        option(
            "--repair",
            type=click.Choice(get_args(RepairOption)),
            default="auto",
            help="Correct the pruned model before any fine-tuning: refit its weights "
            "(reconstruct), take batch norm's statistics anew (recalibrate), or neither; auto is "
            "reconstruct, but none if 90 % zeros or more are fine-tuned.",
        ),
    ):
        wrapper = decorate(wrapper)
    return wrapper


def repair_of(repair: _Option, *, recalibrate: bool) -> _Option | Literal["recalibrate"]:
    """Return the repair that ``--repair`` and its alias ``--recalibrate`` name together.

    Raises :class:`BadInput` if they contradict each other.
    """
    source = click.get_current_context().get_parameter_source("repair")
    if recalibrate and source is ParameterSource.COMMANDLINE and repair != "recalibrate":
        raise BadInput(
            f"--recalibrate: is --repair recalibrate; leave out --repair {repair} or this"
        )
    return "recalibrate" if recalibrate else repair


def finetune_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of fine-tuning; the command gets them as one ``finetune``."""
    default = Finetune()

    @functools.wraps(function)
    def wrapper(**options: Any) -> Any:
        names = [name for name in Finetune.__dataclass_fields__ if name != "epochs"]
        fields = {name: options.pop(name) for name in names}
        return function(
            finetune=Finetune(options.pop("finetune_epochs", None), **fields), **options
        )

    for decorate in (
        option(
            "--distill-temperature",
            type=Number(0, 100, min_open=True),
            default=default.distill_temperature,
            metavar="T",
            help="Temperature of distillation.",
        ),
        option(
            "--distill-weight",
            type=Number(0, 1),
            default=default.distill_weight,
            metavar="W",
            help="Weight of distillation in the loss; the labels have the rest.",
        ),
        option(
            "--distill/--no-distill",
            default=default.distill,
            help="Learn from the dense model's outputs too (knowledge distillation).",
        ),
        option(
            "--schedule",
            type=click.Choice(SCHEDULES),
            default=default.schedule,
            help="Schedule of that rate; rewind repeats the end of the dense model's.",
        ),
    ):
        wrapper = decorate(wrapper)
    return training_options(
        "fine-tuning",
        lr="0.02, less in under 4 epochs after a refit; 0.005 without batch norm; with rewind the "
        "dense model's",
        batch_size="128, or 64 on digits",
    )(wrapper)
