from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tp_vgg.machine import memory


def group(path: Path, limit: str, used: int, cached: int) -> Path:
    path.mkdir()
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nfile 7\n")
    return path


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory._container_leaves(group(tmp_path / "a", "1000", 700, 200)) == 500
    assert memory._container_leaves(group(tmp_path / "b", "1000", 1400, 200)) == 0
    assert memory._container_leaves(group(tmp_path / "c", "max", 700, 200)) == math.inf
    assert memory._container_leaves(tmp_path / "none") == math.inf
    monkeypatch.setattr(memory, "_container_leaves", lambda _: 500)
    assert memory.free_memory(torch.device("cpu")) == 500
    monkeypatch.setattr(memory, "_container_leaves", lambda _: math.inf)
    assert 2**20 < memory.free_memory(torch.device("cpu")) < 2**50


def test_a_block_is_halved_with_a_warning() -> None:
    with pytest.warns(
        UserWarning, match="^out of memory with 7 images at a time; going on with 3$"
    ):
        assert memory.halved(7) == 3
