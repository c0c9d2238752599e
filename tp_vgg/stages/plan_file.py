"""A plan is written here, with its prediction beside it; a former plan gives way.

This module does not import torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_atomic, write_json
from tp_vgg.files.fingerprint import file_fingerprint, text_fingerprint
from tp_vgg.files.lock import locked
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import plan_files
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import PLANS, RunDir
from tp_vgg.rundir.replaced import check_replaced, put_away
from tp_vgg.rundir.settings import Settings


@dataclass(frozen=True)
class PlanOptions:
    """Plan options say which plan is wanted and where it is written."""

    kind: Kind
    budget: dict[str, float]
    """Budget by name; see :func:`tp_vgg.planning.budget.read_budget`."""
    round_to: int = 8
    """Widths are multiples of it, or the full width."""
    output: Path | None = None
    """Path of the plan file; ``None``: ``ratios.json`` or ``sparsity.json`` in the run
    directory."""
    profile: Path | None = None
    """File of the staircase profile; ``None``: for a latency budget, the network's only profile in
    the run directory."""
    force: bool = False
    """Replace another plan in the plan file."""
    realise: int = 0
    """Number of plans that are really pruned and measured, so that the best is taken."""


def check_plan_file(contents: RunContents, options: PlanOptions, result: PlanResult) -> bool:
    """Return True if another plan is in the place of this one's file.

    Raises :class:`BadInput` if that may not be replaced.
    """
    path, run = plan_path(contents, options), contents.run
    check_output(path, run, from_option=options.output is not None)
    another = path.exists() and not holds(path, result.file_text)
    if another and not options.force and not contents.wrote(options.kind, path):
        raise BadInput(
            f"{path}: is not a plan that `plan` wrote, or was edited since;"
            " give --force to replace it, or another --output"
        )
    check_replaced(run.work)
    return another


def keep_plan(
    settings: Settings, contents: RunContents, options: PlanOptions, result: PlanResult
) -> bool:
    """Write a plan and its prediction to the run directory; a former plan gives way.

    Returns False if this very plan is there already. Raises :class:`BadInput` if a directory or a
    plan that may not be replaced is in the way.
    """
    path, run, text = plan_path(contents, options), contents.run, result.file_text
    another = check_plan_file(contents, options, result)
    if not another and path.exists() and contents.own_plans.get(options.kind) == result:
        return False
    with locked(run.root):
        if (path.exists() and not holds(path, text)) != another:
            raise BadInput(f"{path}: another command has just written it; give the command again")
        former = contents.own_plans.get(options.kind)
        files = plan_files(run.work)
        files[options.kind] = sorted({*files.get(options.kind, ()), text_fingerprint(text)})
        extras = {
            "command": settings.command,
            "other": contents.other_plan(options.kind),
            "files": files,
        }

        def write(file: BinaryIO) -> None:
            file.write(text.encode())
            if another and not options.force:
                put_away(run.work, file_fingerprint(path), [path], [run.plan])
            elif former is not None and _gives_way(former, result) and not options.force:
                put_away(run.work, text_fingerprint(former.file_text), [], [run.plan])
            # Written before the plan has its name, so that no plan file is without a prediction.
            write_json(run.plan, {**result.to_dict(), **extras})

        write_atomic(path, write)
    return True


def _gives_way(former: PlanResult, result: PlanResult) -> bool:
    """Return True if ``former`` says what ``result`` does not: other ratios, or measured plans."""
    return former.file_text != result.file_text or bool(former.realised and not result.realised)


def plan_path(contents: RunContents, options: PlanOptions) -> Path:
    """Return the path of the plan file; that of its target if it is a link."""
    path = options.output or contents.run.work / PLANS[options.kind]
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_output(path: Path, run: RunDir, *, from_option: bool) -> None:
    """Raise :class:`BadInput` if no plan can be written to ``path``.

    ``from_option``: it was given as ``--output``.
    """
    if path.is_dir():
        raise BadInput(f"--output: {path}: is a directory; give a file's name")
    if path.exists() and not path.is_file():
        raise BadInput(f"--output: {path}: is not a regular file; give another name")
    if run.plan.is_dir():
        raise BadInput(f"{run.plan}: is a directory; move it away")
    if from_option and not path.parent.is_dir():
        raise BadInput(f"--output: {path.parent}: no such directory")
    if path.resolve() == run.plan.resolve():
        raise BadInput(
            f"--output: {path}: is where the prediction goes;"
            f" give another name, such as {PLANS['structured']}"
        )


def holds(path: Path, text: str) -> bool:
    """Return True if the file at ``path`` has exactly this text."""
    return (
        path.is_file()
        and path.stat().st_size == len(text.encode())
        and path.read_bytes() == text.encode()
    )
