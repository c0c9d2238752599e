"""The figures of the page, of all that the run directory has the data of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.profile import Staircase
from tp_vgg.network import checkpoint
from tp_vgg.network.network import Network
from tp_vgg.pruning.criteria import Kind
from tp_vgg.report import figures
from tp_vgg.report.page import Drawn
from tp_vgg.rundir.comparison import Comparison
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS, RunDir
from tp_vgg.sensitivity.table import Sensitivity


def drawn_figures(
    contents: RunContents,
    found: Comparison,
    sweeps: dict[Kind, Sensitivity],
    profile: Staircase | None,
) -> Iterator[Drawn]:
    """All figures that the run directory has the data of."""
    for kind, sweep in sweeps.items():
        yield Drawn.of(
            f"{kind}-sweep",
            f"{kind.capitalize()} sensitivity",
            _READING[kind],
            figures.sensitivity(sweep),
        )
        yield Drawn.of(f"{kind}-cost", f"{kind.capitalize()} sensitivity by cost", _READING["cost"], figures.sensitivity_cost(sweep))  # fmt: skip
    if found.latency is not None and found.quoted():
        yield Drawn.of(
            "latency",
            "Speed-up against the MAC ratio",
            _READING["latency"],
            figures.latency(found.latency),
        )
    if profile is not None:
        yield Drawn.of(
            "staircase",
            "Time of each conv over its width",
            _READING["staircase"],
            figures.staircase([profile]),
        )
    trainings = {name: epochs for name in found.records if (epochs := contents.history(name))}
    if trainings:
        yield Drawn.of(
            "training", "Training curves", _READING["training"], figures.history(trainings)
        )
    yield from _histograms(contents.run, found.records)


_READING = {
    "structured": "One layer pruned at a time, without fine-tuning: each cell is the accuracy lost, in points. A row whose colour leaves that of 0 early is a sensitive layer.",
    "unstructured": "One layer's smallest weights set to zero at a time, without fine-tuning. The layer whose line falls first is the most sensitive.",
    "cost": "The same points against what they take out of the network: a line that stays high far to the right is where pruning is cheap.",
    "latency": "Points on the dashed line give all that their MACs promise; bars are 95 % intervals; below 1 is slower.",
    "staircase": "Flat parts cost the same at every width: removing channels there buys no time.",
    "training": "The dashed line is accuracy on augmented training images, the other on val; the epoch with the best val accuracy is kept.",
    "zeroed": "How many weights have which size, before and after, in the layer that lost the largest share. The bar in the middle is the zeros; the scale is logarithmic.",
    "removed": "The layer that lost the largest share. Left: how many weights have which size, before and after, on one logarithmic axis. Right: its filters by their L1 norm.",
}


def _histograms(run: RunDir, records: dict[str, ModelRecord]) -> Iterator[Drawn]:
    """Weights before and after of the layer that lost the largest share, of each kind of pruning."""
    dense = _loaded(run, records[MODELS[0]])
    if "unstructured" in records:
        sparsity = {
            name: share
            for name, share in records["unstructured"].sparsity.items()
            if name in dense.spec.prunable
        }
        layer = max(sparsity, key=lambda name: sparsity[name])
        masked = _loaded(run, records["unstructured"])
        figure = figures.masked_weights(_weights(dense, layer), _weights(masked, layer), layer)
        yield Drawn.of("zeroed", f"Weights of {layer}, unstructured", _READING["zeroed"], figure)
    if "structured_pruned" in records:
        pruned = _loaded(run, records["structured_pruned"])
        layer = min(
            dense.spec.prunable,
            key=lambda name: pruned.spec.prunable[name] / dense.spec.prunable[name],
        )
        before = _weights(dense, layer)
        kept = pruned.kept.get(layer, list(range(len(before))))
        norms = np.abs(before).reshape(len(before), -1).sum(1)
        figure = figures.removed_filters(before, kept, norms, layer, "L1 norm")
        yield Drawn.of("removed", f"Filters of {layer}, structured", _READING["removed"], figure)


def _loaded(run: RunDir, record: ModelRecord) -> Network:
    model = checkpoint.load(run.root / record.checkpoint)
    if model.spec.to_dict() != record.spec:
        raise BadInput(
            f"{run.root / record.checkpoint}: has other widths than its record says; run its stage again"
        )
    return model


def _weights(model: Any, layer: str) -> np.ndarray:
    weights: np.ndarray = model.get_submodule(layer).weight.detach().numpy()
    return weights
