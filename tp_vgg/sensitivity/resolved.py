"""A sweep's question resolved against a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.errors import BadInput
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.machine.precision import screening_pays
from tp_vgg.network.masks import is_masked
from tp_vgg.network.network import Network
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.repair import Repair
from tp_vgg.sensitivity.question import Precision, SweepQuestion
from tp_vgg.sensitivity.table import SENSITIVITY


@dataclass(frozen=True)
class ResolvedSweep:
    """A :class:`SweepQuestion` that fits a network, with what it takes away."""

    kind: Kind
    levels: tuple[float, ...]
    """Rising."""
    removed: Mapping[str, tuple[int, ...]]
    """Channels or weights, by layer and level."""
    importance: str
    seed: int
    precision: Precision
    """``fp32``, ``bf16`` or ``screened``."""
    repair: Repair = "none"
    needs_gradients: bool = False
    sample: Split | None = field(default=None, compare=False, repr=False)
    """The images that a repair works with; ``None`` where there is none."""

    @classmethod
    def of(
        cls, question: SweepQuestion, model: Network, sample: Split | None = None
    ) -> ResolvedSweep:
        """``sample``: images for the question's repair. Raises :class:`BadInput` for a masked model, and as :meth:`SweepQuestion.removed` does."""
        if any(is_masked(module) for module in model.modules()):
            raise BadInput(
                "the model has weight masks; remove them (torch.nn.utils.prune.remove) before a sweep"
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
        )

    def key(self, model: Network, split: Split) -> str:
        """Fingerprint of everything that the counts over ``split`` depend on."""
        state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        shapes = [(name, str(value.dtype), list(value.shape)) for name, value in state.items()]
        images = split.images.permute(0, 2, 3, 1).cpu()
        tensors = [*state.values(), images, split.labels.cpu()]
        if self.sample is not None:
            tensors.append(self.sample.images.permute(0, 2, 3, 1).cpu())
        if self.needs_gradients:
            tensors += [value.grad.cpu() for value in model.parameters() if value.grad is not None]
        about = {
            "device": split.labels.device.type,
            "kind": self.kind,
            "levels": self.levels,
            "removed": self.removed,
            "importance": self.importance,
            "seed": self.seed,
            "precision": self.precision,
            "recalibrated": {"none": False, "recalibrate": True}[self.repair],
            "spec": model.spec.to_dict(),
            "normalisation": asdict(Normalisation.of(model.meta)),
        }
        return fingerprint(
            SENSITIVITY,
            about,
            shapes,
            list(images.shape),
            *(t.contiguous().numpy().data for t in tensors),
        )

    @property
    def rows(self) -> list[tuple[str | None, float]]:
        """What is counted: the dense model (no layer, 0), then every layer's levels."""
        return [(None, 0.0), *((layer, level) for layer in self.removed for level in self.levels)]
