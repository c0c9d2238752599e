from __future__ import annotations

import copy

import pytest
import torch
import torch_pruning as tp
from helpers.networks import SMALL, VARIANTS

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.network.network import prunable_layers
from tp_vgg.network.vgg.model import build
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning import structured
from tp_vgg.pruning.criteria import CRITERIA
from tp_vgg.pruning.equivalence import EquivalenceCheck, check_equivalence, double_copy
from tp_vgg.pruning.gradients import accumulate_gradients
from tp_vgg.pruning.ranking import rank, top_k
from tp_vgg.pruning.ratios import Plan, resolve
from tp_vgg.pruning.structured import prune_channels, prune_structured
from tp_vgg.pruning.unstructured import mask_layers

X = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def everywhere(spec: VGGSpec, ratio: float) -> dict[str, float]:
    return dict.fromkeys(spec.prunable, ratio)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_shrinks_to_the_target_and_proves_it(make_model, spec: VGGSpec, ratio: float) -> None:
    model = make_model(spec)
    done = prune_structured(model, everywhere(spec, ratio))
    target = resolve(Plan(everywhere(spec, ratio), "t"), spec)
    assert model.spec == target
    assert target.params() == sum(p.numel() for p in model.parameters()) < spec.params()
    assert done.proof.holds
    assert done.proof.images == 16
    assert model(X).shape == (16, 10)


def test_keeps_the_filters_with_the_largest_norms(make_model) -> None:
    model = make_model()
    dense = copy.deepcopy(model)
    done = prune_structured(model, {"features.8": 0.5, "classifier.0": 0.25})
    for name, kept in done.kept.items():
        weight = dense.get_submodule(name).weight.detach()
        norms = weight.abs().flatten(1).sum(1)
        largest = sorted(norms.topk(len(kept)).indices.tolist())
        assert kept == largest == model.kept[name]
    before, after = (m.get_submodule("features.8").weight for m in (dense, model))
    kept = done.kept["features.8"]
    assert torch.equal(after, before[kept])
    assert torch.equal(model.features[9].running_mean, dense.features[9].running_mean[kept])
    assert torch.equal(model.features[11].weight, dense.features[11].weight[:, kept])


def test_an_unfolded_head_loses_49_columns_a_channel(make_model) -> None:
    model = make_model(VARIANTS["bn-unfolded"])
    dense = copy.deepcopy(model)
    kept = prune_structured(model, {"features.25": 0.5}).kept["features.25"]
    columns = [channel * 49 + i for channel in kept for i in range(49)]
    assert torch.equal(model.classifier[0].weight, dense.classifier[0].weight[:, columns])


@pytest.mark.parametrize("importance", CRITERIA)
def test_every_criterion_shrinks_and_is_proved(importance: str, make_model) -> None:
    model = make_model()
    model(X).logsumexp(1).sum().backward()
    convs = dict.fromkeys(SMALL.conv_names, 0.4)
    done = prune_structured(model, convs, importance=importance, seed=3, images=X)
    assert done.proof.holds
    assert [len(kept) for kept in done.kept.values()] == [
        SMALL.prunable[n] - int(0.4 * SMALL.prunable[n] + 0.5) for n in convs
    ]


def test_criteria_rank_as_their_papers_say(make_model) -> None:
    model = make_model()
    model(X).logsumexp(1).sum().backward()
    conv, bn = model.features[4], model.features[5]
    weight, grad = conv.weight.detach(), conv.weight.grad
    expected = {
        "l1": weight.abs().sum((1, 2, 3)),
        "l2": weight.square().sum((1, 2, 3)),
        "bn": bn.weight.detach().abs(),
        "taylor": (weight * grad).abs().sum((1, 2, 3)),
        "fpgm": torch.cdist(*[weight.abs().square().flatten(1)] * 2).sum(0),
    }
    for importance, score in expected.items():
        assert torch.allclose(rank(model, ["features.4"], importance)["features.4"], score), (
            importance
        )


