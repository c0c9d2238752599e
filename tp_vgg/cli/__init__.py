"""Each command has a file here, which parses, calls its stage and prints; it loads when called."""

from __future__ import annotations

import importlib
import io
import os
import shlex
import sys
import warnings
from typing import Any

import click

from tp_vgg import __version__
from tp_vgg.errors import BadInput, WorkFailed, out_of_memory, printable
from tp_vgg.machine.console import line_on_stderr, note_on_stderr, notes_on_stderr

COMMANDS = {
    "run": "Run the whole pipeline, from the dense model to the report page; start here.",
    "train": "Train the dense model; `run`, sweeps and pruning do this if there is none yet.",
    "sensitivity": "Measure the accuracy drop of each layer at each ratio; `plan` needs it.",
    "plan": "Turn a budget into per-layer ratios or sparsities; after `sensitivity`, before "
    "pruning.",
    "unstructured": "Set the smallest weights to zero; makes sparse files, not faster networks.",
    "structured": "Remove channels, check the result and fine-tune: the main job, for a faster "
    "network.",
    "benchmark": "Time the models on this device and explain the speed-ups; run it after pruning.",
    "pareto": "Prune to several budgets and compare their accuracy, cost and speed; after "
    "`sensitivity`.",
    "export": "Convert a checkpoint for use elsewhere, checked against the model before it is "
    "kept.",
    "compare": "Print accuracy, size and cost of all models in one table; after any stage.",
    "report": "Write one HTML page of all results, with a slider per layer; after any stage.",
}


class LazyGroup(click.Group):
    """A lazy group knows its commands' names and summaries, and imports a command when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; return ``None`` if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"tp_vgg.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries of all commands, none of which is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tp_vgg")
def cli() -> None:
    """Prune VGG networks, such as VGG-11 on CIFAR-10, and measure the gain.

    \b
    Example: python -m tp_vgg structured --dataset digits --ratios ratios.json
    """


def main(args: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed at work, 2 bad input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × and → still gets its table
    # torch says so at its import, wherever an older package for GPU sensors is installed.
    warnings.filterwarnings("ignore", "The pynvml package is deprecated", FutureWarning)
    warnings.showwarning = lambda message, *_: note_on_stderr(str(message))
    # A shell completes the console script, whose name click finds its variable by.
    sys.exit(
        execute(args, name="tp-vgg" if "_TP_VGG_COMPLETE" in os.environ else "python -m tp_vgg")
    )


def execute(
    args: list[str] | None = None, command: click.Command = cli, name: str = "python -m tp_vgg"
) -> int:
    """Run a click command and return its exit status; a failure is one line on stderr.

    The command is ``tp_vgg``'s own or that of a script in ``experiments/``.
    """
    args = sys.argv[1:] if args is None else args
    try:
        with notes_on_stderr():
            command.main(
                args, prog_name=name, standalone_mode=False, obj=f"{name} {shlex.join(args)}"
            )
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(2, error.format_message())
    except BadInput as error:
        return _fail(2, str(error))
    except WorkFailed as error:
        return _fail(1, str(error))
    except (KeyboardInterrupt, click.Abort) as error:
        where = str(error.__cause__ or error)  # click turns the one into the other
        return _fail(
            130, f"interrupted{where and ': '}{where}; the same command goes on from there"
        )
    except BrokenPipeError:
        sys.stdout = None  # nothing more can be said to a closed pipe
        return 1
    except OSError as error:
        where = error.filename or "input/output"
        return _fail(1, f"{where}: {error.strerror or error}; finished files are kept")
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return _fail(
            1,
            f"out of memory ({str(error)[:120]}); try a smaller --batch-size, --limit-val or "
            "--limit-test; finished files are kept",
        )
    return 0


def _fail(status: int, message: str) -> int:
    line_on_stderr(f"error: {printable(' '.join(message.split()))}")
    return status


def print_table(records: Any, width: int | None) -> None:
    """Print the closing table of a stage on stdout, in lines of at most ``width`` characters."""
    from tp_vgg.report.tables import render_comparison
    from tp_vgg.rundir.comparison import Comparison

    click.echo(render_comparison(Comparison(records), width=width))
