"""Gradients that importance criteria ask for."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tp_vgg.data.split import Normalisation, Split, stratified
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.network import Network, prunable_layers


def taylor_scores(model: Network) -> dict[str, torch.Tensor]:
    """|weight · gradient| of every weight that can be masked, from the gradients in the parameters: the first-order change of the loss where
    it becomes zero. Source: Molchanov et al. 2019, equation 8, for single weights."""
    scores = {}
    for name, layer in prunable_layers(model):
        assert layer.weight.grad is not None, "accumulate_gradients comes before"
        scores[name] = (layer.weight.detach() * layer.weight.grad).abs()
    return scores


def accumulate_gradients(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    images: int = 512,
    *,
    squared: bool = False,
    label: str = "",
) -> None:
    """Leave the loss's gradient over the first ``images`` of a stratified draw in the parameters, in eval mode; with ``squared`` the mean
    over images of each one's gradient squared (torch-pruning's ``accumulate_grad`` keeps only the last image's: its dictionary is asked
    for names and holds parameters). ``label``: of the progress bar; none without."""
    sample = split.take(stratified(split.labels.cpu().numpy(), images, 0))
    was_training = model.training
    model.eval()
    model.zero_grad(set_to_none=True)
    squares: dict[str, torch.Tensor] = {}
    bar = progress_bar(label, unit="img", total=len(sample), leave=False)
    with exact_fp32(), bar:
        for block, labels in sample.blocks(1 if squared else 128):
            (
                F.cross_entropy(model(normalisation(block)), labels, reduction="sum")
                / len(sample) ** (not squared)
            ).backward()
            if squared:
                for name, parameter in model.named_parameters():
                    assert parameter.grad is not None
                    squares[name] = parameter.grad.square() / len(sample) + squares.get(name, 0)
                model.zero_grad(set_to_none=True)
            bar.update(len(labels))
    for name, square in squares.items():
        model.get_parameter(name).grad = square
    model.train(was_training)
