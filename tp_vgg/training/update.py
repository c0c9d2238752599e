"""An update runs the forward and backward passes on a batch and changes the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tp_vgg.machine.precision import autocast
from tp_vgg.network.masks import detach_masked_weights
from tp_vgg.training.loss import training_loss
from tp_vgg.training.recipe import Recipe


class Update:
    """An update changes a model by SGD with Nesterov momentum and decoupled weight decay.

    It also sums the losses and the hits (correct predictions) of the images that it has seen.

    ``network`` is called instead of ``model``, such as a wrapper that averages gradients over
    processes. With ``on_device`` the learning rate is a tensor on the device, so that a captured
    step can be replayed at another rate.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: torch.device,
        *,
        precision: torch.dtype = torch.float32,
        teacher: nn.Module | None = None,
        network: nn.Module | None = None,
        on_device: bool = False,
    ) -> None:
        self._model, self._network, self._recipe = model, network or model, recipe
        self._precision, self._teacher, self._device = precision, teacher, device
        self._decayed: list[torch.Tensor] = [
            p for p in model.parameters() if p.ndim > 1 and p.requires_grad
        ]
        self._rate: Any = torch.zeros((), device=device) if on_device else 0.0
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            self._rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        self.loss_sum = torch.zeros((), device=device, dtype=torch.float64)
        """Sum of the images' losses since :meth:`reset` (float64 scalar on the device)."""
        self.hits = torch.zeros((), device=device, dtype=torch.int64)
        """Correct predictions in training since :meth:`reset` (int64 scalar on the device)."""

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next steps."""
        if isinstance(self._rate, torch.Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = self._optimizer.param_groups[0]["lr"] = rate

    def train_on(
        self, inputs: torch.Tensor, labels: torch.Tensor, loss_weight: float = 1.0
    ) -> None:
        """Train on one batch at the learning rate that is set.

        ``inputs``: normalised images, float32 [B, 3, S, S]; ``labels``: int64 [B]. ``loss_weight``
        multiplies their mean loss. Nothing in it waits for the device.
        """
        with autocast(self._device, self._precision):
            logits = self._network(inputs)
            loss = training_loss(logits.float(), labels, self._recipe, self._teacher, inputs)
        self._optimizer.zero_grad(set_to_none=True)
        (loss * loss_weight).backward()
        with torch.no_grad():
            torch._foreach_mul_(self._decayed, 1 - self._rate * self._recipe.weight_decay)
        self._optimizer.step()
        detach_masked_weights(self._model)
        self.loss_sum += loss.detach() * len(labels)
        self.hits += (logits.detach().argmax(1) == labels).sum()

    def reset(self, loss_sum: float = 0.0, hits: int = 0) -> None:
        """Restart the sums of the loss and of the hits from these values."""
        self.loss_sum.fill_(loss_sum)
        self.hits.fill_(hits)

    def state(self) -> dict[str, Any]:
        """Return a copy of the optimiser's state, in plain types and tensors."""
        state = self._optimizer.state_dict()
        momentum = {
            index: {
                name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in values.items()
            }
            for index, values in state["state"].items()
        }
        return {
            "state": momentum,
            "param_groups": [
                {**group, "lr": float(group["lr"])} for group in state["param_groups"]
            ],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the optimiser's state that :meth:`state` returned."""
        self._optimizer.load_state_dict(state)
        self._optimizer.param_groups[0]["lr"] = self._rate
