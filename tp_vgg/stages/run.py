"""The `run` stage runs the whole pipeline in order.

A step is skipped if its output is there and its inputs are unchanged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.table import FEW_TRIALS, cases_of
from tp_vgg.machine.console import muted
from tp_vgg.machine.device import pick_device
from tp_vgg.network.spec import Spec, conv_names
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import Plan, read_ratios
from tp_vgg.rundir.comparison import Comparison
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.expected import expected_spec
from tp_vgg.rundir.layout import MODELS, PLANS, RunDir
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.question import ALL_LAYERS, SweepQuestion
from tp_vgg.sensitivity.table import LEVELS
from tp_vgg.stages.benchmark import benchmark, benchmarked
from tp_vgg.stages.compare import compare
from tp_vgg.stages.defaults import baseline_recipe, duration, structured_epochs
from tp_vgg.stages.given import check_not_overwritten, given_network
from tp_vgg.stages.options import (
    BenchmarkOptions,
    StructuredOptions,
    StructuredRequest,
    UnstructuredOptions,
    UnstructuredRequest,
)
from tp_vgg.stages.plan import PlanOptions, plan, planned
from tp_vgg.stages.profile import profile
from tp_vgg.stages.report import report
from tp_vgg.stages.run_budget import RunOptions, check_attainable
from tp_vgg.stages.sensitivity import sensitivity
from tp_vgg.stages.structured import show_structured, structured
from tp_vgg.stages.train import dense
from tp_vgg.stages.unstructured import show_unstructured, unstructured

log = logging.getLogger(__name__)

BENCHMARK = BenchmarkOptions(cases_of(("eager", "folded"), ("fp32",), (1, 64)), FEW_TRIALS)
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
class _Step:
    """A step is one part of the pipeline."""

    name: str
    output: Path
    """File that the step writes, unless it is skipped. The remaining time is estimated from steps
    that wrote it; a directory does not count."""
    run: Callable[[], object]
    images: Callable[[Mapping[str, int]], float] = lambda _: 0.0
    """Rough number of forward passes of single images through the dense network, from the sizes of
    the splits; the remaining time is estimated from it."""


def run(settings: Settings, options: RunOptions) -> Comparison:
    """Run the pipeline from the dense model to the report and return the comparison of the models.

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
    steps = pipeline.steps()
    start = time.monotonic()
    seconds = images = 0.0  # of the steps that were not skipped
    sizes: Mapping[str, int] = {}
    for number, step in enumerate(steps, 1):
        images_left = (
            sum(later.images(sizes) for later in steps[number - 1 :])
            if images >= MIN_IMAGES
            else 0.0
        )
        to_go = f", about {duration(images_left * seconds / images)} to go" if images_left else ""
        so_far = duration(time.monotonic() - start)
        log.info(f"[{number}/{len(steps)}] {step.name}: {so_far} so far{to_go}")
        written_before, step_start = _write_time(step.output), time.monotonic()
        result = step.run()
        if isinstance(result, ModelRecord):
            sizes = result.data
        if _write_time(step.output) != written_before:
            seconds, images = seconds + time.monotonic() - step_start, images + step.images(sizes)
    return compare(settings)