def test_gradients_are_those_of_the_mean_loss(make_model, few_digits) -> None:
    model = make_model()
    accumulate_gradients(model, few_digits.train, few_digits.normalisation, images=1000)
    found = model.features[4].weight.grad.clone()
    model.eval().zero_grad()
    x, y = few_digits.train.images, few_digits.train.labels
    torch.nn.functional.cross_entropy(model(few_digits.normalisation(x)), y).backward()
    assert torch.allclose(found, model.features[4].weight.grad, rtol=1e-4, atol=1e-7)


def test_squares_are_the_mean_over_images(make_model, few_digits) -> None:
    """``hessian`` ranks by these; torch-pruning's collector keeps only the last image's square."""
    model = make_model()
    accumulate_gradients(
        model, few_digits.train, few_digits.normalisation, images=1000, squared=True
    )
    found = model.features[4].weight.grad.clone()
    score = rank(model, ["features.4"], "hessian")["features.4"]
    weight = model.features[4].weight.detach()
    assert torch.allclose(score, (weight.square() * found).sum((1, 2, 3)))
    expected = torch.zeros_like(found)
    scorer = tp.importance.HessianImportance()
    for image, label in zip(few_digits.train.images, few_digits.train.labels, strict=True):
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            model(few_digits.normalisation(image[None])), label[None]
        )
        loss.backward()
        scorer.accumulate_grad(model)
        last = model.features[4].weight.grad.square()
        expected += last / len(few_digits.train)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9)
    assert torch.equal(scorer._accu_grad[model.features[4].weight], last), (
        "torch-pruning has mended it: use theirs"
    )


def test_lamp_ranks_within_a_layer_as_l2_does(make_model) -> None:
    model = make_model()
    lamp, l2 = (
        rank(model, ["features.4"], importance)["features.4"] for importance in ("lamp", "l2")
    )
    assert torch.equal(lamp.argsort(), l2.argsort())


