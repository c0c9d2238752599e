"""Zeros stay zeros through optimisers that know nothing of them, and nothing is left behind."""

from __future__ import annotations

import copy
import gc
import logging

import pytest
import torch
from helpers.networks import lively
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.optim import optimizer as torch_optimizer

import tp_vgg
from tp_vgg.errors import BadInput

OPTIMISERS = {
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2, line_search_fn="strong_wolfe"),
}
IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 10


@pytest.fixture(autouse=True)
def nothing_left():
    before = len(torch_optimizer._global_optimizer_post_hooks)
    yield
    assert len(torch_optimizer._global_optimizer_post_hooks) == before


def loss_of(model: nn.Module, optimizer):
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        return loss

    return closure


def sparse(sparsity: float = 0.5):
    model = lively().train()
    tp_vgg.prune_unstructured(model, sparsity)
    return model


def zeros_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value == 0 for name, value in model.named_parameters() if value.ndim > 1}


def are_zero(model: nn.Module, zeros: dict[str, torch.Tensor]) -> bool:
    """Whether all these weights are +0.0."""
    weights = dict(model.named_parameters())
    return all(
        bool((weights[name][places] == 0).all()) and not bool(weights[name][places].signbit().any())
        for name, places in zeros.items()
    )


@pytest.mark.parametrize("made", ["before pruning", "before", "inside"])
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_the_zeros_are_zeros_after_every_step(kind: str, made: str) -> None:
    model = lively().train()
    optimizer = OPTIMISERS[kind](model.parameters())
    if made == "before pruning":
        optimizer.step(loss_of(model, optimizer))  # its momentum is not zero at the zeros
    tp_vgg.prune_unstructured(model, 0.5)
    zeros = zeros_of(model)
    before = copy.deepcopy(model)
    if made == "before":
        optimizer = OPTIMISERS[kind](model.parameters())
    with tp_vgg.held(model):
        if made == "inside":
            optimizer = OPTIMISERS[kind](model.parameters())
        for _ in range(2):
            optimizer.step(loss_of(model, optimizer))
            assert are_zero(model, zeros)
    moved = {
        name
        for (name, value), old in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(value, old)
    }
    # A bias in front of batch norm may stay: its gradient is zero but for rounding.
    assert moved >= {name for name in zeros if name != "features.0.weight"}
    assert "features.1.weight" in moved


def test_without_it_the_zeros_move() -> None:
    model = sparse()
    zeros = zeros_of(model)
    optimizer = OPTIMISERS["adamw"](model.parameters())
    optimizer.step(loss_of(model, optimizer))
    assert not are_zero(model, zeros)


def test_afterwards_everything_moves_again() -> None:
    model = sparse()
    zeros = zeros_of(model)
    with tp_vgg.held(model):
        pass
    optimizer = OPTIMISERS["sgd"](model.parameters())
    optimizer.step(loss_of(model, optimizer))
    assert not are_zero(model, zeros)


def test_the_gradients_are_zero_there_and_only_there() -> None:
    model, free = sparse(), sparse()
    zeros = zeros_of(model)
    for network in (model, free):
        torch.manual_seed(0)  # for dropout
        with tp_vgg.held(model):
            F.cross_entropy(network(IMAGES), LABELS).backward()
    for (name, value), other in zip(model.named_parameters(), free.parameters(), strict=True):
        expected = other.grad.masked_fill(zeros[name], 0) if name in zeros else other.grad
        assert torch.equal(value.grad, expected)
    assert free.features[4].weight.grad[zeros["features.4.weight"]].any()


def test_an_exception_leaves_nothing_behind_and_the_zeros_zero() -> None:
    model = sparse()
    zeros = zeros_of(model)

    def fail() -> None:
        with tp_vgg.held(model):
            model.features[4].weight.data.fill_(1.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert are_zero(model, zeros)
    assert all(not parameter._backward_hooks for parameter in model.parameters())


def test_blocks_in_blocks_and_two_models_at_once() -> None:
    model, other = sparse(), sparse(0.3)
    zeros, others = zeros_of(model), zeros_of(other)
    optimizer = torch.optim.AdamW([*model.parameters(), *other.parameters()], 0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES) + other(IMAGES), LABELS).backward()
        optimizer.step()

    with tp_vgg.held(model), tp_vgg.held(other):
        with tp_vgg.held(model):
            step()
        step()
        assert are_zero(model, zeros)
        assert are_zero(other, others)


def test_without_a_block_it_holds_until_it_is_removed() -> None:
    model = sparse()
    zeros = zeros_of(model)
    optimizer = OPTIMISERS["adamw"](model.parameters())
    handle = tp_vgg.held(model)
    optimizer.step(loss_of(model, optimizer))
    assert are_zero(model, zeros)
    assert "zero weights in 10 layers" in repr(handle)
    handle.remove()
    handle.remove()
    optimizer.step(loss_of(model, optimizer))
    assert not are_zero(model, zeros)


