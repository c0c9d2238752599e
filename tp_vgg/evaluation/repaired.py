"""A repair leaves a record of what it did to a network; this module does not import torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tp_vgg.errors import first_of
from tp_vgg.evaluation.accuracy import Accuracy, check_counts, is_count

Outcome = Literal["refitted", "kept", "unchanged"]
"""``kept``: refitting did not lower the error, so that the layer has the weights from before.
``unchanged``: pruning left the layer's inputs and weights as they were."""


@dataclass(frozen=True)
class LayerRepair:
    """A layer repair says how far a layer's outputs are from those of the dense network.

    The error is ‖outputs − dense outputs‖ ÷ ‖dense outputs − their mean‖, over images that the
    refitting has not seen. The outputs are those before batch norm. The divisor is
    ‖dense outputs‖ if these do not vary, and 1 if they are 0.
    """

    before: float
    """Error with the weights that pruning left, on the inputs that the repaired network gives."""
    after: float
    """Error with the weights that the repair left, on the same inputs."""
    outcome: Outcome


@dataclass(frozen=True)
class RepairResult:
    """A repair result says what :func:`tp_vgg.repair` did to each layer."""

    layers: dict[str, LayerRepair]
    """By the layer's name, in the network's order."""
    images: int
    """Images to which the layers were fitted; shifted copies do not count."""
    held_out: int
    """Images on which the errors were measured; no layer was fitted to them."""

    def __repr__(self) -> str:
        layers = [
            f"{name} {layer.before:.2g} -> {layer.after:.2g}"
            for name, layer in self.layers.items()
            if layer.outcome == "refitted"
        ]
        changed = f"errors {first_of(layers, 4)}" if layers else "nothing changed"
        return f"<RepairResult: {changed}; from {self.images} images, {self.held_out} held out>"


@dataclass(frozen=True)
class RepairRecord:
    """A repair record is the part of a model's record that its repair left."""

    method: Literal["recalibrate", "reconstruct"]
    removed: Accuracy
    """Test accuracy after pruning, before the repair."""
    repaired: Accuracy
    """Test accuracy after the repair, before any fine-tuning."""
    result: RepairResult | None = None
    """The layers' errors; ``None`` for ``recalibrate``, which refits none."""
    removed_val: Accuracy | None = None
    """As ``removed``, on the val images."""
    repaired_val: Accuracy | None = None
    """As ``repaired``, on the val images."""

    def check(self, layers: Collection[str], n_test: int) -> None:
        """Raise ``ValueError`` for values that can't be of a network with these ``layers``."""
        for accuracy in (self.removed, self.repaired):
            check_counts(accuracy)
            if accuracy.n != n_test:
                raise ValueError("a repair measured on other test images")
        if (self.method == "reconstruct") != (self.result is not None):
            raise ValueError(f"the layers' errors do not belong to {self.method}")
        if self.result is None:
            return
        if not (is_count(self.result.images) and is_count(self.result.held_out)):
            raise ValueError("a repair without images")
        if not self.result.layers:
            raise ValueError("a repair of no layers")
        for name, layer in self.result.layers.items():
            errors = (layer.before, layer.after)
            if name not in layers or not all(0 <= e < math.inf for e in errors):
                raise ValueError(f"{name}: errors {errors} of a repair")
            falls = layer.after < layer.before
            if falls != (layer.outcome == "refitted") or layer.after > layer.before:
                raise ValueError(f"{name}: errors {errors} of a layer that was {layer.outcome}")

    def metrics(self) -> dict[str, Any]:
        """Return the entry in ``metrics.json``; accuracies are in percent."""
        result = self.result
        layers = {} if result is None else result.layers
        return {
            "method": self.method,
            "removed": self.removed.accuracy,
            "repaired": self.repaired.accuracy,
            "images": None if result is None else result.images,
            "held_out": None if result is None else result.held_out,
            "layers": {name: asdict(layer) for name, layer in layers.items()},
        }
