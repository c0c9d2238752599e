"""This module renders the results of a run directory as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from tp_vgg import __version__
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.latency.verdicts import UNEXPLAINED
from tp_vgg.network.families import spec_from_dict
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.pruning.criteria import Kind
from tp_vgg.report.explorer import explorer_data
from tp_vgg.report.network_drawing import GAP, HEIGHT, WIDTH, blocks
from tp_vgg.report.summary import summary_sentences
from tp_vgg.report.svg import inline_svg
from tp_vgg.rundir.comparison import repaired_models
from tp_vgg.sensitivity.table import Sensitivity

OVERVIEW = "overview"
"""Name of the figure that stands right below the table of all models."""
REPAIR = "repair"
"""Name of the figure of the repair's errors, to which the table of the repaired models leads."""


@dataclass(frozen=True)
class Drawn:
    """A drawn figure is shown on the page with its title and an explanation."""

    name: str
    """Letters, digits and dashes; unique on the page, since every id in the SVG begins with it."""
    title: str
    reading: str
    """One or two sentences that explain how to read the figure."""
    svg: Markup

    @classmethod
    def of(cls, name: str, title: str, reading: str, figure: Figure) -> Drawn:
        """Convert a matplotlib figure to SVG; title and explanation are its text alternative."""
        return cls(name, title, reading, inline_svg(figure, name, f"{title}. {reading}"))


@dataclass(frozen=True)
class Findings:
    """The findings are all that the page shows of a run directory."""

    records: Mapping[str, ModelRecord]
    """The record of each model by name, the dense one first. The sentences are about the last."""
    sweeps: Mapping[Kind, Sensitivity]
    plans: Mapping[Kind, PlanResult]
    latency: Latency | None
    """The benchmark; ``None`` if there is none of these models."""
    quoted: Mapping[str, LatencyRow]
    """By model, the one benchmark row that tables and sentences quote."""
    profile: Staircase | None
    plan_outcomes: tuple[str, ...]
    """One line per plan, with its prediction and the measured result."""
    drawn: tuple[Drawn, ...]
    prune_command: str
    """The command that prunes this dense network by the file that the page offers."""
    commands: tuple[str, ...]
    """The command lines that made the results, in order."""
    left_out: tuple[str, ...] = ()
    """Models of the run directory that are not shown, with the reasons."""
    key: str = ""
    """Fingerprint of all files that the findings were read from; it is noted in the page."""


def render(findings: Findings) -> str:
    """Render the whole page as HTML.

    Every text in it is escaped. The page loads nothing, and its Content-Security-Policy forbids
    loading too.
    """
    names = list(findings.records)
    dense = findings.records[names[0]]
    shown = names[-1]
    model = findings.records[shown]
    spec = spec_from_dict(dense.spec)
    drawing = blocks(spec, spec_from_dict(model.spec))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["digits"] = digits
    return environment.from_string(_file("page.html")).render(
        version=__version__,
        key=findings.key,
        style=_file("page.css"),
        script=_file("page.js"),
        spec=spec,
        dense=dense,
        shown=shown,
        model=model,
        records=findings.records,
        repaired=repaired_models(findings.records),
        quoted=findings.quoted,
        case=next((row.case.label for row in findings.quoted.values()), None),
        summary=summary_sentences(
            dense, model, findings.quoted.get(shown), findings.latency, findings.left_out
        ),
        blocks=drawing,
        drawing_width=max(block.x + max(block.width_before, 12) for block in drawing) + GAP,
        drawing_height=HEIGHT,
        block_width=WIDTH,
        latency=findings.latency,
        unexplained=UNEXPLAINED,
        plan_outcomes=findings.plan_outcomes,
        explorer=explorer_data(
            spec,
            findings.sweeps.get("structured"),
            findings.profile,
            findings.plans.get("structured"),
        ),
        prune_command=findings.prune_command,
        overview=next((one for one in findings.drawn if one.name == OVERVIEW), None),
        repair_figure=next((one for one in findings.drawn if one.name == REPAIR), None),
        figures=[one for one in findings.drawn if one.name != OVERVIEW],
        commands=findings.commands,
        sweeps=findings.sweeps,
        plans=findings.plans,
    )


def digits(value: float) -> str:
    """Format a number with three significant digits, but with all digits before the point.

    There are at most six decimals. 0 and negative numbers have none.
    """
    return f"{value:.{min(max(2 - math.floor(math.log10(value)), 0), 6) if value > 0 else 0}f}"


def _file(name: str) -> str:
    return resources.files("tp_vgg.report").joinpath(name).read_text("utf-8")
