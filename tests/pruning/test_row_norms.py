"""Refitted weights keep the norms from before the repair; the function stays the same."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.networks import SMALL, VARIANTS, lively
from torch import nn
from torch.nn.utils import prune

import tp_vgg
from tp_vgg.network.families import segments
from tp_vgg.network.network import Network
from tp_vgg.pruning import repair as repair_module
from tp_vgg.pruning.rebase import matching_scale, restore_row_norms, row_norms

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
IMAGES = torch.randn(8, 3, 32, 32, generator=GENERATOR)


def norms_of(model: Network) -> dict[str, torch.Tensor]:
    return {part.name: row_norms(part.layer) for part in segments(model) if part.norm is not None}


def pruned(dense: Network, kind: str) -> Network:
    model = copy.deepcopy(dense)
    if kind == "channels":
        tp_vgg.prune_structured(model, dict.fromkeys(model.spec.prunable, 0.4))
    else:
        tp_vgg.prune_unstructured(model, 0.8, masks=kind == "masks")
    return model


def repaired(variant: str, kind: str) -> tuple[Network, dict[str, torch.Tensor]]:
    dense = lively(VARIANTS[variant])
    model = pruned(dense, kind)
    norms = norms_of(model)
    tp_vgg.repair(model, dense, PIXELS, move_zeros=kind != "channels")
    return model, norms


@pytest.mark.parametrize("kind", ["channels", "zeros", "masks"])
@pytest.mark.parametrize("variant", ["bn-hidden", "bn-linear", "bn-unfolded"])
def test_a_repair_keeps_the_norms_and_the_refitted_function(
    variant: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, norms = repaired(variant, kind)
    for name, norm in norms_of(model).items():
        assert torch.allclose(norm, norms[name], rtol=1e-5)
        layer = model.get_submodule(name)
        if prune.is_pruned(layer):
            assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
    monkeypatch.setattr(repair_module, "restore_row_norms", lambda *_: None)
    longer, _ = repaired(variant, kind)
    changed = norms_of(longer)
    assert max(float((changed[name] / norms[name] - 1).abs().max()) for name in norms) > 0.1
    with torch.no_grad():
        before, after = longer.eval()(IMAGES), model.eval()(IMAGES)
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()


@pytest.mark.parametrize("kind", ["channels", "zeros"])
@pytest.mark.parametrize("layers", [None, ["features.4"], ["features.8"]])
def test_norms_make_no_difference_to_a_second_repair(
    kind: str, layers: list[str] | None, trained, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, pixels = trained(SMALL), digits.train.images
    logits = []
    for restores in (True, False):
        if not restores:
            monkeypatch.setattr(repair_module, "restore_row_norms", lambda *_: None)
        model = pruned(dense, kind)
        tp_vgg.repair(model, dense, pixels[:200])
        again = tp_vgg.repair(model, dense, pixels[200:600], layers=layers)
        assert "refitted" in {layer.outcome for layer in again.layers.values()}
        with torch.no_grad():
            logits.append(model.eval()(IMAGES))
    assert (logits[0] - logits[1]).norm() < 1e-2 * logits[1].norm()


def test_scaled_outputs_give_the_same_behind_the_other_norm() -> None:
    (_, whole), (_, norm) = pair(), pair()
    assert matching_scale(norm, whole, range(6)) is None
    with torch.no_grad():
        norm.weight.mul_(torch.tensor([1, 2, -3, 0, 1e-9, 1]))
        norm.running_var[:3] = 7
        norm.bias.add_(1)
        outputs = torch.randn(4, 6, 5, 5, generator=GENERATOR)
        matched = matching_scale(norm, whole, range(6))
        assert matched is not None
        scale, shift = matched
        found = norm(outputs * scale.view(-1, 1, 1) + shift.view(-1, 1, 1))
        wanted = whole(outputs)
    assert scale[3:5].tolist() == [1, 1] and shift[3:5].tolist() == [0, 0]
    usual = [0, 1, 2, 5]
    assert torch.allclose(found[:, usual], wanted[:, usual], atol=1e-5)
    assert matching_scale(pair()[1], whole, [5, 4, 3, 2, 1, 0]) is not None


def pair() -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2)
    return conv, norm


@pytest.mark.parametrize("variance", [1.0, 1e-6, 0.0])
def test_a_small_epsilon_is_not_small_for_a_channel_that_hardly_varies(variance: float) -> None:
    conv, norm = pair()
    norm.running_var.mul_(variance)
    wanted = row_norms(conv) * torch.tensor([0.1, 0.5, 1, 2, 10, 100])
    with torch.no_grad():
        before = norm(conv(IMAGES))
        restore_row_norms(conv, norm, wanted)
        assert (norm(conv(IMAGES)) - before).abs().max() <= 1e-4 * before.abs().max()
    assert torch.allclose(row_norms(conv), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("present", "factor"),
    [(1.0, 0.0), (0.0, 1.0), (1.0, 1e-30), (1.0, 1e30), (1.0, float("nan")), (1.0, float("inf"))],
)
def test_a_row_without_a_sound_norm_stays(present: float, factor: float) -> None:
    conv, norm = pair()
    with torch.no_grad():
        conv.weight[0] *= present
    wanted = 2 * row_norms(conv)
    wanted[0] = factor
    row, scale = conv.weight[0].clone(), norm.weight[0].clone()
    restore_row_norms(conv, norm, wanted)
    assert torch.equal(conv.weight[0], row) and torch.equal(norm.weight[0], scale)
    assert torch.allclose(row_norms(conv)[1:], wanted[1:], rtol=1e-5)


def test_an_interrupt_leaves_the_former_function(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, norm = pair()
    with torch.no_grad():
        before = norm(conv(IMAGES))
    copies, real = [], torch.Tensor.copy_

    def copy_(tensor: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        copies.append(tensor)
        if len(copies) == 3:
            raise KeyboardInterrupt
        return real(tensor, *given)

    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    with pytest.raises(KeyboardInterrupt):
        restore_row_norms(conv, norm, 2 * row_norms(conv))
    monkeypatch.undo()
    with torch.no_grad():
        assert torch.equal(norm(conv(IMAGES)), before)
