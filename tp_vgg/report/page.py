"""The page: what was found in, HTML out."""

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
from tp_vgg.sensitivity.table import Sensitivity


@dataclass(frozen=True)
class Drawn:
    """A figure of the page."""

    name: str
    """Letters, digits and dashes; unlike the others'."""
    title: str
    reading: str
    """How to read it, in a sentence or two."""
    svg: Markup

    @classmethod
    def of(cls, name: str, title: str, reading: str, figure: Figure) -> Drawn:
        return cls(name, title, reading, inline_svg(figure, name, f"{title}. {reading}"))


@dataclass(frozen=True)
class Findings:
    """All that a run directory says of itself. Records by model, the dense one first."""

    records: Mapping[str, ModelRecord]
    sweeps: Mapping[Kind, Sensitivity]
    plans: Mapping[Kind, PlanResult]
    latency: Latency | None
    quoted: Mapping[str, LatencyRow]
    """By model, the row of the benchmark that stands for it."""
    profile: Staircase | None
    plan_outcomes: tuple[str, ...]
    """What plans predicted and what came of it, a line each."""
    drawn: tuple[Drawn, ...]
    prune_command: str
    """What prunes this dense network by the file that the page gives."""
    commands: tuple[str, ...]
    """Command lines that made all this, in order."""
    key: str = ""
    """Fingerprint of what it was all read from; noted in the page."""


def render(found: Findings, *, quiet: bool = True) -> str:
    """The whole page. Every text in it is escaped; it asks for nothing from anywhere, and its policy forbids that too. Unless ``quiet``, a
    bar shows the plans being solved for it."""
    names = list(found.records)
    dense = found.records[names[0]]
    shown = names[-1]
    model = found.records[shown]
    spec = spec_from_dict(dense.spec)
    drawing = blocks(spec, spec_from_dict(model.spec))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["digits"] = digits
    return environment.from_string(_file("page.html")).render(
        version=__version__,
        key=found.key,
        style=_file("page.css"),
        script=_file("page.js"),
        spec=spec,
        dense=dense,
        shown=shown,
        model=model,
        records=found.records,
        quoted=found.quoted,
        case=next((row.case.label for row in found.quoted.values()), None),
        verdict=summary_sentences(dense, model, found.quoted.get(shown), found.latency),
        blocks=drawing,
        drawing_width=max(block.x + max(block.width_before, 12) for block in drawing) + GAP,
        drawing_height=HEIGHT,
        block_width=WIDTH,
        latency=found.latency,
        unexplained=UNEXPLAINED,
        plan_outcomes=found.plan_outcomes,
        explorer=explorer_data(
            spec,
            found.sweeps.get("structured"),
            found.profile,
            found.plans.get("structured"),
            quiet=quiet,
        ),
        prune_command=found.prune_command,
        figures=found.drawn,
        commands=found.commands,
        sweeps=found.sweeps,
        plans=found.plans,
    )


def digits(value: float) -> str:
    """Three significant digits, or all that are before the point."""
    return f"{value:.{min(max(2 - math.floor(math.log10(value)), 0), 6) if value > 0 else 0}f}"


def _file(name: str) -> str:
    return resources.files("tp_vgg.report").joinpath(name).read_text("utf-8")
