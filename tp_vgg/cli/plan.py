from __future__ import annotations

from pathlib import Path

import click

from tp_vgg.cli.options import COUNT, PATH, budget_from, check_file, common_options
from tp_vgg.plans import Allocation, read_budget
from tp_vgg.spec import Kind
from tp_vgg.stages.settings import Settings
from tp_vgg.tables import text_table


@click.command("plan")
@common_options
@click.option(
    "--kind",
    type=click.Choice(["structured", "unstructured"]),
    default="structured",
    show_default=True,
    help="What to plan.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="macs=, params=, latency= (fraction to keep), drop= (percentage points), sparsity= (zeros). May repeat: all hold.",
)
@click.option(
    "--round-to", type=COUNT, default=8, show_default=True, metavar="N", help="Channels stay multiples of it."
)
@click.option("--output", type=PATH, help="Where the plan goes (OUT/ratios.json; unstructured OUT/sparsity.json).")
@click.option("--profile", type=PATH, help="Of `benchmark --profile`, for latency= (the one in OUT/profiles).")
@click.option("--force", is_flag=True, help="Replace a plan file that says something else.")
def command(
    settings: Settings,
    kind: Kind,
    budgets: tuple[str, ...],
    round_to: int,
    output: Path | None,
    profile: Path | None,
    force: bool,
) -> None:
    """From a budget to ratios: the plan with the smallest predicted drop.

    Reads the sweep of `sensitivity`, and for a latency budget the table of `benchmark --profile`. With drop= the other way round: the smallest
    network whose predicted drop stays within it, by the first other budget or else by parameters. Predicted drops are before
    fine-tuning; `compare` puts them beside what came out.

    \b
    Example: python -m tp_vgg plan --dataset digits --budget macs=0.5
    """
    budget = budget_from(budgets)
    read_budget(budget, kind)
    if profile is not None:
        check_file("--profile", profile)

    from tp_vgg.stages.plan import PlanOptions, plan

    found, path = plan(settings, PlanOptions(kind, budget, round_to, output, profile, force))
    click.echo(render_plan(found))
    settings.note(f"wrote {path}; next: python -m tp_vgg {kind} --ratios {path}{_flags(found)}, with the same options")


def _flags(found: Allocation) -> str:
    """What the sweep did beyond its defaults, so that the prediction holds for what is pruned."""
    importance = "" if found.importance == "l1" else f" --importance {found.importance}"
    return importance + (" --recalibrate" if found.recalibrated and found.kind == "structured" else "")


def render_plan(found: Allocation) -> str:
    """The plan as a table, and under it what is predicted."""
    structured, said = found.kind == "structured", found.prediction
    rows = [
        [
            row.layer,
            f"{row.ratio:g}",
            f"{row.before:,} → {row.after:,}",
            f"{row.after / row.before:.3f}×",
            f"{row.drop:+.2f}",
        ]
        for row in found.layers
    ]
    what = ["ratio", "channels"] if structured else ["sparsity", "weights"]
    lines = [text_table(["layer", *what, "kept", "drop alone"], rows)]
    asked = ", ".join(f"{name}={value:g}" for name, value in found.budget.items())
    sizes = [f"{said.params_share:.4f}× params ({said.params:,})", f"{said.macs_share:.4f}× MACs ({said.macs:,})"]
    if not structured:
        sizes = [f"{said.sparsity:.4f} zeros", *(f"{size} not zero" for size in sizes)]
    if said.latency_share is not None and found.profile is not None:
        about = found.profile
        sizes.append(
            f"{said.latency_share:.3f}× time of the convs ({about['device']}, {about['dtype']}, batch {about['batch_size']})"
        )
    lines.append(f"budget {asked}; predicted: {', '.join(sizes)}")
    split = f"{found.sweep['split']} images" if found.sweep.get("split") else "images"
    lines.append(
        f"predicted drop before fine-tuning: {said.drop:+.2f} points, to {said.accuracy:.2f} % (on {found.sweep['n']} {split}, by the sweep)"
    )
    unit = "points" if found.minimised == "drop" else found.minimised
    below = f"the best can be {found.gap:.3g} {unit} below, not more"
    lines.append(f"minimised: {found.minimised}; {below if found.gap else 'no plan within the budget has less of it'}")
    return "\n".join(lines)
