from __future__ import annotations

import time

import pytest
import torch
from fakes import FakeCuda

from tp_vgg.clocks import SAMPLE_SECONDS, CpuClock, CudaClock, TorchCuda


def test_a_cuda_sample_fills_its_time_with_one_synchronisation_at_each_end() -> None:
    cuda = FakeCuda()
    clock = CudaClock(cuda)
    assert clock.sample(cuda.takes(0.001)) == pytest.approx(0.001)
    assert cuda.log[:5] == ["sync", "record", "call", "record", "sync"]  # which tells how many calls to take
    inside = cuda.log[5:]
    assert inside.count("call") == round(SAMPLE_SECONDS / 0.001)
    assert inside[:2] == ["sync", "record"] and inside[-2:] == ["record", "sync"]
    assert set(inside[2:-2]) == {"call"}


def test_a_long_call_is_sampled_once_and_a_short_one_does_not_divide_by_zero() -> None:
    cuda = FakeCuda()
    assert CudaClock(cuda).sample(cuda.takes(3.0)) == pytest.approx(3.0)
    assert cuda.log.count("call") == 2  # one to warm up, one that counts
    assert CudaClock(cuda, seconds=1e-4).sample(cuda.takes(0.0)) == 0.0


def test_busy_is_kernel_time_over_wall_time() -> None:
    cuda = FakeCuda(busy=0.3)
    assert CudaClock(cuda).busy(cuda.takes(0.001)) == pytest.approx(0.3)
    assert CpuClock(1).busy(lambda: None) is None
    blind = FakeCuda(busy=0)
    assert CudaClock(blind).busy(blind.takes(0.001)) is None  # a profiler that sees no kernel says nothing


def test_a_cpu_sample_is_the_time_of_one_call() -> None:
    calls = []
    seconds = CpuClock(1, seconds=0.02).sample(lambda: calls.append(time.sleep(0.005)))
    assert seconds >= 0.005
    assert len(calls) >= 3


def test_a_long_call_on_a_cpu_is_made_once() -> None:
    calls = []
    seconds = CpuClock(1, seconds=0.005).sample(lambda: calls.append(time.sleep(0.02)))
    assert seconds >= 0.02 and len(calls) == 1


def test_a_cpu_sample_runs_on_the_threads_that_were_asked_for() -> None:
    before, seen = torch.get_num_threads(), set()
    for threads in (1, 2):
        CpuClock(threads, seconds=1e-4).sample(lambda: seen.add(torch.get_num_threads()))
        assert seen.pop() == threads
    assert torch.get_num_threads() == before


def test_conditions_are_recorded() -> None:
    clock = CpuClock(2)
    assert clock.conditions()["threads"] == 2
    assert clock.cache_bytes() >= 1 << 18
    assert CudaClock(FakeCuda()).conditions() == {"pstate": "P0"}


@pytest.mark.gpu
def test_the_real_device_answers() -> None:
    cuda = TorchCuda(torch.device("cuda"))
    x = torch.randn(4096, 4096, device="cuda")
    clock = CudaClock(cuda)
    matmul = lambda: x @ x  # noqa: E731
    assert clock.sample(matmul) > 0
    assert 0.5 < (clock.busy(matmul) or 0) <= 1
    assert clock.peak_bytes(matmul, 0) >= x.nbytes
    assert cuda.cache_bytes() > 1 << 20
    facts = cuda.facts()
    assert facts["driver_version"] and facts["pstate"] and facts["cudnn"]
    out = torch.zeros_like(x)
    replay = cuda.capture(lambda: out.copy_(x @ x))
    out.zero_()
    replay()
    cuda.synchronize()
    assert torch.allclose(out, x @ x)
