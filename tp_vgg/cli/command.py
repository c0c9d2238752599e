"""Commands show every default in ``--help``, their own options first and the shared ones after."""

from __future__ import annotations

import functools

import click


class SharedOption(click.Option):
    """A shared option belongs to every command; ``--help`` lists it after the command's own."""


class Command(click.Command):
    """A command lists its own options first, then the options that every command has."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write both lists of options into the help text."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                (shared if isinstance(parameter, SharedOption) else own).append(record)
        for title, records in (("Options", own), ("Options of every command", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


option = functools.partial(click.option, show_default=True)
""":func:`click.option` with the default in the help."""
shared_option = functools.partial(option, cls=SharedOption)
""":data:`option` for a :class:`SharedOption`."""
