from __future__ import annotations

from pathlib import Path

import click

from tp_vgg.cli.options import PATH, check_file, common_options
from tp_vgg.errors import printable
from tp_vgg.network.formats import EXPORT_FORMATS
from tp_vgg.rundir.settings import Settings


@click.command("export")
@common_options
@click.argument("checkpoint_file", metavar="CHECKPOINT", type=PATH)
@click.option("--format", "form", type=click.Choice(list(EXPORT_FORMATS)), required=True)
@click.option(
    "--output",
    type=PATH,
    metavar="PATH",
    help="Where to (beside the checkpoint, by the format's suffix).",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def command(
    settings: Settings, checkpoint_file: Path, form: str, output: Path | None, force: bool
) -> None:
    """Write a checkpoint in another format; checked against the model before it is kept.

    onnx: for ONNX Runtime and others, any batch size; logits within 1e-4 of the largest. torch: a torch.export program (.pt2), the same.
    safetensors: weights and spec in one file. sparse: the same with a bit-mask for the zeros, smaller for unstructured models.
    `tp_vgg.load` reads the last two; weights are equal to the last bit. onnx needs pip install 'tp_vgg[export]'.

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
    click.echo(
        f"{printable(str(path))}: {after:,} bytes, {after / before:.3f}× the checkpoint; {checked}"
    )
