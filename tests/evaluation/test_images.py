"""Images are a split, a pair or a loader: they are counted alike, or refused with the way out."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, VARIANTS, lively
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import tp_vgg
from tp_vgg.data import Split
from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput
from tp_vgg.pruning.calibration import recalibrate

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.arange(60) % 10
FLOATS = Normalisation.of(lively().meta)(PIXELS)


class Stream(IterableDataset):
    """A data set without a length."""

    def __iter__(self):
        return iter(zip(FLOATS, LABELS, strict=True))


class Items(Dataset):
    def __init__(self, image: object, label: object = 0) -> None:
        self.image, self.label = image, label

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[object, object]:
        return self.image, self.label


WAYS = {
    "split": Split(PIXELS, LABELS),
    "pixels": (PIXELS, LABELS),
    "floats": (FLOATS, LABELS),
    "list": [FLOATS, LABELS],
    "doubles": (FLOATS.double(), LABELS.int()),
    "arrays": (PIXELS.numpy(), LABELS.numpy()),
    "float arrays": (FLOATS.numpy(), LABELS.numpy().astype(np.int32)),
    "loader": DataLoader(TensorDataset(FLOATS, LABELS), batch_size=16),
    "pixel loader": DataLoader(TensorDataset(PIXELS, LABELS), batch_size=16),
    "stream": DataLoader(Stream(), batch_size=16),
    "batches": [(FLOATS[:40], LABELS[:40]), (FLOATS[40:], LABELS[40:])],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_counts_the_same(way: str) -> None:
    model = lively()
    with torch.no_grad():
        expected = int((model(FLOATS).argmax(1) == LABELS).sum())
    model.train()
    state = torch.get_rng_state()
    result = tp_vgg.accuracy(model, WAYS[way])
    assert (result.correct, result.n) == (expected, 60)
    assert result.low < result.accuracy == 100 * expected / 60 < result.high
    assert model.training, "the mode is put back"
    if way in ("split", "floats"):
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("variant", ["bn-hidden", "plain-linear"])
@pytest.mark.parametrize("way", ["floats", "loader", "pixel loader"])
@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_a_sweep_counts_what_the_pruned_networks_get_right(
    kind: str, way: str, variant: str
) -> None:
    model = lively(VARIANTS[variant])
    options = {"levels": [0.25, 0.5], "layers": ["features.0", model.spec.conv_names[4]]}
    table = tp_vgg.sweep(model, WAYS[way], kind=kind, precision="fp32", **options)
    assert table.baseline.correct == tp_vgg.accuracy(model, WAYS[way]).correct
    for point in table.points:
        pruned = copy.deepcopy(model)
        if kind == "structured":
            tp_vgg.prune_structured(pruned, {point.layer: point.ratio})
        else:
            tp_vgg.prune_unstructured(pruned, {point.layer: point.ratio})
        assert point.correct == tp_vgg.accuracy(pruned, WAYS[way]).correct
    assert len(table.points) == 4


def test_a_sweep_recalibrates_on_a_loader_as_on_a_split() -> None:
    model = lively()
    options = {"levels": [0.5], "layers": ["features.0"], "precision": "fp32"}
    tables = [
        tp_vgg.sweep(model, WAYS["split"], recalibrate=WAYS[way], **options)
        for way in ("split", "loader", "floats")
    ]
    assert len({tuple(point.correct for point in table.points) for table in tables}) == 1
    pruned = copy.deepcopy(model)
    tp_vgg.prune_structured(pruned, {"features.0": 0.5})
    recalibrate(pruned, WAYS["split"], Normalisation.of(model.meta))
    assert tables[0].points[0].correct == tp_vgg.accuracy(pruned, WAYS["floats"]).correct


def test_the_callers_images_are_not_changed() -> None:
    images = FLOATS.clone().to(memory_format=torch.channels_last)
    tp_vgg.sweep(lively(), (images, LABELS), levels=[0.5], layers=["features.0"])
    tp_vgg.accuracy(lively(), (images, LABELS))
    tp_vgg.finetune(lively(), (images, LABELS), epochs=1)
    assert torch.equal(images, FLOATS)


@pytest.mark.parametrize("way", ["split", "loader"])
def test_masked_and_reparametrised_networks_are_measured(way: str) -> None:
    model = lively()
    tp_vgg.prune_unstructured(model, 0.6, masks=True)
    plain = lively()
    tp_vgg.prune_unstructured(plain, 0.6)
    expected = tp_vgg.accuracy(plain, WAYS[way])
    assert tp_vgg.accuracy(model, WAYS[way]) == expected
    assert hasattr(model.features[4], "weight_mask")
    parametrizations.weight_norm(plain.features[4])
    assert tp_vgg.accuracy(plain, WAYS[way]).n == 60


def test_float_images_that_look_like_pixels_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tp_vgg.accuracy(lively(), WAYS["loader"])
        assert not caplog.messages
        tp_vgg.accuracy(lively(), (PIXELS.float() / 255, LABELS))
        assert "values from 0.00 to 1.00: not normalised?" in caplog.messages[0]
        batches = [(PIXELS[:30].float() / 255, LABELS[:30])] * 2
        tp_vgg.accuracy(lively(), batches)
        assert len(caplog.messages) == 2, "once for all batches"
        plain = lively()
        plain.meta.update(mean=[0.0] * 3, std=[1.0] * 3)
        tp_vgg.accuracy(plain, (PIXELS.float() / 255, LABELS))
        assert len(caplog.messages) == 2, "the network takes pixels in [0, 1]"


class Shown:
    """Neither a tensor nor an array, such as a picture of Pillow."""


ONE = FLOATS[0]
REFUSED = {
    "null": (None, "must be a tp_vgg.data.Split.*a pair.*DataLoader.*, got null"),
    "number": (3, "got a number"),
    "text": ("test", "got a string"),
    "bytes": (b"test", "got bytes"),
    "mapping": ({"images": FLOATS, "labels": LABELS}, "got an object"),
    "function": (lively, "got a function"),
    "module": (torch.nn.Sequential(torch.nn.ReLU()), "got a Sequential"),
    "tensor": (FLOATS, r"got a Tensor; give its labels too: \(images, labels\)"),
    "array": (PIXELS.numpy(), "got a ndarray; give its labels too"),
    "data set": (TensorDataset(FLOATS, LABELS), r"wrap it in torch\.utils\.data\.DataLoader"),
    "generator": (((FLOATS, LABELS) for _ in "1"), "got a generator, which can be read only once"),
    "iterator": (iter([(FLOATS, LABELS)]), "read only once; give a list"),
    "empty": ([], "has no images"),
    "empty pair": ((FLOATS[:0], LABELS[:0]), "has no images"),
    "empty loader": (DataLoader([]), "has no images"),
    "three": ((FLOATS, LABELS, LABELS), "got a tuple whose batch 0 is a Tensor"),
    "images only": (DataLoader(FLOATS), "got a DataLoader whose batch 0 is a Tensor"),
    "triples": (DataLoader(TensorDataset(FLOATS, LABELS, LABELS)), "batch 0 is 3 values"),
    "mappings": (DataLoader([{"image": ONE, "label": 1}]), "batch 0 is an object"),
    "items": ([(ONE, 3)], r"batch 0: one image of shape \[3, 32, 32\].*DataLoader"),
    "unbatched": (DataLoader(TensorDataset(FLOATS, LABELS), batch_size=None), "one image.*Loader"),
    "pictures": (DataLoader(Items(Shown())), r"batch 0 can't be read \(TypeError.*Shown.*ToTensor"),
    "sizes": (
        DataLoader([(ONE, 1), (ONE[:, :9], 1)], batch_size=2),
        r"batch 0 can't be read \(RuntimeError.*equal size",
    ),
    "no label": (DataLoader(Items(ONE, "cat")), "batch 0: labels: must be a tensor.*got a"),
    "hot": ((FLOATS, torch.eye(10)[LABELS]), r"labels: must be int64 \[60\].*got \[60, 10\]"),
    "float labels": ((FLOATS, LABELS.float()), "labels: float32 instead of int64"),
    "bool labels": ((FLOATS, LABELS > 3), "labels: bool"),
    "listed labels": ((FLOATS, LABELS.tolist()), "labels: must be a tensor.*as_tensor"),
    "short labels": ((FLOATS, LABELS[:9]), r"one per image, got \[9\]"),
    "last": ((FLOATS.permute(0, 2, 3, 1), LABELS), r"uint8 or float32 \[N, 3, S, S\].*permute"),
    "gray": (DataLoader(TensorDataset(FLOATS[:, :1], LABELS)), r"batch 0: images: .*expand"),
    "ints": ((PIXELS.int(), LABELS), "images: int32; convert them to uint8"),
    "bools": ((PIXELS > 9, LABELS), "images: bool"),
    "side": ((FLOATS[..., :16, :16], LABELS), "images of 16x16 pixels; the network takes 32x32"),
    "class": ((FLOATS, LABELS + 1), "labels: from 1 to 10; the network has 10 classes"),
    "negative": (DataLoader([(ONE, -1)]), "batch 0: labels: from -1 to -1"),
    "mixed": ([(FLOATS, LABELS), (PIXELS, LABELS)], "some batches are uint8, others float"),
    "second": ([(FLOATS, LABELS), (FLOATS, LABELS + 1)], "batch 1: labels: from 1 to 10"),
}
DOORS = {
    "images": tp_vgg.accuracy,
    "split": lambda model, images: tp_vgg.sweep(model, images, levels=[0.5]),
    "recalibrate": lambda model, images: tp_vgg.sweep(
        model, WAYS["split"], levels=[0.5], recalibrate=images
    ),
    "loader": lambda model, images: tp_vgg.finetune(model, images, epochs=1),
    "val": lambda model, images: tp_vgg.finetune(model, WAYS["split"], val=images, epochs=1),
}


def accepted(door: str, kind: str) -> bool:
    """None stands for no such images, and batches of two kinds are no trouble one by one."""
    return (kind == "null" and door in ("recalibrate", "val")) or (
        kind == "mixed" and door not in ("split", "recalibrate")
    )


@pytest.mark.parametrize(
    ("door", "kind"), [(d, k) for d in DOORS for k in REFUSED if not accepted(d, k)]
)
def test_what_holds_no_images_is_refused_with_the_way(door: str, kind: str) -> None:
    images, said = REFUSED[kind]
    model = lively()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadInput, match=f"^{door}: .*{said}") as refusal:
        DOORS[door](model, images)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_data_set_of_load_data_has_splits(few_digits) -> None:
    with pytest.raises(BadInput, match=r"got a DataSet; give one of its splits: \.train, \.val or"):
        tp_vgg.accuracy(lively(), few_digits)


class Broken(Dataset):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 20:
            raise FileNotFoundError("cat.png\nis gone")
        return ONE, 0


def test_an_error_in_a_loader_is_one_line_with_its_cause() -> None:
    with pytest.raises(BadInput, match=r"batch 2 can't be read \(FileNotFoundError: cat\.p") as no:
        tp_vgg.accuracy(lively(), DataLoader(Broken(), batch_size=10))
    assert "\n" not in str(no.value)
    assert isinstance(no.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (None, "model: must be a network of tp_vgg.build or tp_vgg.load, got null"),
        (torch.nn.Linear(3, 3), "model: Linear is not a network of tp_vgg"),
        (torch.nn.DataParallel(lively()), r"wrapped in DataParallel; give the network inside"),
        (lively().half(), r"float16; give the model in float32: model\.float\(\)"),
        (lively().to("meta"), "on the meta device"),
    ],
    ids=["null", "module", "wrapper", "half", "meta"],
)
def test_a_model_that_is_none_is_refused(model: object, said: str) -> None:
    for door in (tp_vgg.accuracy, tp_vgg.finetune):
        with pytest.raises(BadInput, match=said):
            door(model, WAYS["split"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalisation": (0.5, 0.5)}, "normalisation: must be a Normalisation, got a tuple"),
        ({"label": None}, "label: must be strings, got None"),
    ],
)
def test_other_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        tp_vgg.accuracy(lively(SMALL), WAYS["split"], **options)
