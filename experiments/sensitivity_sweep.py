"""This script runs `tp_vgg sensitivity` for both kinds of pruning, with tables and figures."""

from __future__ import annotations

import sys

import click

from tp_vgg import cli


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(options: tuple[str, ...]) -> None:
    """Run both sweeps.

    OPTIONS are those of `python -m tp_vgg sensitivity`, without --kind.
    """
    if any(option.startswith("--kind") for option in options):
        raise click.UsageError("both kinds run; leave --kind out")
    for kind in ("unstructured", "structured"):
        status = cli.execute(["sensitivity", "--kind", kind, *options])
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
