"""This step checks promises that only a device can break: `python -m gpu.checks NAME...`.

Without names, all checks run. A check returns a dict; ``holds`` in it is True if the promise holds.
"""

from __future__ import annotations

import copy
import hashlib
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from latency import narrowed

from gpu.common import DEVICE, FAILED, THIN, attempt, dense_model, finish
from tp_vgg.data.datasets import DataSet, load_data
from tp_vgg.latency.cuda import TorchCuda
from tp_vgg.latency.modes import input_pool, prepare
from tp_vgg.latency.table import GRAPHS, BenchmarkCase
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.memory import PeakMemory
from tp_vgg.machine.precision import fp32_arithmetic, pick_precision
from tp_vgg.network.vgg.fold import fold_batch_norm
from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.pruning.ratios import Plan
from tp_vgg.sensitivity.sweep import sweep
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.trainer import fit

RECIPE = Recipe(epochs=2, lr=0.05, batch_size=32)


class KeepsOutputs(TorchCuda):
    """A KeepsOutputs captures graphs as tp_vgg does, and keeps the logits that each one writes."""

    def __init__(self) -> None:
        super().__init__(DEVICE)
        self.outputs: list[list[torch.Tensor]] = []
        """For each graph, the results of the calls that were made to capture it, in order."""

    def capture(self, call: Call, *how: Any, **more: Any) -> Call:
        """Capture ``call`` as a graph, and keep the tensors that it returns."""
        kept: list[torch.Tensor] = []
        self.outputs.append(kept)
        return super().capture(lambda: kept.append(call()), *how, **more)  # type: ignore[arg-type]


def graph() -> dict[str, Any]:
    """Check that each replayed graph gives its own network's logits after all were prepared."""
    if DEVICE.type != "cuda":
        return {"holds": True, "note": "no CUDA device: not looked at"}
    worst = {mode: _graph_error(BenchmarkCase(mode, "fp32", 4)) for mode in GRAPHS}
    return {"relative_errors": worst, "holds": all(error < 1e-3 for error in worst.values())}


def _graph_error(case: BenchmarkCase) -> float:
    """Return the largest difference of replayed and eager logits, divided by the largest logit."""
    dense = dense_model()
    plans = [
        Plan.uniform(percent / 100, dense.spec.conv_names, "--ratio") for percent in (30, 50, 70)
    ]
    models = [dense, *(narrowed(dense, plan) for plan in plans)]
    cuda, worst = KeepsOutputs(), 0.0
    with fp32_arithmetic(tf32=False, deterministic=False), torch.inference_mode():
        pool = input_pool(models[0].spec.image_size, case, DEVICE, 0)
        forwards = [prepare(model, case, pool, cuda, 1) for model in models]
        # It takes the place of all memory that was freed.
        noise = [torch.randn(1 << 20, device=DEVICE) for _ in range(64)]
        for model, forward, kept in zip(models, forwards, cuda.outputs, strict=True):
            forward.call()
            torch.cuda.synchronize(DEVICE)
            wanted = fold_batch_norm(model).eval().to(DEVICE)(pool.first)
            worst = max(worst, float((kept[-1] - wanted).abs().max() / wanted.abs().max()))
        del noise
    return worst


def peak_memory() -> dict[str, Any]:
    """Check that the peak memory can be read before anything else has used the device.

    The device is named with and without its index.
    """
    assert not torch.cuda.is_initialized(), "something has touched it"
    for name in ("cuda:0", "cuda") if DEVICE.type == "cuda" else ("cpu",):
        PeakMemory(torch.device(name)).bytes()
    return {"holds": True}


def _digits(limits: tuple[int, int, int]) -> DataSet:
    return load_data("digits", Path("unused"), DEVICE, limits=limits, quiet=True)


def _fresh(data: DataSet) -> VGG:
    torch.manual_seed(0)
    # A hidden layer has dropout, whose random numbers must repeat too.
    model = build(replace(THIN, hidden=(32, 28)))
    model.meta.update(mean=list(data.normalisation.mean), std=list(data.normalisation.std))
    return model


def _trained(model: VGG, data: DataSet, **options: Any) -> VGG:
    setup = TrainingSetup(data, RECIPE, data.normalisation, pick_precision("auto", DEVICE))
    fit(model, setup, quiet=True, **options)
    return model


def _digest(model: VGG) -> str:
    raw = b"".join(value.detach().cpu().numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(raw).hexdigest()[:16]


def determinism() -> dict[str, Any]:
    """Check that two trainings give the same bits, and two sweeps of them the same counts."""
    data = _digits((160, 60, 60))
    digests, counts = [], []
    for _ in range(2):
        model = _trained(_fresh(data), data)
        digests.append(_digest(model))
        points = sweep(model.to(DEVICE), data.test, "structured", levels=(0.25, 0.75)).points
        counts.append([point.correct for point in points])
    return {"holds": len(set(digests)) == 1 and counts[0] == counts[1], "digests": digests}


def resume() -> dict[str, Any]:
    """Check that a training resumed after Ctrl-C gives the bits of an uninterrupted one."""
    data = _digits((96, 60, 60))
    straight = _trained(_fresh(data), data)
    model = _fresh(data)
    start = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as place:
        partial = Path(place) / "x.partial.pth"
        stopped = False
        try:
            _trained(
                model,
                data,
                partial=partial,
                epoch_done=lambda _: signal.raise_signal(signal.SIGINT),
            )
        except KeyboardInterrupt:
            stopped = True
        resumed = _trained(start, data, partial=partial)
    return {"holds": stopped and _digest(resumed) == _digest(straight), "stopped": stopped}


CHECKS: dict[str, Callable[[], dict[str, Any]]] = {
    "peak_memory": peak_memory,
    "graph": graph,
    "determinism": determinism,
    "resume": resume,
}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or CHECKS:
        answer = attempt("check", chosen, CHECKS[chosen])
        if answer is not None and not answer["holds"]:
            FAILED.append(f"{chosen} does not hold")
    finish()
