"""The loop that the guide shows to Python users runs as it stands, and its zeros stay zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.fences import ROOT, fences
from helpers.networks import fresh

import tp_vgg
from tp_vgg import VGGSpec
from tp_vgg.network.network import prunable_layers

PAGE = ROOT / "docs" / "guide" / "own-loop.md"


def test_the_guides_loop_keeps_its_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thin network stands in for the run's dense model."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "vgg11_bn-torchvision-digits"
    run.mkdir(parents=True)
    dense = fresh(VGGSpec((16, 16, 32, 32, 32, 32, 40, 40)))
    tp_vgg.save(dense, run / "vgg11_digits_finetuned.pth")
    loop, call = [block.text for block in fences([PAGE]) if block.language == "python"]
    names: dict[str, object] = {}
    exec(compile(loop, PAGE.name, "exec"), names)
    model, saved = names["model"], tp_vgg.load("own.pth")
    zeros = {name: layer.weight == 0 for name, layer in prunable_layers(model)}
    for name, places in zeros.items():
        assert abs(places.float().mean() - 0.6) < 0.01, name
        assert torch.equal(saved.get_submodule(name).weight == 0, places)
    assert not torch.equal(saved.features[0].weight, dense.features[0].weight)
    assert saved.spec.widths == (16, 16, 32, 32, 32, 32, 20, 20)
    assert [row.model for row in names["times"].rows] == ["dense", "own"]
    exec(compile(call, PAGE.name, "exec"), names)
    for name, places in zeros.items():
        assert not names["model"].get_submodule(name).weight[places].any()
    assert "<Accuracy: " in capsys.readouterr().out
