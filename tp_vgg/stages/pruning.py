"""What both pruning stages do alike: resolve the request, open the run directory, know their work again, draw a layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from matplotlib.figure import Figure

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.network.network import Network
from tp_vgg.pruning.ratios import Plan
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.baseline import baseline as baseline_of
from tp_vgg.stages.defaults import structured_epochs
from tp_vgg.stages.options import PruningRequest, StructuredOptions, UnstructuredOptions
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.session import Session, load_given, ranked, session

log = logging.getLogger(__name__)

Resolved = TypeVar("Resolved")


@dataclass(frozen=True)
class Pruning(Generic[Resolved]):
    """A pruning stage at work."""

    work: Session
    dense: Network
    baseline: ModelRecord
    """Of the dense model."""
    resolved: Resolved
    """What the request comes to for the dense model."""

    def draw(self, name: str, figure: Figure) -> Path:
        """Keep a figure. Returns its path."""
        path = keep_figure(self.work.settings, self.work.run, name, figure)
        log.info(f"drew {path}")
        return path


@contextmanager
def pruning(
    settings: Settings, request: PruningRequest[Any, Resolved]
) -> Iterator[Pruning[Resolved]]:
    """The dense model, given, there or trained now. A request that does not fit ``--checkpoint`` is refused before anything is written."""
    given = load_given(settings)
    if given is not None:
        request.resolve(given.spec)
    with ranked(settings) as (settings, ranks), session(settings, given, ranks) as work:
        dense, baseline = baseline_of(work, given)
        yield Pruning(work, dense, baseline, request.resolve(dense.spec))


def work_key(
    settings: Settings, baseline: str, plan: Plan, options: StructuredOptions | UnstructuredOptions
) -> str:
    """What a record has as its key, where the network was made of the dense checkpoint ``baseline`` (SHA-256) in this very way."""
    about = asdict(options)
    if isinstance(options, UnstructuredOptions):
        return fingerprint(baseline, dict(plan.values), about, settings.seed)
    about["recalibrate"] = {"none": False, "recalibrate": True}[about.pop("repair")]
    return fingerprint(
        baseline, dict(plan.values), about, settings.seed, structured_epochs(settings, options)
    )
