"""The `run` stage runs the whole pipeline in order.

A step is skipped if its output is there and its inputs are unchanged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.latency.table import FEW_TRIALS, cases_of
from tp_vgg.machine.console import muted
from tp_vgg.machine.device import pick_device
from tp_vgg.network.spec import Spec, conv_names
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import Plan, read_ratios
from tp_vgg.report.summary import verdict
from tp_vgg.rundir.comparison import Comparison
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.expected import expected_spec
from tp_vgg.rundir.layout import MODELS, PLANS, RunDir
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.question import ALL_LAYERS, SweepQuestion
from tp_vgg.sensitivity.table import LEVELS
from tp_vgg.stages.benchmark import benchmark, benchmarked
from tp_vgg.stages.compare import compare
from tp_vgg.stages.defaults import (
    baseline_recipe,
    default_finetune_epochs,
    structured_epochs,
)
from tp_vgg.stages.given import check_not_overwritten, given_network
from tp_vgg.stages.options import (
    BenchmarkOptions,
    StructuredOptions,
    StructuredRequest,
    UnstructuredOptions,
    UnstructuredRequest,
)
from tp_vgg.stages.plan import plan, planned
from tp_vgg.stages.plan_file import PlanOptions
from tp_vgg.stages.profile import profile
from tp_vgg.stages.report import report
from tp_vgg.stages.run_budget import RunOptions, check_attainable
from tp_vgg.stages.run_steps import Progress, Step
from tp_vgg.stages.sensitivity import sensitivity
from tp_vgg.stages.structured import show_structured, structured
from tp_vgg.stages.train import dense
from tp_vgg.stages.unstructured import show_unstructured, unstructured

log = logging.getLogger(__name__)

BENCHMARK = BenchmarkOptions(cases_of(("folded",), ("fp32",), (1, 64)), FEW_TRIALS)
"""Benchmark on a CPU. Each block times the dense model in eager mode too, so eager mode needs no
case of its own."""
CUDA_BENCHMARK = BenchmarkOptions(
    cases_of(("eager", "folded", "folded-graph"), ("fp32", "bf16"), (1, 64))
)
"""Benchmark on a GPU, where a network is fastest in bf16 and in a graph, and a sample takes a fifth
of the time."""
PROFILE = BenchmarkOptions(cases_of(("folded",), ("fp32",), (64,)))
MIN_IMAGES = 5_000
"""Images that must be processed before the remaining time is estimated; with fewer, the start-up
would count too much."""
DRAWN_LAYER = "features.0"
"""Layer whose weights are drawn before and after pruning, as in the original study."""
KINDS: tuple[Kind, ...] = ("unstructured", "structured")


@dataclass(frozen=True)
class Outcome:
    """An outcome is the end of a `run`: the table, the verdict in lines, and the page."""

    comparison: Comparison
    verdict: tuple[str, ...]
    page: Path


def run(settings: Settings, options: RunOptions) -> Outcome:
    """Run the pipeline from the dense model to the report; return the table and the verdict.

    Raises :class:`BadInput`, before any work, if the budget is not valid or no sweep could meet it,
    if ``--checkpoint`` can't be read or would be overwritten, and if a plan file is in the way that
    `plan` did not write. A latency budget is checked after the convs have been profiled.
    """
    pick_device(settings.device)
    settings, given_model = given_network(settings)
    settings = replace(settings, noted=True)
    if given_model is not None and (path := settings.checkpoint) is not None:
        check_not_overwritten(path, RunDir.of(settings), given_model.spec.stem, MODELS[1:])
    spec = given_model.spec if given_model else expected_spec(settings)
    for kind in KINDS:
        check_attainable(spec, kind, options)
    pipeline = _Pipeline(settings, options, spec, RunDir.of(settings))
    pipeline.check_plans()
    progress = Progress(pipeline.steps(), MIN_IMAGES)
    for number in range(len(progress.steps)):
        progress.do(number, settings)
    contents = RunContents.of(settings)
    comparison = compare(settings, contents=contents)
    if note := progress.summary():
        log.info(note)
    left_out = [f"{name} {fault}" for name, fault in contents.left_out.items()]
    return Outcome(comparison, verdict(comparison, left_out), contents.run.work / "report.html")


@dataclass(frozen=True)
class _Pipeline:
    """A pipeline makes the steps of one `run`; a step skips work that is done already."""

    settings: Settings
    options: RunOptions
    spec: Spec
    """Spec of the dense model."""
    run_dir: RunDir

    def check_plans(self) -> None:
        """Raise :class:`BadInput` for a plan file that `plan` did not write: a user made it.

        With ``--force`` it is replaced.
        """
        for kind in KINDS if not self.options.force else ():
            path = self.run_dir.work / PLANS[kind]
            if path.exists() and not RunContents(self.run_dir).wrote(kind):
                raise BadInput(
                    f"{path}: is not a plan that `plan` wrote;"
                    " move it away, give --force to replace it, or give a --tag or another --out"
                )

    def steps(self) -> list[Step]:
        """Return the steps in order."""
        timed = "latency" in self.options.of("structured")
        return [
            *([Step("profile", self.time_convs)] if timed else []),
            self.baseline(),
            *(self.show("unstructured"), self.sweep("unstructured"), self.plan("unstructured")),
            self.unstructured(),
            *(self.show("structured"), self.sweep("structured"), self.plan("structured")),
            self.structured(),
            Step("benchmark", self.benchmark, lambda _: 12_000),
            Step("report", lambda settings: report(settings, anew=False)),
        ]

    def time_convs(self, settings: Settings) -> None:
        """Profile the convs and check that the latency budget can be met.

        This is done before the dense model is trained, since a profile needs no weights. Raises
        :class:`BadInput` if the budget can't be met.
        """
        (table,) = profile(settings, PROFILE)
        check_attainable(self.spec, "structured", self.options, table)

    def baseline(self) -> Step:
        """Return the step that gets the dense model, trained if there is none."""
        epochs = baseline_recipe(self.settings, self.spec, self.options.epochs).epochs
        return Step(
            "baseline",
            lambda settings: dense(settings, self.options.epochs),
            lambda sizes: 3 * epochs * sizes["train"],
        )

    def show(self, kind: Kind) -> Step:
        """Return the step that draws the first conv before and after pruning half of it.

        It is skipped if the figure is newer than the dense model.
        """
        figure = self.run_dir.plot(f"{kind}_{DRAWN_LAYER}")
        half = Plan({DRAWN_LAYER: 0.5}, "--show")

        def draw(settings: Settings) -> Path:
            weights = settings.checkpoint or self.run_dir.own_baseline(settings)
            if (
                weights
                and figure.is_file()
                and figure.stat().st_mtime_ns > weights.stat().st_mtime_ns
            ):
                return figure
            settings.begin_work()
            if kind == "structured":
                return show_structured(
                    settings,
                    StructuredRequest(lambda _: half, StructuredOptions(), DRAWN_LAYER),
                )
            return show_unstructured(
                settings,
                UnstructuredRequest(lambda _: half, UnstructuredOptions(), DRAWN_LAYER),
            )

        return Step(f"{DRAWN_LAYER} before and after {kind} pruning", draw)

    def sweep(self, kind: Kind) -> Step:
        """Return the step that sweeps all layers that a plan can name."""
        layers = ALL_LAYERS if len(self.spec.prunable) > len(conv_names(self.spec)) else None
        question = SweepQuestion(
            kind,
            LEVELS,
            layers,
            repair="reconstruct",
            seed=self.settings.seed,
            precision=self.settings.precision,
        )
        points = len(LEVELS) * len(self.spec.prunable)
        return Step(
            f"{kind} sweep",
            lambda settings: sensitivity(settings, question),
            lambda sizes: sizes["val"] * points / 2,
        )

    def plan(self, kind: Kind) -> Step:
        """Return the step that finds the plan."""

        def solve(settings: Settings) -> None:
            options = PlanOptions(
                kind,
                self.options.of(kind),
                self.options.round_to,
                profile=self.profile(kind, settings),
                force=self.options.force,
            )
            contents = RunContents(self.run_dir)
            if not planned(settings, contents, options):
                settings.begin_work()
                plan(settings, options)
                return
            former = contents.plans[kind]
            if former.minimised == "drop" and former.least_drop is None:
                log.info(
                    f"the plan in {self.run_dir.plan} is of an earlier version, which removed more"
                    " than the budget asks for if that costs no drop; `plan` makes it anew"
                )

        return Step(f"{kind} plan", solve)

    def profile(self, kind: Kind, settings: Settings) -> Path | None:
        """Return the file of this device's profile, by which the plan predicts latency.

        The convs are profiled if there is no such file. Returns ``None`` if ``kind`` has no latency
        budget.
        """
        if "latency" not in self.options.of(kind):
            return None
        with muted():
            (table,) = profile(replace(settings, quiet=True), PROFILE)
        return next(
            path
            for path, profiled in RunContents(self.run_dir).profiles(self.spec).items()
            if profiled.key == table.key
        )

    def unstructured(self) -> Step:
        """Return the step that sets weights to zero by the plan and fine-tunes."""
        finetune = self.options.finetune
        if finetune.epochs is None:
            finetune = replace(finetune, epochs=default_finetune_epochs(self.settings))
        epochs = finetune.epochs or 0
        options = UnstructuredOptions(finetune=finetune)

        def mask_and_finetune(settings: Settings) -> object:
            weights_plan = read_ratios(self.run_dir.work / PLANS["unstructured"], "unstructured")
            return unstructured(
                settings,
                UnstructuredRequest(lambda _: weights_plan, options, force=self.options.force),
            )

        return Step(
            _pruning_name("unstructured", epochs),
            mask_and_finetune,
            lambda sizes: epochs * sizes["train"] * 4,
        )

    def structured(self) -> Step:
        """Return the step that removes channels by the plan and fine-tunes."""
        options = StructuredOptions(finetune=self.options.finetune)
        epochs = structured_epochs(self.settings, options)
        share = self.options.of("structured").get("macs", 0.5)

        def prune_and_finetune(settings: Settings) -> object:
            channels_plan = read_ratios(self.run_dir.work / PLANS["structured"])
            return structured(
                settings,
                StructuredRequest(lambda _: channels_plan, options, force=self.options.force),
            )

        return Step(
            _pruning_name("structured", epochs),
            prune_and_finetune,
            lambda sizes: epochs * sizes["train"] * (3 * share + 1),
        )

    def benchmark(self, settings: Settings) -> object:
        """Time the models, unless that benchmark is there already."""
        options = CUDA_BENCHMARK if pick_device(settings.device).type == "cuda" else BENCHMARK
        if benchmarked(settings, options):
            return None
        settings.begin_work()
        return benchmark(settings, options)


def _pruning_name(kind: Kind, epochs: int) -> str:
    return f"{kind} pruning{' and fine-tuning' if epochs else ''}"
