"""torch-pruning's dependency graph says which channels of a network must be removed together.

Nothing else in tp_vgg imports torch_pruning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tp_vgg.network.mode import modes_kept
from tp_vgg.network.network import Network
from tp_vgg.pruning.criteria import CRITERIA


class ChannelGraph:
    """A channel graph is the ``DependencyGraph`` of a network, as long as that keeps its modules.

    Tracing needs ``requires_grad`` everywhere and changes the train/eval mode; both are restored.
    """

    def __init__(self, model: Network) -> None:
        """Trace ``model`` with one image of zeros."""
        import torch_pruning as tp

        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        size, device = model.spec.image_size, next(model.parameters()).device
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            with torch.enable_grad(), modes_kept(model):
                self._graph = tp.DependencyGraph().build_dependency(
                    model, example_inputs=torch.zeros(1, 3, size, size, device=device)
                )
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def scores(self, layer: nn.Conv2d | nn.Linear, importance: str) -> torch.Tensor | None:
        """Return the scores that torch-pruning gives to all channels of ``layer``, if it does."""
        import torch_pruning as tp

        criterion = CRITERIA[importance]
        scorer = getattr(tp.importance, criterion.scorer)(**criterion.options)
        found: torch.Tensor | None = scorer(self._group(layer, list(range(len(layer.weight)))))
        return None if found is None else found.detach().cpu()

    def remove(self, layer: nn.Conv2d | nn.Linear, channels: list[int]) -> bool:
        """Remove ``channels`` of ``layer`` and what depends on them; False if that is refused."""
        group = self._group(layer, channels)
        if not self._graph.check_pruning_group(group):
            return False
        group.prune()
        return True

    def _group(self, layer: nn.Conv2d | nn.Linear, channels: list[int]) -> Any:
        import torch_pruning as tp

        if isinstance(layer, nn.Conv2d):
            return self._graph.get_pruning_group(layer, tp.prune_conv_out_channels, channels)
        return self._graph.get_pruning_group(layer, tp.prune_linear_out_channels, channels)