def test_random_follows_its_seed_alone(make_model) -> None:
    model = make_model()
    state = torch.random.get_rng_state()
    one, two, other = (
        rank(model, ["features.4"], "random", seed)["features.4"] for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is untouched"


def test_all_layers_are_ranked_on_the_dense_weights(make_model) -> None:
    """Pruned together or one at a time, each layer keeps the channels of its dense ranking."""
    together = prune_structured(make_model(), everywhere(SMALL, 0.5)).kept
    for name in SMALL.prunable:
        assert prune_structured(make_model(), {name: 0.5}).kept[name] == together[name]


def test_ties_keep_the_lower_index() -> None:
    assert top_k(torch.ones(6), 3) == [0, 1, 2]
    assert top_k(torch.tensor([1.0, 3, 2, 3]), 2) == [1, 3]


def test_kept_leads_back_to_the_dense_baseline(make_model) -> None:
    model = make_model()
    dense = copy.deepcopy(model)
    for ratio in (0.2, 0.3):
        prune_structured(model, everywhere(model.spec, ratio))
    for name, layer in prunable_layers(model):
        kept = model.kept[name]
        assert kept == sorted(set(kept))
        assert len(kept) == model.spec.prunable[name]
        assert torch.equal(layer.bias, dense.get_submodule(name).bias[kept])
    assert model.meta["dense_widths"] == SMALL.prunable


def test_the_proof_catches_a_wrong_shrink(make_model) -> None:
    model = make_model()
    before = double_copy(model)
    kept = prune_structured(model, {"features.4": 0.5}).kept
    assert check_equivalence(before, double_copy(model), kept, X).holds
    others = {"features.4": [i for i in range(12) if i not in kept["features.4"]]}
    assert not check_equivalence(before, double_copy(model), others, X).holds
    for value in (model.features[4].weight[0, 0, 0, 0].item() + 1e-4, float("nan")):
        with torch.no_grad():
            model.features[4].weight[0, 0, 0, 0] = value
        assert not check_equivalence(before, double_copy(model), kept, X).holds


def test_zeroing_before_batch_norm_would_not_pass_the_proof(make_model) -> None:
    """Zeroing comes after ReLU, because batch norm turns a zeroed conv channel into a constant."""
    model = make_model()
    before = copy.deepcopy(model)
    kept = prune_structured(model, {"features.4": 0.5}).kept
    gone = [i for i in range(12) if i not in kept["features.4"]]
    with torch.no_grad():
        before.features[4].weight[gone] = 0
        before.features[4].bias[gone] = 0
        assert not torch.allclose(before(X), model(X), rtol=1e-3)


def test_a_layer_that_is_silently_skipped_is_an_error(
    make_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tp.dependency.Group, "prune", lambda _: None)
    with pytest.raises(
        WorkFailed, match=r"features.4: torch-pruning left 12 channels instead of 6"
    ):
        prune_structured(make_model(), {"features.4": 0.5})


def test_a_failed_proof_is_an_error(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured, "check_equivalence", lambda *_: EquivalenceCheck(16, 1e-3, 1.0))
    with pytest.raises(WorkFailed, match="check failed"):
        prune_structured(make_model(), {"features.4": 0.5})


def test_masked_models_are_refused(make_model) -> None:
    model = make_model()
    mask_layers(model, Plan({"features.4": 0.5}, "t"))
    with pytest.raises(BadInput, match="weight masks"):
        prune_structured(model, {"features.4": 0.5})


def test_batch_norm_importance_needs_batch_norm(make_model) -> None:
    for spec, layer in ((VARIANTS["plain-linear"], "features.3"), (SMALL, "classifier.0")):
        with pytest.raises(BadInput, match="no batch norm to rank by"):
            prune_structured(make_model(spec), {layer: 0.5}, importance="bn")


def test_frozen_and_training_models_keep_their_state(make_model) -> None:
    model = make_model().train()
    for parameter in model.features.parameters():
        parameter.requires_grad_(False)
    prune_structured(model, {"features.4": 0.5})
    assert model.training
    assert not model.features[0].weight.requires_grad
    assert model.classifier[0].weight.requires_grad


def test_nothing_to_remove_changes_nothing(make_model) -> None:
    model = make_model()
    expected = model(X)
    done = prune_structured(model, {"features.0": 0.0})
    assert done.kept == {}
    assert torch.equal(model(X), expected)


# Behaviour of torch-pruning that tp_vgg relies on or works around.


def test_stock_pruner_counts_differently() -> None:
    """removed = n − int(n·(1 − r)): 7 of 64 at 0.1 where we remove 6; (k − 0.5)/n gives k."""
    for ratio, left in ((0.1, 57), ((6 - 0.5) / 64, 58)):
        model = build(VGGSpec((64,) * 8, hidden=()))
        pruner = tp.pruner.BasePruner(
            model,
            X[:1],
            tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=ratio,
            ignored_layers=[model.classifier],
        )
        pruner.step()
        assert model.features[0].out_channels == left


def test_tracing_needs_gradients(make_model) -> None:
    with torch.no_grad(), pytest.raises(AssertionError):
        tp.DependencyGraph().build_dependency(make_model(), example_inputs=X[:1])
    with torch.no_grad():
        prune_channels(make_model(), SMALL.with_widths({"features.0": 4}), X)


def test_batch_norm_importance_is_none_without_batch_norm(make_model) -> None:
    model = make_model(VARIANTS["plain-linear"])
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=X[:1])
    group = graph.get_pruning_group(model.features[0], tp.prune_conv_out_channels, [0, 1])
    assert tp.importance.BNScaleImportance()(group) is None


def test_pruning_replaces_parameters(make_model) -> None:
    """So an optimiser must be built after pruning."""
    model = make_model()
    before = model.features[4].weight
    prune_structured(model, {"features.4": 0.5})
    assert model.features[4].weight is not before
    assert before.shape[0] == 12
