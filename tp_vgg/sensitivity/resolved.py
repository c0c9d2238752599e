"""A resolved sweep is a sweep question that was checked against a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.errors import BadInput
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.machine.precision import screening_pays
from tp_vgg.network.masks import is_masked
from tp_vgg.network.network import Network
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.repairs import REFITS, Repair
from tp_vgg.sensitivity.question import Precision, SweepQuestion
from tp_vgg.sensitivity.reconstructed import RepairImages
from tp_vgg.sensitivity.table import SENSITIVITY


@dataclass(frozen=True)
class ResolvedSweep:
    """A resolved sweep is a :class:`SweepQuestion` that fits a network.

    It says how many channels or weights each level removes from each layer.
    """

    kind: Kind
    levels: tuple[float, ...]
    """Fractions in [0, 1), rising."""
    removed: Mapping[str, tuple[int, ...]]
    """Number of channels or weights to remove, by layer (in the network's order) and level."""
    importance: str
    seed: int
    precision: Precision
    """``fp32``, ``bf16`` or ``screened``; ``auto`` is resolved."""
    repair: Repair = "none"
    needs_gradients: bool = False
    sample: Split | None = field(default=None, compare=False, repr=False)
    """Training images on which batch norm is recalibrated; ``None`` if it is not."""
    repair_images: RepairImages | None = field(default=None, compare=False, repr=False)
    """Training images to which weights are refitted; ``None`` if they are not."""
    repair_linear: bool = False
    refitted: frozenset[str] = frozenset()
    """Layers at which weights are refitted when they are pruned."""

    @classmethod
    def of(
        cls,
        question: SweepQuestion,
        model: Network,
        sample: Split | None = None,
        repair_images: RepairImages | None = None,
    ) -> ResolvedSweep:
        """Return ``question`` resolved against ``model``.

        ``sample`` and ``repair_images``: training images, the one that the question's repair needs.

        Raises :class:`BadInput` if the model has weight masks, and as :meth:`SweepQuestion.removed`
        does.
        """
        if any(is_masked(module) for module in model.modules()):
            raise BadInput(
                "the model has weight masks; "
                "remove them (torch.nn.utils.prune.remove) before a sweep"
            )
        removed, precision = question.removed(model.spec), question.precision
        if precision == "auto":
            precision = "screened" if screening_pays(next(model.parameters()).device) else "fp32"
        return cls(
            question.kind,
            tuple(sorted(map(float, question.levels))),
            removed,
            question.importance,
            question.seed,
            precision,
            question.repair,
            question.needs_gradients,
            sample,
            repair_images,
            question.repair_linear,
            frozenset(question.refitted(model.spec)),
        )

    def key(self, model: Network, split: Split) -> str:
        """Return a fingerprint of everything that the counts over ``split`` depend on.

        That is: weights, images, labels, the repair's sample, gradients if the importance reads
        them, the options, the kind of device and the version of the table's format.
        """
        state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        shapes = [(name, str(value.dtype), list(value.shape)) for name, value in state.items()]
        images = split.images.permute(0, 2, 3, 1).cpu()
        tensors = [*state.values(), images, split.labels.cpu()]
        if self.sample is not None:
            tensors.append(self.sample.images.permute(0, 2, 3, 1).cpu())
        if self.repair_images is not None:
            tensors.append(self.repair_images.images.cpu())
        if self.needs_gradients:
            tensors += [value.grad.cpu() for value in model.parameters() if value.grad is not None]
        options: dict[str, Any] = {
            "device": split.labels.device.type,
            "kind": self.kind,
            "levels": self.levels,
            "removed": self.removed,
            "importance": self.importance,
            "seed": self.seed,
            "precision": self.precision,
            "recalibrated": self.repair == "recalibrate",
            "spec": model.spec.to_dict(),
            "normalisation": asdict(Normalisation.of(model.meta)),
        }
        if self.repair_images is not None:
            options["reconstruct"] = [REFITS, self.repair_images.flip, self.repair_linear]
        return fingerprint(
            SENSITIVITY,
            options,
            shapes,
            list(images.shape),
            *(t.contiguous().numpy().data for t in tensors),
        )

    @property
    def rows(self) -> list[tuple[str | None, float]]:
        """Return (layer, level) of everything that is counted.

        The first row is the dense model, ``(None, 0.0)``; each layer's levels follow.
        """
        return [(None, 0.0), *((layer, level) for layer in self.removed for level in self.levels)]
