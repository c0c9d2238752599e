from __future__ import annotations

import pytest
import torch
from helpers.networks import SMALL

from tp_vgg import accuracy, load, measure_latency, prune_structured, save, sweep
from tp_vgg.data import Split
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.network.count import count_nonzero, layer_sparsity
from tp_vgg.network.masks import is_masked
from tp_vgg.pruning.gradients import accumulate_gradients, taylor_scores
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.unstructured import (
    magnitude_masks,
    mask_global,
    mask_layers,
    prune_unstructured,
    remove_masks,
)


def zeros(model, name: str) -> int:
    weight = model.get_submodule(name).weight
    return weight.numel() - int(weight.count_nonzero())


def test_zeroes_the_smallest_weights_exactly(make_model, spec) -> None:
    model = make_model(spec)
    dense = {name: model.get_submodule(name).weight.detach().clone() for name in spec.prunable}
    prune_unstructured(model, {"features.0": 0.25, spec.conv_names[-1]: 0.9})
    for name, before in dense.items():
        after = model.get_submodule(name).weight.detach()
        share = {"features.0": 0.25, spec.conv_names[-1]: 0.9}.get(name, 0)
        assert zeros(model, name) == round(share * before.numel())
        gone = after == 0
        assert torch.equal(after[~gone], before[~gone])
        if share:
            assert before[gone].abs().max() <= before[~gone].abs().min()
    assert not any(is_masked(module) for module in model.modules())
    assert set(model.state_dict()) == set(make_model(spec).state_dict())


def test_masks_are_torchs_own_but_for_ties_where_the_first_go() -> None:
    torch.manual_seed(0)
    distinct, tied = torch.randn(6, 5, 3, 3), torch.randint(-3, 4, (6, 5, 3, 3)).float()
    counts = (0, 1, 27, 135, 269)
    for count, mask in zip(counts, magnitude_masks(distinct.abs(), counts), strict=True):
        expected = torch.nn.utils.prune.L1Unstructured(count).compute_mask(
            distinct, torch.ones_like(distinct)
        )
        assert torch.equal(mask, expected.bool())
    for count, mask in zip(counts, magnitude_masks(tied.abs(), counts), strict=True):
        order = tied.abs().flatten().argsort(stable=True)
        assert mask.flatten()[order].tolist() == [False] * count + [True] * (270 - count)


def test_global_scope_ranks_all_layers_together(make_model) -> None:
    model = make_model()
    before = torch.cat(
        [model.get_submodule(n).weight.detach().abs().flatten() for n in SMALL.prunable]
    )
    prune_unstructured(model, 0.8, scope="global")
    assert sum(zeros(model, n) for n in SMALL.prunable) == round(0.8 * before.numel())
    threshold = before.sort().values[round(0.8 * before.numel()) - 1]
    for name in SMALL.prunable:
        weight = model.get_submodule(name).weight
        assert weight[weight != 0].abs().min() >= threshold
    assert zeros(model, SMALL.linear_names[-1]) == 0
    shares = {round(s, 2) for s in layer_sparsity(model).values()}
    assert len(shares) > 3, "layers differ"


def test_one_sparsity_for_every_layer(make_model) -> None:
    model = make_model()
    prune_unstructured(model, 0.5)
    found = layer_sparsity(model)
    assert found == {
        row.name: (round(0.5 * row.weights) / row.weights if row.name in SMALL.prunable else 0)
        for row in SMALL.rows
    }
    assert count_nonzero(model) == sum(int((p != 0).sum()) for p in model.parameters())


def test_masks_hold_through_training(make_model) -> None:
    model = make_model().train()
    mask_layers(model, Plan({"features.4": 0.75}, "t"))
    gone = model.features[4].weight_mask == 0
    before = model.features[4].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
        optimizer.step()
    remove_masks(model)
    after = model.features[4].weight
    assert torch.equal(after == 0, gone)
    assert not torch.equal(after, before)


@pytest.mark.parametrize(
    ("sparsity", "scope", "said"),
    [
        ({"features.1": 0.5}, "layer", "no prunable layer"),
        ({"features.0": 1.0}, "layer", "1 or more"),
        ({"features.0": 0.9999}, "layer", "zero all"),
        (-0.5, "layer", "negative"),
        (float("nan"), "layer", "finite"),
        (1.5, "global", "1 or more"),
        ({"features.0": 0.5}, "global", "takes one number"),
    ],
)
def test_bad_sparsities_are_refused(sparsity, scope, said: str, make_model) -> None:
    with pytest.raises(BadInput, match=said):
        prune_unstructured(make_model(), sparsity, scope=scope)


def test_a_global_sparsity_that_kills_a_layer_is_an_error(make_model) -> None:
    with pytest.raises(WorkFailed, match="every weight of"):
        prune_unstructured(make_model(), 0.99999, scope="global")