def test_updates_by_hand_are_undone_at_the_end() -> None:
    model = sparse()
    zeros = zeros_of(model)
    with tp_vgg.held(model):
        F.cross_entropy(model(IMAGES), LABELS).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.sign() + 0.01)
    assert are_zero(model, zeros)


@pytest.mark.parametrize("wrapped", [False, True])
def test_any_module_is_held_but_not_its_biases_and_norms(wrapped: bool) -> None:
    model = nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(24, 5), nn.LayerNorm(5)
    )
    with torch.no_grad():
        model[0].weight[0] = -0.0
        model[3].weight[:, 2] = 0
        for part in (model[0], model[1], model[3], model[4]):
            part.bias.zero_()
    zeros = zeros_of(model)
    whole = torch.optim.swa_utils.AveragedModel(model).module if wrapped else model
    whole = nn.DataParallel(whole) if wrapped else whole
    inner = whole.module if wrapped else whole
    optimizer = torch.optim.AdamW(whole.parameters(), 0.1)
    with tp_vgg.held(whole):
        whole(torch.randn(4, 3, 8)).square().sum().backward()
        optimizer.step()
        assert are_zero(inner, zeros)
    assert all(inner[place].bias.abs().min() > 0 for place in (3, 4))


def test_masks_inside_a_block_and_masks_from_before() -> None:
    model = sparse()
    zeros = zeros_of(model)
    optimizer = OPTIMISERS["adamw"](model.parameters())
    with tp_vgg.held(model):
        prune.l1_unstructured(model.features[4], "weight", 0.7)
        optimizer.step(loss_of(model, optimizer))
        prune.remove(model.features[4], "weight")
        optimizer.step(loss_of(model, optimizer))
        assert are_zero(model, zeros)
        prune.l1_unstructured(model.features[4], "weight", 0.7)
    with tp_vgg.held(model) as handle:
        assert len(handle) >= sum(int(places.sum()) for places in zeros.values())
        optimizer.step(loss_of(model, optimizer))
    prune.remove(model.features[4], "weight")
    assert are_zero(model, {**zeros, "features.4.weight": zeros["features.4.weight"]})


def test_a_grad_scaler_with_autocast() -> None:
    model = sparse()
    zeros = zeros_of(model)
    optimizer, scaler = OPTIMISERS["adamw"](model.parameters()), torch.amp.GradScaler("cpu")
    with tp_vgg.held(model):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(IMAGES), LABELS)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert are_zero(model, zeros)


def test_a_model_without_zeros_is_said_and_trains(caplog: pytest.LogCaptureFixture) -> None:
    model = lively().train()
    before = copy.deepcopy(model.state_dict())
    optimizer = OPTIMISERS["sgd"](model.parameters())
    with caplog.at_level(logging.WARNING), tp_vgg.held(model):
        optimizer.step(loss_of(model, optimizer))
    assert caplog.messages == ["held: no conv or linear weight is zero; prune the model first"]
    assert not torch.equal(before["features.4.weight"], model.features[4].weight)


def test_a_weight_that_was_replaced_is_said_in_the_next_step() -> None:
    model = sparse()
    optimizer = OPTIMISERS["sgd"](model.parameters())
    with tp_vgg.held(model):
        tp_vgg.prune_structured(model.eval(), {"features.4": 0.5})
        with pytest.raises(BadInput, match=r"^held: features\.4: its weight was replaced.*anew"):
            optimizer.step()
        optimizer.step()


def test_a_model_that_is_deleted_is_not_kept_alive() -> None:
    model = sparse()
    handle = tp_vgg.held(model)
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    del model
    gc.collect()
    torch.optim.SGD([weight], 0.1).step()
    assert len(handle) == 0
    handle.remove()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (None, "must be a torch.nn.Module, got null"),
        (3, "got a number"),
        ("model.pth", "got a string"),
        ({"weight": torch.zeros(3)}, "got an object"),
        (torch.zeros(3, 3), "got a Tensor"),
        (nn.Linear, "got a type"),
        (nn.ReLU(), "ReLU has no conv or linear layer"),
        (nn.Sequential(nn.BatchNorm2d(3)), "Sequential has no conv or linear layer"),
        (nn.Linear(3, 3, device="meta"), "has no values"),
        (nn.LazyLinear(3), "has no values"),
        (parametrizations.weight_norm(nn.Linear(3, 3)), "a parametrization"),
    ],
    ids=str,
)
def test_other_things_are_refused(model: object, said: str) -> None:
    with pytest.raises(BadInput, match=f"^model: .*{said}") as refusal:
        tp_vgg.held(model)
    assert "\n" not in str(refusal.value)


def test_a_handle_that_has_ended_is_not_entered_again() -> None:
    handle = tp_vgg.held(sparse())
    with handle:
        pass
    with pytest.raises(BadInput, match=r"^held: it has ended; enter tp_vgg\.held\(model\) anew$"):
        handle.__enter__()
