"""Records of models: drops against a baseline, and refused records."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.networks import SMALL
from helpers.records import record, repair

from tp_vgg.evaluation.hits import pack_hits
from tp_vgg.evaluation.record import ModelRecord


def test_a_drop_is_paired_by_image() -> None:
    """Models of equal accuracy may differ on every image: only a paired interval shows it."""
    dense = record([1] * 90 + [0] * 10)
    same, swapped = record([1] * 90 + [0] * 10), record([0] * 10 + [1] * 90)
    worse = record([1] * 80 + [0] * 20)
    drop, low, high = same.drop_against(dense)
    other = swapped.drop_against(dense)
    assert (drop, other[0]) == (0, 0)
    assert other[1] < low < 0 < high < other[2]
    drop, low, high = worse.drop_against(dense)
    assert drop == 10
    assert 0 < low < 10 < high


def test_a_record_comes_back_and_a_damaged_one_does_not() -> None:
    found = record([1, 0, 1])
    assert ModelRecord.from_dict(found.to_dict()) == found
    with pytest.raises(ValueError, match="differs from the accuracy"):
        ModelRecord.from_dict({**found.to_dict(), "hits": pack_hits(np.array([1, 1, 1]))})


@pytest.mark.parametrize(
    "change",
    [
        {"params": SMALL.params() - 1}, {"macs": 1}, {"nonzero": 0},
        {"nonzero": SMALL.params() + 1}, {"bytes": 0}, {"sparsity": {}},
        {"sparsity": {row.name: 1.5 for row in SMALL.rows}}, {"data": {}},
        {"environment": {"device": []}}, {"notes": "abc"}, {"more": 1},
        {"val": {"correct": 4, "n": 3, "accuracy": 400 / 3, "low": 1.0, "high": 400 / 3}},
        {"spec": {"widths": []}}, {"checkpoint": None},
        {"test": {"correct": 2, "n": 3, "accuracy": 99.0, "low": 1.0, "high": 100.0}},
        {"val": {"correct": 0, "n": 0, "accuracy": 0.0, "low": 0.0, "high": 0.0}},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_model_can_be_is_refused(change: dict) -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        ModelRecord.from_dict({**record([1, 0, 1]).to_dict(), **change})


LAYERS = tuple(row.name for row in SMALL.rows)
REFITTED = LAYERS[2]


def repaired(layers: tuple[str, ...] = LAYERS) -> ModelRecord:
    return record([1, 0, 1], baseline="11" * 32, repair=repair(1, 2, 3, layers))


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[2:4], ()], ids=["all", "some", "recalibrate"])
def test_a_repair_comes_back_with_its_record(layers: tuple[str, ...]) -> None:
    found = repaired(layers)
    back = ModelRecord.from_dict(json.loads(json.dumps(found.to_dict())))
    assert back == found
    assert back.repair is not None
    if layers:
        assert back.repair.result is not None
        assert list(back.repair.result.layers) == list(layers), "in the network's order"


def test_a_record_of_a_version_without_repair_still_reads() -> None:
    earlier = record([1, 0, 1]).to_dict()
    del earlier["repair"]
    assert ModelRecord.from_dict(earlier).repair is None
    assert ModelRecord.from_dict(earlier).metrics()["repair"] is None


def test_metrics_have_the_repair_in_percent_and_by_layer() -> None:
    entry = repaired().metrics()["repair"]
    assert set(entry) == {"method", "removed", "repaired", "images", "held_out", "layers"}
    assert (entry["method"], entry["images"], entry["held_out"]) == ("reconstruct", 90, 10)
    assert (entry["removed"], entry["repaired"]) == (100 / 3, 200 / 3)
    assert list(entry["layers"]) == list(LAYERS)
    assert entry["layers"][LAYERS[0]] == {"before": 0.0, "after": 0.0, "outcome": "unchanged"}
    assert entry["layers"][LAYERS[1]]["outcome"] == "kept"
    assert entry["layers"][REFITTED] == {"before": 0.7, "after": 0.2, "outcome": "refitted"}
    entry = repaired(()).metrics()["repair"]
    assert (entry["method"], entry["images"], entry["held_out"]) == ("recalibrate", None, None)
    assert entry["layers"] == {}


def _accuracy(correct: int, n: int) -> dict:
    share = 100 * correct / n
    return {"correct": correct, "n": n, "accuracy": share, "low": 0.0, "high": 100.0}


@pytest.mark.parametrize(
    "change",
    [
        {"method": "none"}, {"method": "recalibrate"}, {"method": None}, {"result": None},
        {"result": {}}, {"more": 1}, {"removed": None}, {"removed": _accuracy(4, 3)},
        {"removed": _accuracy(1, 4)}, {"repaired": _accuracy(2, 2)},
        {"repaired": {**_accuracy(1, 3), "accuracy": 50.0}},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_repair_can_be_is_refused(change: dict) -> None:
    known = repaired().to_dict()
    known["repair"].update(change)
    with pytest.raises((TypeError, KeyError, ValueError)):
        ModelRecord.from_dict(known)


@pytest.mark.parametrize(
    "change",
    [
        {"images": 0}, {"images": True}, {"held_out": -1}, {"held_out": 0}, {"layers": {}},
        {"layers": []}, {"more": 1},
        *(
            {"layers": {name: {"before": before, "after": after, "outcome": outcome}}}
            for name, before, after, outcome in [
                ("features.1", 0.5, 0.2, "refitted"), ("", 0.5, 0.2, "refitted"),
                (REFITTED, -0.1, -0.2, "refitted"), (REFITTED, float("inf"), 0.2, "refitted"),
                (REFITTED, float("nan"), float("nan"), "kept"), (REFITTED, "0.5", 0.2, "refitted"),
                (REFITTED, 0.5, 0.5, "refitted"), (REFITTED, 0.2, 0.5, "refitted"),
                (REFITTED, 0.5, 0.2, "kept"), (REFITTED, 0.2, 0.5, "kept"),
                (REFITTED, 0.5, 0.2, "unchanged"), (REFITTED, 0.5, 0.2, "better"),
            ]
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_repairs_result_can_be_is_refused(change: dict) -> None:
    known = repaired().to_dict()
    known["repair"]["result"].update(change)
    with pytest.raises((TypeError, KeyError, ValueError)):
        ModelRecord.from_dict(known)


@pytest.mark.parametrize("value", [{}, [], "reconstruct", True, 1])
def test_a_repair_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        ModelRecord.from_dict({**repaired().to_dict(), "repair": value})


def test_a_dense_model_was_not_repaired() -> None:
    with pytest.raises(ValueError, match="dense"):
        ModelRecord.from_dict({**repaired().to_dict(), "baseline": None})
