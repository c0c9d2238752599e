"""Fine-tuning from Python learns as the command line does, keeps zeros, and puts all else back."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from helpers.networks import SMALL, fresh, lively, weights
from torch.optim import optimizer as torch_optimizer
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import tp_vgg
from tp_vgg import VGGSpec
from tp_vgg.data import Split
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.trainer import fit

LEARNER = VGGSpec((16, 16, 32, 32, 32, 32, 32, 32))
"""A network that learns the digits within seconds."""


def of(data, spec: VGGSpec = SMALL):
    model = fresh(spec)
    model.meta.update(mean=list(data.normalisation.mean), std=list(data.normalisation.std))
    return model


def loader_of(data, split: Split, **options) -> DataLoader:
    pairs = TensorDataset(data.normalisation(split.images), split.labels)
    return DataLoader(pairs, **{"batch_size": 32, **options})


def masked_or_not(model, masks: bool):
    tp_vgg.prune_unstructured(model, 0.7, masks=masks)
    return {name: model.get_submodule(name).weight.detach() == 0 for name in model.spec.prunable}


def are_zero(model, zeros) -> bool:
    return all(
        not bool(model.get_submodule(name).weight[places].any()) for name, places in zeros.items()
    )


@pytest.mark.parametrize("teacher", [False, True])
def test_a_split_gives_the_bits_of_the_command_lines_trainer(few_digits, teacher: bool) -> None:
    ours, theirs = of(few_digits), of(few_digits)
    dense = lively() if teacher else None
    history = tp_vgg.finetune(
        ours,
        few_digits.train,
        teacher=dense,
        val=few_digits.val,
        epochs=2,
        batch_size=40,
        precision="fp32",
        seed=3,
    )
    recipe = Recipe(2, 0.02, 40, "triangular", seed=3, distill_weight=0.5)
    expected = fit(
        theirs,
        TrainingSetup(few_digits, recipe, few_digits.normalisation, teacher=dense),
        quiet=True,
    )
    assert torch.equal(weights(ours), weights(theirs))
    assert [(row.train_loss, row.val_accuracy) for row in history] == [
        (row.train_loss, row.val_accuracy) for row in expected
    ]


@pytest.mark.parametrize("masks", [True, False])
def test_a_pruned_network_recovers_on_a_loader_and_keeps_its_zeros(
    digits, masks: bool, tmp_path
) -> None:
    model = of(digits, LEARNER)
    tp_vgg.finetune(model, digits.train, epochs=3, lr=0.1, batch_size=64)
    dense = copy.deepcopy(model)
    zeros = masked_or_not(model, masks)
    before = tp_vgg.accuracy(model, digits.test)
    loader = loader_of(digits, digits.train, batch_size=64, shuffle=True)
    history = tp_vgg.finetune(model, loader, teacher=dense, epochs=1)
    after = tp_vgg.accuracy(model, digits.test)
    assert after.accuracy > max(before.accuracy + 20, 60)
    assert [row.epoch for row in history] == [1]
    assert math.isnan(history[0].val_accuracy)
    assert are_zero(model, zeros)
    layer = model.features[4]
    assert hasattr(layer, "weight_mask") == masks
    if masks:
        assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
    tp_vgg.save(model, tmp_path / "m.pth")
    assert are_zero(tp_vgg.load(str(tmp_path / "m.pth")), zeros)
    assert tp_vgg.accuracy(tp_vgg.load(tmp_path / "m.pth"), digits.test) == after


def test_the_best_epoch_on_val_is_kept_and_without_val_the_last(few_digits, monkeypatch) -> None:
    accuracies = iter([30.0, 50.0, 40.0])
    monkeypatch.setattr(
        "tp_vgg.training.finetune._Tuning._val_accuracy", lambda _: next(accuracies)
    )
    best = of(few_digits)
    tp_vgg.finetune(best, few_digits.train, val=few_digits.val, epochs=3, schedule="one-cycle")
    monkeypatch.undo()
    last = of(few_digits)
    states = []
    monkeypatch.setattr(
        "tp_vgg.training.finetune._Tuning._val_accuracy",
        lambda tuning: states.append(weights(tuning.network)) or math.nan,
    )
    tp_vgg.finetune(last, few_digits.train, epochs=3, schedule="one-cycle")
    assert len(states) == 3
    assert torch.equal(weights(best), states[1])
    assert torch.equal(weights(last), states[2])
    assert not torch.equal(states[1], states[2])


def test_everything_but_the_weights_is_put_back(few_digits) -> None:
    model, teacher = of(few_digits), lively().train()
    state = torch.get_rng_state()
    frozen = model.features[4].weight.requires_grad_(False).clone()
    taught = weights(teacher)
    hooks = len(torch_optimizer._global_optimizer_post_hooks)
    with torch.no_grad():
        tp_vgg.finetune(
            model, (few_digits.train.images, few_digits.train.labels), teacher=teacher, epochs=1
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert teacher.training
    assert torch.equal(weights(teacher), taught)
    assert torch.equal(model.features[4].weight, frozen)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.features[8].weight.is_contiguous()
    assert len(torch_optimizer._global_optimizer_post_hooks) == hooks


def test_the_seed_decides_and_the_process_does_not(few_digits) -> None:
    def trained(seed: int) -> torch.Tensor:
        model = of(few_digits)
        loader = loader_of(few_digits, few_digits.train, shuffle=True)
        tp_vgg.finetune(model, loader, epochs=2, seed=seed)
        return weights(model)

    first = trained(0)
    torch.manual_seed(99)
    assert torch.equal(trained(0), first)
    assert not torch.equal(trained(1), first)


def test_a_loaders_images_are_used_as_they_come(few_digits) -> None:
    """Not augmented, not shuffled: one big batch is one step on exactly these images."""
    model, seen = of(few_digits), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    loader = loader_of(few_digits, few_digits.train)
    tp_vgg.finetune(model, loader, epochs=1)
    assert torch.equal(torch.cat(seen), torch.cat([images for images, _ in loader]))


@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_shifted_and_mirrored_only_if_asked(few_digits, flip: bool) -> None:
    model, seen = of(few_digits), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    one = few_digits.train.images[:1].clone()
    one[..., :16] = 0
    one[..., 16:] = 255
    split = Split(one.expand(64, -1, -1, -1).contiguous(), torch.zeros(64, dtype=torch.int64))
    tp_vgg.finetune(model, split, epochs=1, flip=flip, batch_size=64)
    brighter_left = (seen[0][..., :8].mean((1, 2, 3)) > seen[0][..., -8:].mean((1, 2, 3))).sum()
    assert (brighter_left > 0) == flip
    assert len(seen[0].flatten(1).unique(dim=0)) > 5


class Stream(IterableDataset):
    def __init__(self, data) -> None:
        self.data = data

    def __iter__(self):
        images = self.data.normalisation(self.data.train.images[:50])
        return iter(zip(images, self.data.train.labels[:50], strict=True))


def test_a_loader_without_a_length_ends_its_schedule(few_digits) -> None:
    history = tp_vgg.finetune(
        of(few_digits), DataLoader(Stream(few_digits), batch_size=20), epochs=2
    )
    rate = Recipe(2, 0.02, schedule="triangular").rate
    assert [row.lr for row in history] == [rate(3, 3), rate(6, 3)]


def test_a_loss_that_is_not_finite_leaves_the_last_good_epoch(few_digits) -> None:
    model = of(few_digits)
    before = weights(model)
    with pytest.raises(WorkFailed, match=r"non-finite by step .* of 2;.*weights of before.*lr$"):
        tp_vgg.finetune(model, few_digits.train, epochs=1, lr=1e30, batch_size=48)
    assert torch.equal(weights(model), before)
    images = few_digits.normalisation(few_digits.train.images[:20])
    images[3, 0, 0, 0] = math.nan
    with pytest.raises(BadInput, match=r"^loader: images: NaN or infinity in them"):
        tp_vgg.finetune(model, (images, few_digits.train.labels[:20]), epochs=1)
    assert torch.equal(weights(model), before)
    assert not model.training


def test_a_bad_batch_late_leaves_the_weights_as_they_were(few_digits) -> None:
    model = of(few_digits)
    before = weights(model)
    images = few_digits.normalisation(few_digits.train.images[:20])
    batches = [(images, few_digits.train.labels[:20]), (images, few_digits.train.labels[:20] + 10)]
    with pytest.raises(BadInput, match=r"^loader: batch 1: labels: from 1"):
        tp_vgg.finetune(model, batches, epochs=1)
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs: 0: must be a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs: 1.5"),
        ({"epochs": True}, "epochs: True"),
        ({"lr": 0}, "lr: 0: must be a number above 0"),
        ({"lr": "0.1"}, "lr: must be a number, got a string"),
        ({"lr": math.nan}, "lr: nan"),
        ({"lr": True}, "lr: must be a number, got a boolean"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"batch_size": "8"}, "batch_size: '8'"),
        ({"schedule": "rewind"}, "schedule 'rewind' is not one of triangular, one-cycle"),
        ({"schedule": None}, "schedule None"),
        ({"precision": "fp16"}, "precision 'fp16' is not one of auto, fp32, bf16"),
        ({"distill_weight": 1.5}, "distill_weight: 1.5: must be a number from 0 to 1"),
        ({"distill_weight": None}, "distill_weight: must be a number, got null"),
        ({"distill_temperature": 0}, "distill_temperature: 0: must be a number above 0"),
        ({"label_smoothing": -0.1}, "label_smoothing: -0.1"),
        ({"flip": 1}, "flip: 1: must be True or False"),
        ({"quiet": "no"}, "quiet: 'no': must be True or False"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": 0.5}, "seed: 0.5"),
        ({"teacher": "dense.pth"}, "teacher: must be a network of tp_vgg.build or tp_vgg.load"),
        ({"teacher": torch.nn.Linear(3, 3)}, "teacher: Linear is not a network of tp_vgg"),
        ({"teacher": lively().half()}, "teacher: .*float16; give the model in float32"),
        ({"teacher": fresh(VGGSpec(SMALL.widths, num_classes=7))}, "teacher: has classes 7"),
        ({"teacher": fresh(VGGSpec(SMALL.widths, image_size=64))}, "teacher: has an image size of"),
    ],
)
def test_other_options_are_refused(few_digits, options: dict[str, object], said: str) -> None:
    model = of(few_digits)
    before = weights(model)
    with pytest.raises(BadInput, match=f"^{said}") as refusal:
        tp_vgg.finetune(model, few_digits.train, **options)
    assert "\n" not in str(refusal.value)
    assert torch.equal(weights(model), before)


def test_a_teacher_is_another_network_and_a_loader_has_its_batches(few_digits) -> None:
    model = of(few_digits)
    with pytest.raises(BadInput, match="teacher: is the model itself"):
        tp_vgg.finetune(model, few_digits.train, teacher=model)
    loader = loader_of(few_digits, few_digits.train)
    with pytest.raises(BadInput, match="batch_size: the loader makes its own batches"):
        tp_vgg.finetune(model, loader, batch_size=8)
    with pytest.raises(BadInput, match="flip: the loader augments its own images"):
        tp_vgg.finetune(model, loader, flip=True)
    with pytest.raises(BadInput, match="no parameter requires a gradient"):
        tp_vgg.finetune(model.requires_grad_(False), loader)
