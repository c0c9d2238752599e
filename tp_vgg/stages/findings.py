"""The report page shows these figures, each if the run directory holds its data."""

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
from tp_vgg.report import figures, model_figures, pareto_figure, repair_figure, sweep_figures
from tp_vgg.report.page import OVERVIEW, REPAIR, Drawn
from tp_vgg.rundir.comparison import Comparison, repaired_models
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS, RunDir
from tp_vgg.rundir.pareto import pareto_of
from tp_vgg.sensitivity.table import Sensitivity


def drawn_figures(
    contents: RunContents,
    comparison: Comparison,
    sweeps: dict[Kind, Sensitivity],
    profile: Staircase | None,
) -> Iterator[Drawn]:
    """Yield the figures of the report page, each if the run directory holds its data.

    ``sweeps``: the sweeps of this dense model, by kind. ``profile``: the staircase profile to draw.
    Raises :class:`BadInput` if a checkpoint can't be read or is not that of its record.
    """
    if len(comparison.records) > 1:
        yield Drawn.of(
            OVERVIEW,
            "Accuracy against cost",
            _CAPTIONS[OVERVIEW],
            model_figures.accuracy_against_cost(comparison.records),
        )
    refitted = {
        model.name: model.repair.result
        for model in repaired_models(comparison.records)
        if model.repair.result is not None
    }
    if refitted:
        yield Drawn.of(
            REPAIR,
            "Repair, layer by layer",
            _CAPTIONS[REPAIR],
            repair_figure.repair_by_layer(refitted),
        )
    for kind, sweep in sweeps.items():
        yield Drawn.of(
            f"{kind}-sweep",
            f"{kind.capitalize()} sensitivity",
            _CAPTIONS[kind],
            sweep_figures.sensitivity(sweep),
        )
        yield Drawn.of(
            f"{kind}-layers",
            f"{kind.capitalize()} sensitivity, layer by layer",
            _CAPTIONS["layers"],
            sweep_figures.drops_by_layer(sweep),
        )
        yield Drawn.of(
            f"{kind}-cost",
            f"{kind.capitalize()} sensitivity by cost",
            _CAPTIONS["cost"],
            sweep_figures.sensitivity_cost(sweep),
        )
    if comparison.latency is not None and comparison.quoted():
        yield Drawn.of(
            "latency",
            "Speed-up against the MAC ratio",
            _CAPTIONS["latency"],
            model_figures.latency(comparison.latency),
        )
    if (table := pareto_of(contents, comparison.records[MODELS[0]])) is not None:
        yield Drawn.of(
            "pareto",
            "Accuracy of several budgets",
            _CAPTIONS["pareto"],
            pareto_figure.pareto(table),
        )
    if profile is not None:
        yield Drawn.of(
            "staircase",
            "Time of each conv over its width",
            _CAPTIONS["staircase"],
            figures.staircase([profile]),
        )
    trainings = {name: epochs for name in comparison.records if (epochs := contents.history(name))}
    if trainings:
        yield Drawn.of(
            "training", "Training curves", _CAPTIONS["training"], figures.history(trainings)
        )
    yield from _histograms(contents.run, comparison.records)


_CAPTIONS = {
    OVERVIEW: (
        "Up is more accurate, left is cheaper. Bars are 95 % intervals, and the dashed line is the"
        " dense model. Zeros in a dense kernel save no MACs, only parameters to store."
    ),
    REPAIR: (
        "The difference of each layer's outputs from the dense model's, on n images that no layer"
        " was fitted to; the layers before it are repaired already. Further left is better, and at"
        " the dotted line outputs that never change would do as well. A layer is kept as removed if"
        " refitting does not lower its error, and unchanged if pruning left it and its inputs as"
        " they were."
    ),
    "layers": (
        f"Drops from 0 to {sweep_figures.SCALE:g} points, where plans are made; a triangle at the"
        " edge is a point outside. Bands are 95 % intervals. The dashed line is at"
        f" {sweep_figures.THRESHOLD:g} point, and a title says up to which level no swept point of"
        " that layer is above it. The line is the same in each panel and is not a plan's budget:"
        " the drops of several layers add up."
    ),
    "structured": (
        "One layer pruned at a time, without fine-tuning: each cell is the accuracy lost, in"
        f" percentage points. Colours end at {sweep_figures.SCALE:g} points, since plans are made"
        " below that; the numbers go on. A layer is sensitive if its row changes colour at low"
        " ratios."
    ),
    "unstructured": (
        "One layer's smallest weights set to zero at a time, without fine-tuning. The layer whose"
        " line falls first is the most sensitive."
    ),
    "cost": (
        "The same points against the share of the network's MACs and parameters that they remove:"
        " if a layer's line stays high far to the right, pruning it costs little accuracy."
    ),
    "latency": (
        "On the dashed line, the speed-up equals the MAC ratio. Bars are 95 % intervals. A speed-up"
        " below 1 is slower than the dense model. A name beside a point is its model, a colour is"
        " the mode."
    ),
    "pareto": (
        "Each point is a model that was pruned to a budget and fine-tuned. Bars are 95 % intervals;"
        " the dashed line is the dense model. Further left is cheaper."
    ),
    "staircase": (
        "Where a line is flat, every width takes the same time: removing channels saves none."
    ),
    "training": (
        "The dashed line is accuracy on augmented training images, the other on val; the epoch with"
        " the best val accuracy is kept."
    ),
    "zeroed": (
        "Histogram of the weights before and after, in the layer with the highest sparsity. The bar"
        " in the middle is the zeros; the scale is logarithmic."
    ),
    "removed": (
        "The layer that lost the largest fraction of its filters. Left: histogram of its weights"
        " before and after, on one logarithmic axis. Right: its filters, by their L1 norm."
    ),
}


def _histograms(run: RunDir, records: dict[str, ModelRecord]) -> Iterator[Drawn]:
    """Yield the weights before and after pruning, for each kind of pruning.

    The layer is the one that lost the largest fraction of its weights or filters.
    """
    dense = _load(run, records[MODELS[0]])
    if "unstructured" in records:
        sparsity = {
            name: share
            for name, share in records["unstructured"].sparsity.items()
            if name in dense.spec.prunable
        }
        layer = max(sparsity, key=lambda name: sparsity[name])
        masked = _load(run, records["unstructured"])
        figure = figures.masked_weights(_weights(dense, layer), _weights(masked, layer), layer)
        yield Drawn.of("zeroed", f"Weights of {layer}, unstructured", _CAPTIONS["zeroed"], figure)
    if "structured_pruned" in records:
        pruned = _load(run, records["structured_pruned"])
        layer = min(
            dense.spec.prunable,
            key=lambda name: pruned.spec.prunable[name] / dense.spec.prunable[name],
        )
        before = _weights(dense, layer)
        kept = pruned.kept.get(layer, list(range(len(before))))
        norms = np.abs(before).reshape(len(before), -1).sum(1)
        figure = figures.removed_filters(before, kept, norms, layer, "L1 norm")
        yield Drawn.of("removed", f"Filters of {layer}, structured", _CAPTIONS["removed"], figure)


def _load(run: RunDir, record: ModelRecord) -> Network:
    model = checkpoint.load(run.root / record.checkpoint)
    if model.spec.to_dict() != record.spec:
        raise BadInput(
            f"{run.root / record.checkpoint}: has other widths than its record says;"
            " run its stage again"
        )
    return model


def _weights(model: Any, layer: str) -> np.ndarray:
    weights: np.ndarray = model.get_submodule(layer).weight.detach().numpy()
    return weights
