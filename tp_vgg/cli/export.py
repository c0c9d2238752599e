"""The `export` command converts a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tp_vgg.cli.arguments import check_file
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import network_options
from tp_vgg.cli.value_types import PATH
from tp_vgg.machine.console import fitted
from tp_vgg.network.formats import EXPORT_FORMATS
from tp_vgg.rundir.settings import Settings


@click.command("export", cls=Command)
@network_options
@click.argument("checkpoint_file", metavar="CHECKPOINT", type=PATH)
@option(
    "--format",
    "form",
    type=click.Choice(list(EXPORT_FORMATS)),
    required=True,
    help="Format to write.",
)
@option(
    "--output",
    type=PATH,
    metavar="PATH",
    show_default="beside the checkpoint, with the format's suffix",
    help="File to write.",
)
@option("--force", is_flag=True, help="Write over an existing file.")
def command(
    settings: Settings, checkpoint_file: Path, form: str, output: Path | None, force: bool
) -> None:
    """Convert a checkpoint for use elsewhere, checked against the model before it is kept.

    onnx: for ONNX Runtime and others; it needs `pip install onnx onnxscript onnxruntime`. torch: a
    torch.export program (.pt2). Both take any batch size; logits agree within 1e-4 of the largest.
    safetensors: weights and spec in one file. sparse: the same with a bit mask for the zeros,
    smaller for unstructured models. `tp_vgg.load` reads the last two; their weights are equal to
    the last bit.

    \b
    Example: python -m tp_vgg export unstructured_pruned_vgg11.pth --format sparse
    """
    check_file("CHECKPOINT", checkpoint_file)

    from tp_vgg.stages.export import export_checkpoint

    path, difference = export_checkpoint(settings, checkpoint_file, form, output, force)
    before, after = checkpoint_file.stat().st_size, path.stat().st_size
    checked = (
        f"logits within {difference:.1e} of the largest"
        if EXPORT_FORMATS[form].program
        else "weights equal to the last bit"
    )
    line = f"{path}: {after:,} bytes, {after / before:.3f}× the checkpoint; {checked}"
    click.echo(fitted(line, sys.stdout))
