"""`run`: the whole pipeline in order; a stage is left out where its output is there and its inputs are unchanged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import FEW_TRIALS, cases_of
from tp_vgg.machine.console import muted
from tp_vgg.machine.device import pick_device
from tp_vgg.network.spec import Spec, conv_names
from tp_vgg.planning.budget import read_budget
from tp_vgg.planning.make_plan import Undecided, make_plan
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import Plan, read_ratios, removals
from tp_vgg.rundir.comparison import Comparison
from tp_vgg.rundir.contents import RunContents, expected_spec
from tp_vgg.rundir.layout import MODELS, PLANS, RunDir
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.question import ALL_LAYERS, SweepQuestion
from tp_vgg.sensitivity.table import LEVELS, Point, Sensitivity
from tp_vgg.stages.benchmark import benchmark, benchmarked
from tp_vgg.stages.compare import compare
from tp_vgg.stages.defaults import baseline_recipe, duration, structured_epochs
from tp_vgg.stages.options import (
    BenchmarkOptions,
    Finetune,
    StructuredOptions,
    StructuredRequest,
    UnstructuredOptions,
    UnstructuredRequest,
)
from tp_vgg.stages.plan import PlanOptions, plan, planned
from tp_vgg.stages.profile import profile
from tp_vgg.stages.pruning import work_key
from tp_vgg.stages.report import report
from tp_vgg.stages.sensitivity import sensitivity
from tp_vgg.stages.session import check_kept, load_given
from tp_vgg.stages.structured import show_structured, structured
from tp_vgg.stages.train import dense
from tp_vgg.stages.unstructured import show_unstructured, unstructured

log = logging.getLogger(__name__)

BUDGET = {"macs": 0.5}
"""Where the user says nothing, or nothing that a kind of pruning can meet."""
BENCHMARK = BenchmarkOptions(cases_of(("eager", "folded"), ("fp32",), (1, 64)), FEW_TRIALS)
CUDA_BENCHMARK = BenchmarkOptions(
    cases_of(("eager", "folded", "folded-graph"), ("fp32", "bf16"), (1, 64))
)
"""On a GPU, where a network is fastest in bf16 and in a graph, and a sample takes a fifth of the time."""
PROFILE = BenchmarkOptions(cases_of(("folded",), ("fp32",), (64,)))
ENOUGH = 5_000
"""Images worked on before the time to go is reckoned: start-up would weigh too much."""
SHOWN = "features.0"
"""The layer whose weights are drawn before and after, as the original study does."""
KINDS: tuple[Kind, ...] = ("unstructured", "structured")


@dataclass(frozen=True)
class RunOptions:
    budget: Mapping[str, float] = field(default_factory=lambda: dict(BUDGET))
    """Of both kinds; ``latency`` is for channels alone and ``sparsity`` for single weights."""
    round_to: int = 8
    epochs: int | None = None
    """Of the baseline, where there is none yet."""
    finetune: Finetune = field(default_factory=Finetune)
    """Of the smaller network."""

    def of(self, kind: Kind) -> dict[str, float]:
        """What of the budget ``kind`` can meet. Raises :class:`BadInput` for a budget that is none."""
        foreign = "sparsity" if kind == "structured" else "latency"
        mine = {name: value for name, value in self.budget.items() if name != foreign}
        return {str(name): value for name, value in read_budget(mine or BUDGET, kind).items()}


@dataclass(frozen=True)
class _Step:
    name: str
    output: Path
    """Written by the step, if it had anything to do."""
    do: Callable[[], object]
    work: Callable[[Mapping[str, int]], float] = lambda _: 0.0
    """Images through the whole network, roughly, given the sizes of the splits: what is still to come is reckoned from it."""


def run(settings: Settings, options: RunOptions) -> Comparison:
    """Everything from the dense model to the report. Raises :class:`BadInput` before any work for a budget that no sweep could meet and
    for a plan file that `plan` did not write."""
    pick_device(settings.device)
    given = load_given(settings)
    if given is not None and (path := settings.checkpoint) is not None:
        settings = settings.for_spec(given.spec)
        check_kept(path, RunDir.of(settings), given.spec.stem, MODELS[1:])
    spec = given.spec if given else expected_spec(settings)
    for kind in KINDS:
        check_attainable(spec, kind, options)
    pipeline = _Pipeline(settings, options, spec, RunDir.of(settings))
    pipeline.check_plans()
    steps = pipeline.steps()
    start = time.monotonic()
    spent = done = 0.0
    sizes: Mapping[str, int] = {}
    for place, step in enumerate(steps, 1):
        left = sum(later.work(sizes) for later in steps[place - 1 :]) if done >= ENOUGH else 0.0
        to_go = f", about {duration(left * spent / done)} to go" if left else ""
        log.info(
            f"[{place}/{len(steps)}] {step.name}: {duration(time.monotonic() - start)} so far{to_go}"
        )
        before, begun = _written(step.output), time.monotonic()
        found = step.do()
        if isinstance(found, ModelRecord):
            sizes = found.data
        if _written(step.output) != before:
            spent, done = spent + time.monotonic() - begun, done + step.work(sizes)
    return compare(settings)


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


@dataclass(frozen=True)
class _Pipeline:
    settings: Settings
    options: RunOptions
    spec: Spec
    """Of the dense model."""
    where: RunDir

    def check_plans(self) -> None:
        """Raise :class:`BadInput` for a plan file that `plan` did not write: it is somebody's own."""
        for kind in KINDS:
            path = self.where.work / PLANS[kind]
            if path.exists() and not RunContents(self.where).wrote(kind):
                raise BadInput(
                    f"{path}: is not a plan that `plan` wrote; move it away, or give a --tag or another --out"
                )

    def steps(self) -> list[_Step]:
        """In order."""
        timed = "latency" in self.options.of("structured")
        return [
            *([_Step("profile", self.where.root / "profiles", self.time_convs)] if timed else []),
            self.baseline(),
            *(self.show("unstructured"), self.sweep("unstructured"), self.plan("unstructured")),
            _Step("unstructured pruning", self.where.record_path("unstructured"), self.mask),
            *(self.show("structured"), self.sweep("structured")),
            self.plan("structured"),
            self.shrinking(),
            _Step("benchmark", self.where.latency, self.benchmark, lambda _: 12_000),
            _Step("report", self.where.work / "report.html", lambda: report(self.settings, anew=False)),
        ]  # fmt: skip

    def time_convs(self) -> None:
        """Before the dense model is trained: it takes no weights, and shows whether the budget of time can be met at all."""
        (table,) = profile(self.settings, PROFILE)
        check_attainable(self.spec, "structured", self.options, table)

    def baseline(self) -> _Step:
        epochs = baseline_recipe(self.settings, self.spec, self.options.epochs).epochs
        return _Step(
            "baseline",
            self.where.checkpoint("baseline", self.spec.stem),
            lambda: dense(self.settings, self.options.epochs),
            lambda sizes: 3 * epochs * sizes["train"],
        )

    def show(self, kind: Kind) -> _Step:
        """The first conv at half, unless it is drawn already and the dense model no newer."""
        figure, half = self.where.plot(f"{kind}_{SHOWN}"), Plan({SHOWN: 0.5}, "--show")

        def draw() -> Path:
            weights = self.settings.checkpoint or self.where.own_baseline(self.settings)
            if (
                weights
                and figure.is_file()
                and figure.stat().st_mtime_ns > weights.stat().st_mtime_ns
            ):
                return figure
            if kind == "structured":
                return show_structured(
                    self.settings, StructuredRequest(lambda _: half, StructuredOptions(), SHOWN)
                )
            return show_unstructured(
                self.settings, UnstructuredRequest(lambda _: half, UnstructuredOptions(), SHOWN)
            )

        return _Step(f"{SHOWN} before and after {kind} pruning", figure, draw)

    def sweep(self, kind: Kind) -> _Step:
        layers = ALL_LAYERS if len(self.spec.prunable) > len(conv_names(self.spec)) else None
        question = SweepQuestion(
            kind, LEVELS, layers, seed=self.settings.seed, precision=self.settings.precision
        )
        points = len(LEVELS) * len(self.spec.prunable)
        return _Step(
            f"{kind} sweep",
            self.where.work / "records" / f"{kind}_sensitivity.json",
            lambda: sensitivity(self.settings, question),
            lambda sizes: sizes["val"] * points / 2,
        )

    def plan(self, kind: Kind) -> _Step:
        def solve() -> object:
            asked = PlanOptions(
                kind,
                self.options.of(kind),
                self.options.round_to,
                profile=self.profile(kind),
                force=True,
            )
            return planned(self.settings, RunContents(self.where), asked) or plan(
                self.settings, asked
            )

        return _Step(f"{kind} plan", self.where.work / PLANS[kind], solve)

    def profile(self, kind: Kind) -> Path | None:
        """The profile of this device that the plan prices time by, where it does; it is made if it is not there."""
        if "latency" not in self.options.of(kind):
            return None
        with muted():
            (table,) = profile(replace(self.settings, quiet=True), PROFILE)
        return next(
            path
            for path, found in RunContents(self.where).profiles(self.spec).items()
            if found.key == table.key
        )

    def mask(self) -> object:
        asked, options = (
            read_ratios(self.where.work / PLANS["unstructured"], "unstructured"),
            UnstructuredOptions(),
        )
        there = self.made(
            ("unstructured",), lambda dense: work_key(self.settings, dense, asked, options)
        )
        return there or unstructured(self.settings, UnstructuredRequest(lambda _: asked, options))

    def shrinking(self) -> _Step:
        options = StructuredOptions(finetune=self.options.finetune)
        epochs = structured_epochs(self.settings, options)
        share = self.options.of("structured").get("macs", 0.5)
        names = MODELS[2:] if epochs else MODELS[2:3]

        def prune_channels() -> object:
            asked = read_ratios(self.where.work / PLANS["structured"])
            there = self.made(names, lambda dense: work_key(self.settings, dense, asked, options))
            return there or structured(self.settings, StructuredRequest(lambda _: asked, options))

        return _Step(
            "structured pruning and fine-tuning",
            self.where.record_path(names[-1]),
            prune_channels,
            lambda sizes: epochs * sizes["train"] * (3 * share + 1),
        )

    def made(self, names: tuple[str, ...], key: Callable[[str], str]) -> bool:
        """Whether the models are there, made of the dense one as it is in the way that ``key`` tells of."""
        with muted():
            found = RunContents(self.where).models
        if not {MODELS[0], *names} <= set(found):
            return False
        return {found[name].key for name in names} == {key(found[MODELS[0]].sha256)}

    def benchmark(self) -> object:
        options = CUDA_BENCHMARK if pick_device(self.settings.device).type == "cuda" else BENCHMARK
        return benchmarked(self.settings, options) or benchmark(self.settings, options)