def _write_time(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


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

    def steps(self) -> list[_Step]:
        """Return the steps in order."""
        timed = "latency" in self.options.of("structured")
        page = self.run_dir.work / "report.html"
        return [
            *([_Step("profile", self.run_dir.work / "profiles", self.time_convs)] if timed else []),
            self.baseline(),
            *(self.show("unstructured"), self.sweep("unstructured"), self.plan("unstructured")),
            _Step("unstructured pruning", self.run_dir.record_path("unstructured"), self.mask),
            *(self.show("structured"), self.sweep("structured")),
            self.plan("structured"),
            self.structured(),
            _Step("benchmark", self.run_dir.latency, self.benchmark, lambda _: 12_000),
            _Step("report", page, lambda: report(self.settings, anew=False)),
        ]  # fmt: skip

    def time_convs(self) -> None:
        """Profile the convs and check that the latency budget can be met.

        This is done before the dense model is trained, since a profile needs no weights. Raises
        :class:`BadInput` if the budget can't be met.
        """
        (table,) = profile(self.settings, PROFILE)
        check_attainable(self.spec, "structured", self.options, table)

    def baseline(self) -> _Step:
        """Return the step that gets the dense model, trained if there is none."""
        epochs = baseline_recipe(self.settings, self.spec, self.options.epochs).epochs
        return _Step(
            "baseline",
            self.run_dir.checkpoint("baseline", self.spec.stem),
            lambda: dense(self.settings, self.options.epochs),
            lambda sizes: 3 * epochs * sizes["train"],
        )

    def show(self, kind: Kind) -> _Step:
        """Return the step that draws the first conv before and after pruning half of it.

        It is skipped if the figure is newer than the dense model.
        """
        figure = self.run_dir.plot(f"{kind}_{DRAWN_LAYER}")
        half = Plan({DRAWN_LAYER: 0.5}, "--show")

        def draw() -> Path:
            weights = self.settings.checkpoint or self.run_dir.own_baseline(self.settings)
            if (
                weights
                and figure.is_file()
                and figure.stat().st_mtime_ns > weights.stat().st_mtime_ns
            ):
                return figure
            if kind == "structured":
                return show_structured(
                    self.settings,
                    StructuredRequest(lambda _: half, StructuredOptions(), DRAWN_LAYER),
                )
            return show_unstructured(
                self.settings,
                UnstructuredRequest(lambda _: half, UnstructuredOptions(), DRAWN_LAYER),
            )

        return _Step(f"{DRAWN_LAYER} before and after {kind} pruning", figure, draw)

    def sweep(self, kind: Kind) -> _Step:
        """Return the step that sweeps all layers that a plan can name."""
        layers = ALL_LAYERS if len(self.spec.prunable) > len(conv_names(self.spec)) else None
        question = SweepQuestion(
            kind, LEVELS, layers, seed=self.settings.seed, precision=self.settings.precision
        )
        points = len(LEVELS) * len(self.spec.prunable)
        return _Step(
            f"{kind} sweep",
            self.run_dir.work / "records" / f"{kind}_sensitivity.json",
            lambda: sensitivity(self.settings, question),
            lambda sizes: sizes["val"] * points / 2,
        )

    def plan(self, kind: Kind) -> _Step:
        """Return the step that finds the plan."""

        def solve() -> object:
            options = PlanOptions(
                kind,
                self.options.of(kind),
                self.options.round_to,
                profile=self.profile(kind),
                force=self.options.force,
            )
            contents = RunContents(self.run_dir)
            if not planned(self.settings, contents, options):
                return plan(self.settings, options)
            former = contents.plans[kind]
            if former.minimised == "drop" and former.least_drop is None:
                log.info(
                    f"the plan in {self.run_dir.plan} is of an earlier version, which removed more"
                    " than the budget asks for if that costs no drop; `plan` makes it anew"
                )
            return True

        return _Step(f"{kind} plan", self.run_dir.work / PLANS[kind], solve)

    def profile(self, kind: Kind) -> Path | None:
        """Return the file of this device's profile, by which the plan predicts latency.

        The convs are profiled if there is no such file. Returns ``None`` if ``kind`` has no latency
        budget.
        """
        if "latency" not in self.options.of(kind):
            return None
        with muted():
            (table,) = profile(replace(self.settings, quiet=True), PROFILE)
        return next(
            path
            for path, profiled in RunContents(self.run_dir).profiles(self.spec).items()
            if profiled.key == table.key
        )

    def mask(self) -> object:
        """Prune single weights by the plan, unless that model is there already."""
        weights_plan = read_ratios(self.run_dir.work / PLANS["unstructured"], "unstructured")
        return unstructured(
            self.settings,
            UnstructuredRequest(
                lambda _: weights_plan, UnstructuredOptions(), force=self.options.force
            ),
        )

    def structured(self) -> _Step:
        """Return the step that removes channels by the plan and fine-tunes."""
        options = StructuredOptions(finetune=self.options.finetune)
        epochs = structured_epochs(self.settings, options)
        share = self.options.of("structured").get("macs", 0.5)
        names = MODELS[2:] if epochs else MODELS[2:3]

        def prune_and_finetune() -> object:
            channels_plan = read_ratios(self.run_dir.work / PLANS["structured"])
            return structured(
                self.settings,
                StructuredRequest(lambda _: channels_plan, options, force=self.options.force),
            )

        return _Step(
            "structured pruning and fine-tuning",
            self.run_dir.record_path(names[-1]),
            prune_and_finetune,
            lambda sizes: epochs * sizes["train"] * (3 * share + 1),
        )

    def benchmark(self) -> object:
        """Time the models, unless that benchmark is there already."""
        options = CUDA_BENCHMARK if pick_device(self.settings.device).type == "cuda" else BENCHMARK
        return benchmarked(self.settings, options) or benchmark(self.settings, options)
