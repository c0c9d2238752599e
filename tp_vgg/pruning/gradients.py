"""Some importance criteria rank by gradients of the loss; they are computed here."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tp_vgg.data.split import Normalisation, Split, stratified
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.mode import modes_kept
from tp_vgg.network.network import Network, prunable_layers


def taylor_scores(model: Network) -> dict[str, torch.Tensor]:
    """Return |weight · gradient| of every weight of each prunable layer, by layer name.

    To first order, this is how much the loss changes if the weight becomes zero. The parameters
    must hold the gradients already (:func:`accumulate_gradients`). Each tensor has the shape of the
    layer's weight. Source: Molchanov et al. 2019, equation 8, for single weights.
    """
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
    """Leave the gradient of the mean loss in the parameters' ``grad``, computed in eval mode.

    The loss is the cross-entropy over a stratified draw (seed 0) of ``images`` images. With
    ``squared``, ``grad`` is instead the mean over the images of each one's squared gradient.
    ``label`` names the progress bar; without a label there is no bar.

    torch-pruning's ``accumulate_grad`` is not used: it looks up names in a dictionary whose keys
    are parameters, and so keeps only the last image's gradient.
    """
    sample = split.take(stratified(split.labels.cpu().numpy(), images, 0))
    model.zero_grad(set_to_none=True)
    squares: dict[str, torch.Tensor] = {}
    bar = progress_bar(label, unit="img", total=len(sample), leave=False)
    with exact_fp32(), bar, modes_kept(model):
        model.eval()
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
