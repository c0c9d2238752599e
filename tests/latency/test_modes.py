from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import weakref
from typing import Any

import pytest
import torch
from helpers.fakes import CudaOnCpu, FakeCuda
from torch import nn

from tp_vgg.latency.cuda import TorchCuda
from tp_vgg.latency.modes import Unavailable, check_available, flush_denormals, input_pool, prepare
from tp_vgg.latency.table import GRAPHS, BenchmarkCase

CPU = torch.device("cpu")
ONE = input_pool(32, BenchmarkCase("eager", "fp32", 1), CPU, 0)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (BenchmarkCase("graph", "fp32", 1), "CUDA graphs need a CUDA device"),
        (BenchmarkCase("eager", "tf32", 1), "no TF32 hardware"),
        (BenchmarkCase("onnxruntime", "bf16", 1), "fp32 only"),
    ],
)
def test_what_a_cpu_lacks(case: BenchmarkCase, why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        check_available(case, None)


def test_what_a_gpu_lacks_follows_from_its_capability() -> None:
    old, new = CudaOnCpu(capability=(7, 5)), CudaOnCpu(capability=(9, 0))
    for dtype in ("tf32", "bf16"):
        check_available(BenchmarkCase("graph", dtype, 1), new)
        with pytest.raises(Unavailable, match="hardware"):
            check_available(BenchmarkCase("eager", dtype, 1), old)
    with pytest.raises(Unavailable, match="on the CPU"):
        check_available(BenchmarkCase("onnxruntime", "fp32", 1), new)


def test_a_cpu_without_bf16_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in (False, True):
        monkeypatch.setattr("tp_vgg.latency.modes.has_fast_bf16", lambda _, fast=fast: fast)
        if fast:
            check_available(BenchmarkCase("eager", "bf16", 1), None)
        else:
            with pytest.raises(Unavailable, match="no bf16 hardware"):
                check_available(BenchmarkCase("eager", "bf16", 1), None)


@pytest.mark.parametrize("mode", ["eager", "folded", "graph", "folded-graph", "onnxruntime"])
def test_every_mode_runs_the_network_over_rotating_inputs(
    make_model, mode: str, monkeypatch
) -> None:
    """The logits are the model's, over an input pool of the size asked for that starts over."""
    model, cuda = make_model(), CudaOnCpu() if mode in GRAPHS else None
    seen: list[torch.Tensor] = []
    forward = nn.Module.__call__

    def spy(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        if type(self).__name__ == "VGG":
            seen.append(out.clone())
        return out

    case = BenchmarkCase(mode, "fp32", 2)  # type: ignore[arg-type]
    with torch.inference_mode():
        ready = prepare(model, case, input_pool(32, case, CPU, 5 * 2 * 3 * 32 * 32 * 4), cuda, 1)
        monkeypatch.setattr(nn.Module, "__call__", spy)
        if mode == "onnxruntime":
            seen = [torch.from_numpy(ready.call()[0]) for _ in range(6)]  # type: ignore[index]
        else:
            for _ in range(6):
                ready.call()
        monkeypatch.undo()
        generator = torch.Generator().manual_seed(0)
        wanted = [model(torch.randn(2, 3, 32, 32, generator=generator)) for _ in range(5)]
    for found, logits in zip(seen, [*wanted, wanted[0]], strict=True):
        assert torch.allclose(found, logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max()))
    if mode in GRAPHS:
        assert cuda is not None and cuda.log == ["capture"]


class _Context(contextlib.nullcontext):
    """A stand-in for CUDA streams and the capture context, without a device."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    default_capture_stream = None

    def wait_stream(self, _other: Any) -> None:
        pass


class _Graph:
    def replay(self) -> None:
        pass


@pytest.mark.parametrize("mode", ["graph", "folded-graph"])
@pytest.mark.parametrize("real", [True, False])
def test_a_prepared_forward_keeps_the_network_that_its_graph_was_captured_from(
    make_model, mode, real, monkeypatch
) -> None:
    """A graph holds only addresses: weights without other references would be freed and reused."""
    for name in ("Stream", "stream", "graph", "device", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, _Context)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    parameters: list[weakref.ref] = []
    forward = nn.Module.__call__

    def spy(self, *args, **kwargs):
        if type(self).__name__ == "VGG":
            parameters[:] = [weakref.ref(one) for one in self.parameters()]
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "__call__", spy)
    case = BenchmarkCase(mode, "fp32", 1)
    with torch.inference_mode():
        cuda = TorchCuda(CPU) if real else FakeCuda()
        ready = prepare(make_model(), case, input_pool(32, case, CPU, 0), cuda, 1)
        gc.collect()
        assert len(parameters) > 10 and all(one() is not None for one in parameters)
        ready.call()
        del ready
        gc.collect()
    # The weights do not outlive the prepared forward.
    assert not any(one() is not None for one in parameters)


def test_networks_take_turns_at_the_inputs(make_model) -> None:
    """No forward pass gets an input that the other network has just had."""
    case = BenchmarkCase("eager", "fp32", 1)
    pool = input_pool(32, case, CPU, 4 * 3 * 32 * 32 * 4)
    model = make_model()
    with torch.inference_mode():
        first, second = (prepare(model, case, pool, None, 1) for _ in range(2))
        logits = [first.call(), second.call(), first.call(), second.call(), first.call()]
    assert torch.equal(logits[0], logits[4])  # type: ignore[arg-type]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(logits[:4], 2))


def test_the_model_is_left_as_it_is_and_the_rest_is_ready(make_model) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layouts = []
    for mode, dtype in (
        ("eager", torch.float32),
        ("folded", torch.float32),
        ("eager", torch.bfloat16),
    ):
        with torch.inference_mode():
            case = BenchmarkCase(mode, "bf16" if dtype == torch.bfloat16 else "fp32", 2)
            ready = prepare(model, case, input_pool(32, case, CPU, 0), None, 1)
            out = ready.call()
        assert out.dtype == dtype  # type: ignore[attr-defined]
        layouts.append(ready.resident_bytes)
    weights = sum(value.nbytes for value in before.values())
    assert layouts[0] == weights + 2 * 3 * 32 * 32 * 4
    assert layouts[1] < layouts[0]  # batch norm is folded
    assert layouts[2] < 0.51 * layouts[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_denormals_are_flushed(make_model) -> None:
    model = make_model()
    with torch.no_grad():
        model.features[0].weight[0] = 1e-40  # type: ignore[index]
    assert prepare(model, BenchmarkCase("eager", "fp32", 1), ONE, None, 1).flushed == 27
    # The model itself is not changed.
    assert model.features[0].weight[0].all()  # type: ignore[index]
    assert flush_denormals(model) == 27
    assert not model.features[0].weight[0].any()  # type: ignore[index]
    assert flush_denormals(model) == 0


def test_a_compiler_that_fails_is_not_a_crash(make_model, monkeypatch) -> None:
    def broken(*_args, **_kwargs):
        def run(_x):
            raise RuntimeError("no compiler here\nand more")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        Unavailable, match=r"^torch.compile failed \(RuntimeError: no compiler here\)$"
    ):
        prepare(make_model(), BenchmarkCase("compile", "fp32", 1), ONE, None, 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a C++ compiler")
def test_compiled_networks_do_not_share_their_guards(make_model) -> None:
    """Ten networks exceed dynamo's limit of eight per function: each is compiled all the same."""
    models = [make_model(seed=i) for i in range(10)]
    with torch.inference_mode():
        ready = [
            prepare(model, BenchmarkCase("compile", "fp32", 1), ONE, None, 1) for model in models
        ]
        for model, compiled in zip(models, ready, strict=True):
            assert torch.allclose(compiled.call(), model(ONE.first), rtol=1e-3, atol=1e-4)
    torch.compiler.reset()
