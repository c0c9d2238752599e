"""The device of a process, with CUDA replaced; only torch's check of a device index is real."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch
from torch.cuda._utils import _get_device_index

from tp_vgg.errors import BadInput
from tp_vgg.machine import distributed, memory
from tp_vgg.machine.distributed import device_of_rank


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two devices, the second is current; returns the calls made, in order."""
    asked: list[str] = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append("init"))
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: asked.append(f"set {_get_device_index(device)}")
    )

    def reset(device: torch.device) -> None:
        if "init" not in asked:  # torch's error for a device index before CUDA is initialised
            raise RuntimeError("Invalid device argument 0: did you call init?")

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    return asked


@pytest.mark.parametrize(("given", "found"), [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_process_alone_works_on_the_device_it_names(
    cuda: list[str], given: str, found: int
) -> None:
    assert device_of_rank(torch.device(given)) == torch.device("cuda", found)
    assert cuda == [f"set {found}"]


def test_under_torchrun_each_has_its_own(cuda: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for local in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert device_of_rank(torch.device("cuda")) == torch.device("cuda", local)
    for device, local in (("cuda:0", 0), ("cuda", 2)):
        monkeypatch.setenv("LOCAL_RANK", str(local))
        with pytest.raises(BadInput, match="under torchrun give --device cuda"):
            device_of_rank(torch.device(device))


def test_a_cpu_is_itself(cuda: list[str]) -> None:
    assert device_of_rank(torch.device("cpu")) == torch.device("cpu") and not cuda


@pytest.mark.parametrize(("device", "backend"), [("cuda:1", "nccl"), ("cpu", "gloo")])
def test_nccl_is_told_its_device(
    device: str, backend: str, cuda: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = {}
    monkeypatch.setattr(
        distributed.distributed,
        "init_process_group",
        lambda name, **more: told.update(more, name=name),
    )
    monkeypatch.setattr(distributed.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed.distributed, "get_rank", lambda: 1)
    with distributed.joined(torch.device(device)) as joined:
        assert (joined.rank, joined.size) == (1, 2)
    assert told["name"] == backend
    assert told["device_id"] == (torch.device(device) if backend == "nccl" else None)


def test_what_a_library_prints_while_processes_join_is_no_result(
    monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """gloo in torch 2.10 prints with C's printf, whose buffer may be flushed at any time."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    printf = ctypes.CDLL(None).printf
    monkeypatch.setattr(
        distributed.distributed,
        "init_process_group",
        lambda *_, **__: printf(b"[Gloo] connected\n"),
    )
    monkeypatch.setattr(distributed.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed.distributed, "get_rank", lambda: 0)
    with distributed.joined(torch.device("cpu")):
        os.write(1, b"a result\n")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr() == ("a result\n", "[Gloo] connected\n")


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_peak_memory_of_a_device_that_nothing_has_touched_yet(cuda: list[str], name: str) -> None:
    memory.PeakMemory(torch.device(name))
    assert cuda == ["init"]
