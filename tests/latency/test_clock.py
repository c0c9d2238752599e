from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from helpers.fakes import NEEDS_CUDA, FakeCuda

from tp_vgg.latency.clock import CpuClock
from tp_vgg.latency.cuda import CUDA_SAMPLE_SECONDS, CudaClock, TorchCuda
from tp_vgg.machine.cuda_graph import capture_graph


def test_a_cuda_sample_fills_its_time_with_one_synchronisation_at_each_end() -> None:
    cuda = FakeCuda()
    clock = CudaClock(cuda)
    assert clock.sample(cuda.takes(0.001)) == pytest.approx(0.001)
    assert cuda.log[:5] == [
        "sync",
        "record",
        "call",
        "record",
        "sync",
    ]  # this call decides how many calls to time
    inside = cuda.log[5:]
    assert inside.count("call") == round(CUDA_SAMPLE_SECONDS / 0.001) == 10
    assert inside[:2] == ["sync", "record"] and inside[-2:] == ["record", "sync"]
    assert set(inside[2:-2]) == {"call"}


def test_a_long_call_is_sampled_once_and_a_short_one_does_not_divide_by_zero() -> None:
    cuda = FakeCuda()
    assert CudaClock(cuda).sample(cuda.takes(3.0)) == pytest.approx(3.0)
    assert cuda.log.count("call") == 2  # one to warm up, one that counts
    assert CudaClock(cuda, seconds=1e-4).sample(cuda.takes(0.0)) == 0.0


def test_how_long_a_sample_takes_is_known_beforehand() -> None:
    """A sample takes one uncounted call, then many short calls or one long one.

    On a CPU a long call is made only once.
    """
    cuda = FakeCuda()
    clock = CudaClock(cuda)
    for seconds in (0.0007, 0.004, 3.0):
        before = cuda.now()
        clock.sample(cuda.takes(seconds))
        assert cuda.now() - before == pytest.approx(clock.sample_seconds(seconds))
    cpu = CpuClock(1, seconds=0.05)
    assert [cpu.sample_seconds(one) for one in (0.001, 0.07, 0.1, 2.0)] == pytest.approx(
        [0.051, 0.14, 0.1, 2.0]
    )


def test_the_speed_of_a_device_is_its_clock_over_its_default_clock() -> None:
    cuda = FakeCuda(mhz=lambda now: 1500 if now < 1 else 500)
    clock = CudaClock(cuda)
    assert clock.speed() == 0.75
    cuda.takes(1.0)()
    assert clock.speed() == 0.25
    assert CudaClock(FakeCuda()).speed() is None  # the clock rate is not known
    assert CpuClock(1).speed() is None


def test_busy_is_kernel_time_over_wall_time() -> None:
    cuda = FakeCuda(busy=0.3)
    assert CudaClock(cuda).busy(cuda.takes(0.001)) == pytest.approx(0.3)
    assert CpuClock(1).busy(lambda: None) is None
    blind = FakeCuda(busy=0)
    # Not known if the profiler sees no kernel.
    assert CudaClock(blind).busy(blind.takes(0.001)) is None


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


def test_a_profiler_that_warns_is_heard_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 warns at the start, and when asked for events, that it drops earlier cycles."""

    class Kernel:
        self_device_time_total, is_user_annotation = 3e6, False
        device_type = torch.profiler.ProfilerActivity.CUDA

    class Profile:
        def __enter__(self) -> Profile:
            warnings.warn("it forgets", UserWarning, stacklevel=1)
            return self

        def __exit__(self, *_: object) -> None:
            warnings.warn("it has forgotten", UserWarning, stacklevel=1)

        def events(self) -> list[Kernel]:
            warnings.warn("it forgot", UserWarning, stacklevel=1)
            return [Kernel(), Kernel()]

    monkeypatch.setattr(torch.profiler, "profile", lambda **_: Profile())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    calls: list[int] = []
    with warnings.catch_warnings(action="error"):
        assert TorchCuda(torch.device("cuda")).kernel_seconds(lambda: calls.append(1), 4) == 6.0
    assert len(calls) == 4


@pytest.mark.gpu
@NEEDS_CUDA
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
    assert facts["sm_mhz"] > 100 and facts["power_watts"] > 1 and facts["temperature_celsius"] > 1
    assert 0.1 < (clock.speed() or 0) < 3
    out = torch.zeros_like(x)
    replay = cuda.capture(lambda: out.copy_(x @ x))
    out.zero_()
    replay()
    cuda.synchronize()
    assert torch.allclose(out, x @ x)


@pytest.mark.parametrize(("usual", "own"), [(None, False), (0, True), (1, False)])
def test_a_graph_is_captured_on_its_own_device(
    usual: int | None, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch has one capture stream per process, which records no kernels of other devices."""
    current, streams = [0], []

    @contextlib.contextmanager
    def made_current(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    class Graph(contextlib.nullcontext):
        default_capture_stream = None if usual is None else SimpleNamespace(device_index=usual)

        def __init__(self, _graph: object, pool: object, stream: object) -> None:
            super().__init__()
            streams.append(stream)

    monkeypatch.setattr(torch.cuda, "device", made_current)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    on: list[int] = []
    capture_graph(lambda: on.append(current[-1]), torch.device("cuda", 1))
    assert on == [1]
    assert streams == [torch.device("cuda", 1) if own else None]