@pytest.mark.parametrize("masked", [False, True])
def test_a_global_sparsity_that_fails_leaves_the_model_as_it_was(masked: bool, make_model) -> None:
    model = make_model()
    with torch.no_grad():
        model.features[0].weight.mul_(1e-6)
    if masked:
        torch.nn.utils.prune.l1_unstructured(model.features[0], "weight", 0.5)
        torch.nn.utils.prune.l1_unstructured(model.features[4], "weight", 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WorkFailed, match=r"every weight of features\.0"):
        prune_unstructured(model, 0.5, scope="global")
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_whole_numbers_are_sparsities_too(make_model) -> None:
    model = make_model()
    for scope in ("layer", "global"):
        prune_unstructured(model, 0, scope=scope)
    assert not any(layer_sparsity(model).values())


def test_weights_in_channels_last_can_be_masked(make_model) -> None:
    for scope in ("layer", "global"):
        model, other = make_model(), make_model().to(memory_format=torch.channels_last)
        prune_unstructured(model, 0.5, scope=scope)
        prune_unstructured(other, 0.5, scope=scope)
        assert all(
            torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
        )


def test_taylor_ranks_by_weight_times_gradient(make_model, few_digits) -> None:
    model = make_model()
    accumulate_gradients(model, few_digits.train, few_digits.normalisation, 40)
    scores = taylor_scores(model)
    for name, score in scores.items():
        layer = model.get_submodule(name)
        assert torch.equal(score, (layer.weight * layer.weight.grad).abs())
    mask_layers(model, Plan({"features.4": 0.5}, "t"), scores)
    mask = model.features[4].weight_mask.bool()
    assert scores["features.4"][~mask].max() <= scores["features.4"][mask].min()
    other = make_model()
    mask_layers(other, Plan({"features.4": 0.5}, "t"))
    assert not torch.equal(mask, other.features[4].weight_mask.bool()), "magnitude picks others"
    mask_global(other := make_model(), 0.7, scores)
    gone, kept = (
        torch.cat(
            [
                score[(other.get_submodule(name).weight_mask == 0) == zero]
                for name, score in scores.items()
            ]
        )
        for zero in (True, False)
    )
    assert gone.max() <= kept.min()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_stay_on_request_and_keep_the_zeros_in_a_foreign_loop(
    make_model, scope: str, tmp_path
) -> None:
    model, plain = make_model().train(), make_model()
    dense = {name: model.get_submodule(name).weight.detach().clone() for name in SMALL.prunable}
    prune_unstructured(model, 0.6, scope=scope, masks=True)
    prune_unstructured(plain, 0.6, scope=scope)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for name, before in dense.items():
        assert torch.equal(model.get_submodule(name).weight_orig, before)
        assert torch.equal(model.get_submodule(name).weight, plain.get_submodule(name).weight)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    path = str(tmp_path / "m.pth")
    save(model, path)
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20) % 10
    assert accuracy(model, images) == accuracy(load(path), images)
    for name in dense:
        after = load(path).get_submodule(name).weight
        gone = plain.get_submodule(name).weight == 0
        assert not after[gone].any()
        assert not after[gone].signbit().any()
        assert not torch.equal(after, plain.get_submodule(name).weight)


def test_masks_cover_the_zeros_of_earlier_prunings(make_model) -> None:
    model = make_model()
    prune_unstructured(model, {"features.0": 0.5, "features.4": 0.5})
    zero = {name: model.get_submodule(name).weight == 0 for name in ("features.0", "features.4")}
    prune_unstructured(model, {"features.0": 0.3, "features.8": 0.2}, masks=True)
    for name, places in zero.items():
        assert torch.equal(model.get_submodule(name).weight_mask == 0, places)
    assert zeros(model, "features.8") == round(0.2 * model.features[8].weight.numel())
    assert not is_masked(model.features[11])
    prune_unstructured(model, 0.7, masks=True)
    assert zeros(model, "features.0") == round(0.7 * model.features[0].weight.numel())
    prune_unstructured(model, 0.1)
    assert not any(is_masked(module) for module in model.modules())
    assert zeros(model, "features.0") == round(0.7 * model.features[0].weight.numel())


def test_a_masked_model_is_refused_with_the_way_out_where_masks_do_not_fit(make_model) -> None:
    model = make_model()
    prune_unstructured(model, 0.5, masks=True)
    images = Split(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4))
    for door in (
        lambda: prune_structured(model, {"features.0": 0.5}),
        lambda: sweep(model, images),
    ):
        with pytest.raises(BadInput, match=r"model: has weight masks; remove them first: .*remove"):
            door()
    timed = measure_latency(
        {"a": make_model(), "b": model},
        modes=["eager"], dtypes=["fp32"], batch_sizes=[1], trials=9, probes=False,
    )  # fmt: skip
    assert [row.model for row in timed.rows] == ["a", "b"]


@pytest.mark.parametrize("masks", [None, 1, 0, "yes", "false", [True], torch.tensor(1)])
def test_masks_are_true_or_false(make_model, masks: object) -> None:
    model = make_model()
    with pytest.raises(BadInput, match=r"^masks: .*: must be True or False$"):
        prune_unstructured(model, 0.5, masks=masks)
    assert not any(layer_sparsity(model).values())
