"""The importance ``obs`` removes the channel that costs least once the next layer is refitted."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.networks import VARIANTS, lively

import tp_vgg
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.network.families import segments
from tp_vgg.pruning import obs
from tp_vgg.pruning.normal_equations import as_matrix
from tp_vgg.pruning.obs import channel_scores, removal_order
from tp_vgg.pruning.refit import RIDGE
from tp_vgg.pruning.repair_sample import RepairSample

PIXELS = torch.randint(
    0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cost(x: np.ndarray, weight: np.ndarray, ridge: float, columns: list[int]) -> float:
    """The least ‖X (V − W)ᵀ‖² + λ ‖V − W‖² of weights V that read none of ``columns``.

    The second term is over the columns that V reads, as in a repair.
    """
    kept = [i for i in range(x.shape[1]) if i not in columns]
    lost = x[:, columns] @ weight[:, columns].T
    gram = x[:, kept].T @ x[:, kept] + ridge * np.eye(len(kept))
    change = np.linalg.solve(gram, x[:, kept].T @ lost)
    return float(((x[:, kept] @ change - lost) ** 2).sum() + ridge * (change**2).sum())


@pytest.mark.parametrize("taps", [1, 4])
def test_each_removal_is_the_cheapest_of_those_that_are_left(taps: int) -> None:
    """Every cost is computed anew with NumPy, by a refit of its own."""
    channels, rows, ridge = 12, 5, 3.0
    x = drawn(200, taps * channels) * torch.linspace(0.2, 2, taps * channels)
    x[:, 3] = x[:, 7] + 0.01 * x[:, 5]  # one that others can stand for
    weight = drawn(rows, taps * channels)
    weight[:, 9::channels] *= 10  # a channel that is dead, but read with large weights
    x[:, 9::channels] = 0
    hessian = x.T @ x + ridge * torch.eye(taps * channels)
    order = removal_order(hessian.clone(), weight.clone(), ridge, channels)
    assert sorted(order.tolist()) == list(range(channels))
    assert order[0] == 9
    gone: list[int] = []
    for channel in order.tolist()[:-1]:
        costs = {
            other: cost(
                x.numpy(),
                weight.numpy(),
                ridge,
                [tap * channels + c for c in [*gone, other] for tap in range(taps)],
            )
            for other in range(channels)
            if other not in gone
        }
        assert costs[channel] <= min(costs.values()) + 1e-9 * max(costs.values())
        gone.append(channel)


def test_many_channels_go_several_at_a_time() -> None:
    channels = 200
    x = drawn(300, channels)
    order = removal_order(x.T @ x + torch.eye(channels), drawn(4, channels), 1.0, channels)
    assert sorted(order.tolist()) == list(range(channels))


@pytest.mark.parametrize("number", [2, 7, 8], ids=["a conv", "the last conv", "a linear layer"])
@pytest.mark.parametrize("variant", ["bn-hidden", "plain-hidden", "bn-unfolded"])
def test_it_looks_at_what_the_next_layer_reads(
    variant: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H is that of the patches, centred where there is a bias, with the ridge of a repair."""
    model = lively(VARIANTS[variant])
    layers = segments(model)
    name, behind = layers[number].name, layers[number + 1].layer
    asked = []

    def order(hessian, weight, ridge: float, channels: int):
        asked.append((hessian, weight, ridge, channels))
        return torch.arange(channels)

    monkeypatch.setattr(obs, "removal_order", order)
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    channel_scores(model, [name], images)
    ((hessian, weight, penalty, channels),) = asked
    read = []
    hook = behind.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    with torch.no_grad():
        for block in RepairSample.of(images, zeroed=False, flip=False, seed=0).blocks:
            model(block)
    hook.remove()
    x = torch.cat(read)
    if x.ndim == 4:
        x = torch.nn.functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
        x = x.unflatten(1, (channels, 9)).transpose(1, 2).flatten(1)
        expected_weight = as_matrix(behind.weight)
    else:
        taps = x.shape[1] // channels
        values = x.unflatten(1, (channels, taps))
        if taps > 1 and bool((values == values[:, :, :1]).all()):
            x, expected_weight = (
                values[:, :, 0],
                behind.weight.unflatten(1, (channels, taps)).sum(2),
            )
        else:
            x = values.transpose(1, 2).flatten(1)
            expected_weight = (
                behind.weight.unflatten(1, (channels, taps)).transpose(1, 2).flatten(1)
            )
    x = x.double()
    ridge = RIDGE * float(x.square().sum(0).mean())
    centred = x - x.mean(0) if behind.bias is not None else x
    expected = centred.T @ centred + ridge * torch.eye(x.shape[1], dtype=torch.float64)
    assert channels == model.spec.prunable[name]
    assert penalty == pytest.approx(ridge, rel=1e-5)
    assert (hessian - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.allclose(weight, expected_weight.detach().double(), rtol=1e-5)


def test_a_wide_linear_layer_is_read_by_its_channels_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obs, "WIDEST_GRAM", 30)
    model = lively(VARIANTS["bn-unfolded"])
    scores = channel_scores(model, ["features.25"], torch.randn(10, 3, 32, 32))["features.25"]
    assert sorted(scores.tolist()) == list(range(len(scores)))
    monkeypatch.setattr(obs, "WIDEST_GRAM", 20)
    with pytest.raises(BadInput, match="at most 20 channels a layer, and there are 24; use l1"):
        channel_scores(model, ["features.25"], torch.randn(10, 3, 32, 32))


