"""What a sweep asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.errors import BadInput
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.machine.precision import screening_pays
from tp_vgg.network.masks import is_masked
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.criteria import CRITERIA, Kind, check_importance
from tp_vgg.pruning.ratios import removals
from tp_vgg.pruning.repair import check_recalibrate
from tp_vgg.sensitivity.table import LEVELS, SENSITIVITY

PRECISIONS = ("auto", "fp32", "bf16", "screened")


@dataclass(frozen=True)
class Sweep:
    """What is asked of a network, resolved and checked."""

    kind: Kind
    levels: tuple[float, ...]
    removed: Mapping[str, tuple[int, ...]]
    """Channels or weights, by layer and level."""
    importance: str
    seed: int
    precision: str
    """``fp32``, ``bf16`` or ``screened``."""
    recalibrated: bool = False
    """Batch norm behind the pruned layer has statistics of its own at every point."""

    @classmethod
    def of(
        cls,
        model: VGG,
        kind: Kind,
        levels: Sequence[float] = LEVELS,
        layers: Sequence[str] | None = None,
        importance: str = "l1",
        seed: int = 0,
        precision: str = "auto",
        *,
        recalibrate: bool = False,
    ) -> Sweep:
        """Resolved against ``model``; see :func:`sweep` for the arguments and errors. ``precision``: ``auto`` screens in bf16 and
        verifies in fp32 where that is faster (:func:`~tp_vgg.machine.device.screening_pays`), and is fp32 elsewhere."""
        if any(is_masked(module) for module in model.modules()):
            raise BadInput("the model has weight masks; remove them (torch.nn.utils.prune.remove) before a sweep")
        if kind not in get_args(Kind) or precision not in PRECISIONS:
            raise BadInput(
                f"kind {kind!r}, precision {precision!r}: give one of {get_args(Kind)} and one of {PRECISIONS}"
            )
        if isinstance(layers, str):
            raise BadInput(f"layers: {layers!r} is one name; give a list of names")
        levels = tuple(sorted(map(float, levels)))
        removed = removals(kind, model.spec, levels, layers)
        check_importance(importance, model.spec, removed, kind)
        if recalibrate:
            check_recalibrate(model.spec)
        if precision == "auto":
            precision = "screened" if screening_pays(next(model.parameters()).device) else "fp32"
        return cls(kind, levels, removed, importance, seed, precision, recalibrate)

    def key(self, model: VGG, split: Split, sample: Split | None = None) -> str:
        """Fingerprint of everything that the counts depend on; ``sample``: the images for new statistics."""
        state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        shapes = [(name, str(value.dtype), list(value.shape)) for name, value in state.items()]
        images = split.images.permute(0, 2, 3, 1).cpu()
        tensors = [*state.values(), images, split.labels.cpu()]
        if sample is not None:
            tensors.append(sample.images.permute(0, 2, 3, 1).cpu())
        if CRITERIA[self.importance].needs_gradients:
            tensors += [value.grad.cpu() for value in model.parameters() if value.grad is not None]
        about = {
            "device": split.labels.device.type,
            **asdict(self),
            "spec": model.spec.to_dict(),
            "normalisation": asdict(Normalisation.of(model.meta)),
        }
        return fingerprint(
            SENSITIVITY, about, shapes, list(images.shape), *(t.contiguous().numpy().data for t in tensors)
        )

    @property
    def rows(self) -> list[tuple[str | None, float]]:
        """What is counted: the dense model (no layer, 0), then every layer's levels."""
        return [(None, 0.0), *((layer, level) for layer in self.removed for level in self.levels)]