def check_attainable(
    spec: Spec, kind: Kind, options: RunOptions, profile: Staircase | None = None
) -> None:
    """Raise :class:`BadInput` for a budget that can't be met however kind the sweep turns out (of time, only a ``profile`` knows)."""
    nothing = Accuracy(1, 1, 100.0, 0.0, 100.0)
    removed = removals(kind, spec, LEVELS, tuple(spec.prunable))
    points = tuple(
        Point(layer, level, count, **vars(nothing), drop=0.0, drop_low=0.0, drop_high=0.0, redone=0)
        for layer, counts in removed.items()
        for level, count in zip(LEVELS, counts, strict=True)
    )
    table = Sensitivity("", kind, "l1", "fp32", spec.to_dict(), nothing, points)
    unknown = ("drop",) if profile else ("drop", "latency")
    budget = {name: value for name, value in options.of(kind).items() if name not in unknown}
    try:
        if budget:
            make_plan(table, budget, round_to=options.round_to, profile=profile)
    except Undecided:
        return
    except BadInput:
        asked = ", ".join(f"{name}={value:g}" for name, value in budget.items())
        raise BadInput(
            f"--budget {asked}: {kind} pruning would have to take more than {LEVELS[-1]:g} of a layer, which is as far as `run` sweeps;"
            " give a larger budget, or a smaller --round-to"
        ) from None
