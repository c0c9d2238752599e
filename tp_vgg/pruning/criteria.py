"""This module lists how each importance criterion ranks channels and what it needs.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tp_vgg.errors import BadInput
from tp_vgg.network.spec import Spec, conv_names

Kind = Literal["structured", "unstructured"]
"""The kind of pruning: channels are removed (structured) or weights zeroed (unstructured)."""
# torch-pruning's defaults average over the coupled layers and rescale the scores. With these
# options the score comes from the layer's own filter alone, unscaled.
_OWN_FILTER: Mapping[str, Any] = {"group_reduction": "first", "normalizer": None}


@dataclass(frozen=True)
class Criterion:
    """A criterion says how channels are scored; those with the highest scores are kept."""

    scorer: str
    """Name of a class of ``torch_pruning.importance``; empty if it is none of these."""
    source: str
    """Definition of the score, and its paper."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""
    needs_batch_norm: bool = False
    """True if only convs with batch norm can be ranked."""
    needs_gradients: bool = False
    """True if the parameters must hold gradients of the loss before the ranking."""
    needs_images: bool = False
    """True if it looks at unlabelled training images (:mod:`tp_vgg.pruning.obs`)."""
    squared: bool = False
    """True if each image's gradient is squared before the mean over the images is taken."""


WEIGHT_CRITERIA = ("l1", "taylor")
"""The criteria for single weights: magnitude (``l1``) or |weight · gradient| (``taylor``)."""
CRITERIA: Mapping[str, Criterion] = {
    "l1": Criterion(
        "MagnitudeImportance", "L1 norm of the filter: Li et al. 2017", {"p": 1, **_OWN_FILTER}
    ),
    "l2": Criterion(
        "MagnitudeImportance", "squared L2 norm of the filter", {"p": 2, **_OWN_FILTER}
    ),
    "bn": Criterion(
        "BNScaleImportance",
        "batch norm's scale: Liu et al. 2017",
        _OWN_FILTER,
        needs_batch_norm=True,
    ),
    "taylor": Criterion(
        "TaylorImportance",
        "sum of |weight · gradient|: Molchanov et al. 2019",
        _OWN_FILTER,
        needs_gradients=True,
    ),
    "fpgm": Criterion(
        "FPGMImportance",
        "distance to the other filters: He et al. 2019 (torch-pruning squares the weights)",
        _OWN_FILTER,
    ),
    "lamp": Criterion(
        "LAMPImportance",
        "squared norm over that of all larger filters: Lee et al. 2021; "
        "within a layer it ranks as l2 does",
        {"p": 2, "group_reduction": "first"},
    ),
    "hessian": Criterion(
        "HessianImportance",
        "sum of weight² · mean squared gradient, the diagonal of the empirical Fisher: "
        "LeCun et al. 1989",
        _OWN_FILTER,
        needs_gradients=True,
        squared=True,
    ),
    "obs": Criterion(
        "",
        "what the next layer's outputs lose after its weights are refitted, channel by channel "
        "(optimal brain surgeon): Hassibi & Stork 1993, Frantar & Alistarh 2022",
        needs_images=True,
    ),
    "random": Criterion("RandomImportance", "the control"),
}
"""The criteria for channels, under the names that ``--importance`` takes."""


def check_importance(
    importance: str, spec: Spec, layers: Iterable[str], kind: Kind = "structured"
) -> None:
    """Raise :class:`BadInput` if ``importance`` is unknown or can't rank ``layers`` of ``spec``.

    ``kind="unstructured"`` is a sweep over single weights, which ranks by magnitude (``l1``) only.
    """
    if kind == "unstructured" and importance != "l1":
        raise BadInput(
            f"--importance {importance}: a sweep ranks single weights by magnitude alone; use l1"
        )
    if importance not in CRITERIA:
        raise BadInput(f"--importance: {importance!r} is not one of {', '.join(CRITERIA)}")
    if not CRITERIA[importance].needs_batch_norm:
        return
    lacking = [name for name in layers if not (spec.batch_norm and name in conv_names(spec))]
    if lacking:
        raise BadInput(
            f"--importance {importance}: {lacking[0]} of {spec.arch} has no batch norm to rank by; "
            "use l1"
        )
