"""Both sensitivity sweeps of one network, with their tables and figures: `tp_vgg sensitivity` for each kind in turn."""

from __future__ import annotations

import sys

import click

from tp_vgg import cli


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(options: tuple[str, ...]) -> None:
    """Run both sweeps with OPTIONS, those of `python -m tp_vgg sensitivity` but for --kind."""
    if any(option.startswith("--kind") for option in options):
        raise click.UsageError("both kinds run; leave --kind out")
    for kind in ("unstructured", "structured"):
        status = cli.execute(["sensitivity", "--kind", kind, *options])
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
