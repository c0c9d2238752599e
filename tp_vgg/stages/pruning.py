"""Both pruning stages use these steps.

They resolve the request, open the run directory, draw a layer, and recognise finished work by its
key.
"""

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
from tp_vgg.stages.session import Session, load_given, open_session, ranked

log = logging.getLogger(__name__)

Resolved = TypeVar("Resolved")


@dataclass(frozen=True)
class Pruning(Generic[Resolved]):
    """A Pruning holds what a pruning stage works with."""

    session: Session
    dense: Network
    """The dense model, on the session's device; the stage prunes it in place."""
    baseline: ModelRecord
    """Record of the dense model."""
    resolved: Resolved
    """The request, resolved against the dense model's spec."""

    def draw(self, name: str, figure: Figure) -> Path:
        """Save a figure as ``plots/NAME.png`` and return its path."""
        path = keep_figure(self.session.settings, self.session.run, name, figure)
        log.info(f"drew {path}")
        return path


@contextmanager
def pruning(
    settings: Settings, request: PruningRequest[Any, Resolved]
) -> Iterator[Pruning[Resolved]]:
    """Open a session with the dense model and the resolved request, for the duration of the block.

    The dense model is that of :func:`tp_vgg.stages.baseline.baseline`, which trains one if there is
    none. Raises :class:`~tp_vgg.errors.BadInput` if the request does not fit the model; for that of
    ``--checkpoint``, before anything is written.
    """
    given_model = load_given(settings)
    if given_model is not None:
        request.resolve(given_model.spec)
    with (
        ranked(settings) as (settings, ranks),
        open_session(settings, given_model, ranks) as session,
    ):
        dense, baseline = baseline_of(session, given_model)
        yield Pruning(session, dense, baseline, request.resolve(dense.spec))


def work_key(
    settings: Settings, baseline: str, plan: Plan, options: StructuredOptions | UnstructuredOptions
) -> str:
    """Return the key of the records of models that are pruned in this way.

    It is a fingerprint of the dense checkpoint (``baseline``: its SHA-256), the plan, the options,
    the seed and, for structured pruning, the epochs.
    """
    parts = asdict(options)
    if isinstance(options, UnstructuredOptions):
        return fingerprint(baseline, dict(plan.values), parts, settings.seed)
    parts["recalibrate"] = {"none": False, "recalibrate": True}[parts.pop("repair")]
    return fingerprint(
        baseline, dict(plan.values), parts, settings.seed, structured_epochs(settings, options)
    )
