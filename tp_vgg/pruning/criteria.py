"""The importance criteria as data (no torch): how channels are ranked, and what a ranking needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tp_vgg.errors import BadInput
from tp_vgg.network.spec import Spec, conv_names

Kind = Literal["structured", "unstructured"]
"""Of pruning: channels removed, or weights zeroed."""
# Only the layer's own filter counts, unscaled; torch-pruning's defaults average over the coupled layers.
_FIRST: Mapping[str, Any] = {"group_reduction": "first", "normalizer": None}


@dataclass(frozen=True)
class Criterion:
    """A class of ``torch_pruning.importance`` and its options; channels with a higher score are kept."""

    scorer: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_batch_norm: bool = False
    needs_gradients: bool = False
    squared: bool = False
    """Of each image's gradient the square, instead of the gradient of all."""


WEIGHT_CRITERIA = ("l1", "taylor")
"""How single weights are ranked: by magnitude, or by |weight · gradient|."""
CRITERIA: Mapping[str, Criterion] = {
    "l1": Criterion(
        "MagnitudeImportance", "L1 norm of the filter: Li et al. 2017", {"p": 1, **_FIRST}
    ),
    "l2": Criterion("MagnitudeImportance", "squared L2 norm of the filter", {"p": 2, **_FIRST}),
    "bn": Criterion(
        "BNScaleImportance", "batch norm's scale: Liu et al. 2017", _FIRST, needs_batch_norm=True
    ),
    "taylor": Criterion(
        "TaylorImportance",
        "sum of |weight · gradient|: Molchanov et al. 2019",
        _FIRST,
        needs_gradients=True,
    ),
    "fpgm": Criterion("FPGMImportance", "distance to the other filters: He et al. 2019", _FIRST),
    "lamp": Criterion(
        "LAMPImportance",
        "squared norm over that of all larger filters: Lee et al. 2021; within a layer it ranks as l2 does",
        {"p": 2, "group_reduction": "first"},
    ),
    "hessian": Criterion(
        "HessianImportance",
        "sum of weight² · mean squared gradient, the diagonal of the empirical Fisher: LeCun et al. 1989",
        _FIRST,
        needs_gradients=True,
        squared=True,
    ),
    "random": Criterion("RandomImportance", "the control"),
}


def check_importance(
    importance: str, spec: Spec, layers: Iterable[str], kind: Kind = "structured"
) -> None:
    """Raise :class:`BadInput` where ``importance`` is unknown or can't rank ``layers`` of such a network."""
    if kind == "unstructured" and importance != "l1":
        raise BadInput(
            f"--importance {importance}: a sweep ranks single weights by magnitude alone; use l1"
        )
    if importance not in CRITERIA:
        raise BadInput(f"--importance: {importance!r} is not one of {', '.join(CRITERIA)}")
    if not CRITERIA[importance].needs_batch_norm:
        return
    bare = [name for name in layers if not (spec.batch_norm and name in conv_names(spec))]
    if bare:
        raise BadInput(
            f"--importance {importance}: {bare[0]} of {spec.arch} has no batch norm to rank by; use l1"
        )