def test_a_dead_channel_goes_first() -> None:
    """It can go for nothing, however large the weights that read it."""
    model = lively()
    with torch.no_grad():
        model.features[5].weight[3], model.features[5].bias[3] = 0, -1
        model.features[8].weight[:, 3] *= 5
    names = iter(["features.4"])  # any iterable will do
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    scores = channel_scores(model, names, images)["features.4"]
    with torch.no_grad():
        alive = model.features[:7](images).amax((0, 2, 3)) > 0
    assert not alive[3] and 6 < alive.sum() < len(alive)
    assert scores[~alive].max() < scores[alive].min()
    pruned = copy.deepcopy(model)
    tp_vgg.prune_structured(pruned, {"features.4": 0.5}, importance="obs", images=PIXELS)
    again = copy.deepcopy(pruned)
    tp_vgg.prune_structured(again, {"features.4": 0.5}, importance="obs", images=PIXELS)
    assert set(again.kept["features.4"]) < set(pruned.kept["features.4"])
    assert 3 not in pruned.kept["features.4"]


@pytest.mark.parametrize("variant", ["bn-hidden", "bn-linear", "plain-linear"])
def test_more_accuracy_is_left_after_the_repair(variant: str, trained: Callable, digits) -> None:
    dense = trained(VARIANTS[variant])
    correct = {}
    for importance in ("random", "obs"):
        model = copy.deepcopy(dense)
        ratios = dict.fromkeys(model.spec.conv_names, 0.6)
        tp_vgg.prune_structured(model, ratios, importance=importance, images=digits.train)
        tp_vgg.repair(model, dense, digits.train, limit=600)
        correct[importance] = tp_vgg.accuracy(model, digits.test).accuracy
    assert correct["obs"] > correct["random"]


def test_the_network_is_as_before_and_the_same_call_gives_the_same_scores() -> None:
    model = lively().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first = channel_scores(model, ["features.4", "features.0"], images)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(first) == ["features.0", "features.4"]
    second = channel_scores(model, ["features.4"], images)
    assert torch.equal(first["features.4"], second["features.4"])


def test_without_images_it_is_refused() -> None:
    model = lively()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadInput, match="images: importance obs looks at unlabelled images"):
        tp_vgg.prune_structured(model, {"features.0": 0.5}, importance="obs")
    with pytest.raises(BadInput, match="images: "):
        tp_vgg.prune_structured(model, {"features.0": 0.5}, importance="obs", images=PIXELS[:1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_sweep_ranks_by_the_images_of_its_repair(few_digits) -> None:
    model = lively()
    split = few_digits.val
    with pytest.raises(BadInput, match=r"obs: .*give --repair reconstruct"):
        tp_vgg.sweep(model, split, importance="obs", levels=[0.5])
    table = tp_vgg.sweep(
        model,
        split,
        importance="obs",
        levels=[0.5],
        reconstruct=few_digits.train,
        layers=["features.4"],
    )
    pruned = copy.deepcopy(model)
    tp_vgg.prune_structured(pruned, {"features.4": 0.5}, importance="obs", images=few_digits.train)
    tp_vgg.repair(pruned, model, few_digits.train, layers=["features.8"])
    assert table.importance == "obs"
    point = table.points[0]
    assert abs(point.correct - tp_vgg.accuracy(pruned, split).correct) <= 1


def test_numbers_that_overflow_are_an_error_of_the_work() -> None:
    model = lively()
    model.features[4].weight.data.fill_(1e38)
    with pytest.raises(WorkFailed, match="importance obs gave no finite score"):
        tp_vgg.prune_structured(model, {"features.4": 0.5}, importance="obs", images=PIXELS)
