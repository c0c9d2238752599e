"""The results of public calls say in one short line what they are."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import SMALL, lively
from helpers.quick import brief

import tp_vgg
from tp_vgg.data.split import NormalisedSplit
from tp_vgg.evaluation.repaired import LayerRepair, RepairResult
from tp_vgg.latency.profile import Staircase, Timed


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, few_digits) -> dict[str, Any]:
    plan_file = tmp_path_factory.mktemp("reprs") / "ratios.json"
    plan_file.write_text(
        '{"features.0": 0.25, "features.4": 0.5, "features.8": 0.5, "features.11": 0.25,'
        ' "features.15": 0.5}'
    )
    model, val = lively(), few_digits.val
    table = tp_vgg.sweep(model, val)
    plan = tp_vgg.make_plan(table, {"macs": 0.6}, round_to=4)
    dense = {f"models/vgg11_bn, {'very ' * 30}dense": model, "a": lively(), "b": lively()}
    with brief():
        times = tp_vgg.measure_latency(
            dense, modes=["eager", "graph"], dtypes=["fp32"], batch_sizes=[1], probes=False,
            trials=9, device="cpu",
        )  # fmt: skip
    pruned = tp_vgg.prune_structured(lively(), tp_vgg.read_ratios(plan_file))
    return {
        "data": few_digits,
        "split": val,
        "float split": NormalisedSplit(val.images.float(), val.labels),
        "normalisation": few_digits.normalisation,
        "spec": SMALL,
        "large spec": tp_vgg.VGGSpec.preset("vgg19_bn", num_classes=1000),
        "accuracy": tp_vgg.accuracy(model, val),
        "sweep": table,
        "point": table.points[-1],
        "plan": plan,
        "prediction": plan.prediction,
        "least drop": plan.least_drop,
        "planned layer": plan.layers[0],
        "plan file": tp_vgg.read_ratios(plan_file),
        "pruned": pruned,
        "not pruned": tp_vgg.prune_structured(lively(), {}),
        "check": pruned.proof,
        "latency": times,
        "row": times.rows[0],
        "missing row": next(row for row in times.rows if row.median_ms is None),
        "profile": Staircase(
            "key", SMALL.to_dict(), "fp32", 64, {"device": "cpu"},
            tuple(Timed(name, 8, 8, 1.0, 0.1) for name in SMALL.conv_names),
        ),
        "held": tp_vgg.held(pruned_zeros()),
        "repaired": tp_vgg.repair(pruned_zeros(), model, val),
        "not repaired": tp_vgg.repair(lively(), model, val),
        "epochs": tp_vgg.finetune(lively(), few_digits.train, epochs=1)[0],
    }  # fmt: skip


@functools.cache  # its zeros are held only as long as it is there
def pruned_zeros():
    model = lively()
    tp_vgg.prune_unstructured(model, 0.5)
    return model


SAYS = {
    "data": r"<DataSet digits: 96 train, 40 val, 40 test images of 3x32x32, 10 classes, on cpu>",
    "split": r"<Split: 40 images of 3x32x32, uint8, 10 classes, on cpu>",
    "float split": r"<NormalisedSplit: 40 images of 3x32x32, float32, 10 classes, on cpu>",
    "normalisation": r"Normalisation\(mean=\(0\.\d+, ",
    "spec": r"VGGSpec\(widths=\(8, 12, ",
    "large spec": r"VGGSpec\(widths=\(64, 64, .*num_classes=1000",
    "accuracy": r"<Accuracy: \d+\.\d\d % \[\d+\.\d\d, \d+\.\d\d\], \d+ of 40 images>",
    "sweep": r"<Sensitivity: structured, l1, fp32: 8 layers at 9 levels \(0\.1 to 0\.9\), largest "
    r"drop .* points \(features\.\d+ at 0\.\d\); dense <Accuracy: .* of 40 images>>",
    "point": r"<Point features\.25 at 0\.9: accuracy .* %.*, drop .* points, 22 removed>",
    "plan": r"<PlanResult: structured, budget macs=0\.6: <Prediction.*>; \.ratios: features",
    "prediction": r"<Prediction: drop .* points, accuracy .* %, params 0\.\d\d×, MACs 0\.\d\d×>",
    "least drop": r"LeastDrop\(prediction=<Prediction",
    "planned layer": r"PlannedLayer\(layer='features\.0', ratio=",
    "plan file": r"<Plan '.*ratios\.json': 5 layers: features\.0 0\.25, .* and 1 more>"
    r"|<Plan '.*\.\.\.: 5 layers: features\.0 0\.25, .* and 1 more>",
    "pruned": r"<PruneResult: kept features\.0 6 of 8 channels, .* and 1 more; <EquivalenceCheck",
    "not pruned": r"<PruneResult: nothing removed; ",
    "check": r"<EquivalenceCheck: holds, logits up to \S+ differ by \S+ over 16 images>",
    "latency": r"<Latency: 6 rows on .*; models 'models/.*\.\.\., 'a' and 1 more; modes eager, "
    r"graph; dtypes fp32; batch sizes 1>",
    "row": r"<LatencyRow 'models/.*: eager fp32, batch 1: \S+ ms, speed-up .*: reference>",
    "missing row": r"<LatencyRow .*: graph fp32, batch 1: not available: .*>",
    "profile": r"<Staircase: 8 convs, 8 times, fp32, batch 64, on cpu>",
    "held": r"<held: [\d,]+ zero weights in 10 layers>",
    "repaired": r"<RepairResult: errors features\.0 0\.\d+ -> 0\.\d+, features\.4 .* and \d+ more; "
    r"from 36 images, 4 held out>",
    "not repaired": r"<RepairResult: nothing changed; from 36 images, 4 held out>",
    "epochs": r"Epoch\(epoch=1, lr=",
}


def test_every_result_has_its_line(results: dict[str, Any]) -> None:
    assert set(SAYS) == set(results)


@pytest.mark.parametrize("name", SAYS)
def test_a_result_says_in_one_line_what_it_is(name: str, results: dict[str, Any]) -> None:
    text = repr(results[name])
    assert re.match(SAYS[name], text), text
    assert len(text) < 300 and text.isprintable()
    assert str(results[name]) == text


def test_reprs_of_odd_results_do_not_fail(results: dict[str, Any]) -> None:
    table, plan, times = results["sweep"], results["plan"], results["latency"]
    for odd in (
        replace(table, points=()),
        replace(table, points=table.points[:1]),
        replace(plan, layers=()),
        replace(plan.prediction, drop_low=None, latency_share=0.5, sparsity=0.9),
        replace(times, rows=(), environment={}),
        RepairResult({}, 0, 0),
        RepairResult(dict.fromkeys(SMALL.prunable, LayerRepair(1e38, 1e-38, "refitted")), 9, 1),
        tp_vgg.Split(results["split"].images.to("meta"), results["split"].labels.to("meta")),
        tp_vgg.Split(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.long)),
        tp_vgg.read_ratios(Path("examples/ratios.json")),
    ):
        assert 0 < len(repr(odd)) < 300
