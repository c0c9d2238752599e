from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.export import TOLERANCE, export, largest_difference, onnx_session, to_onnx
from tp_vgg.network.formats import EXPORT_FORMATS
from tp_vgg.pruning.structured import prune_structured
from tp_vgg.pruning.unstructured import prune_unstructured


@pytest.fixture
def pruned(make_model, spec):
    model = make_model(spec)
    prune_structured(model, {spec.conv_names[1]: 0.25, spec.conv_names[-1]: 0.5})
    return model


def test_onnx_gives_the_models_logits_at_any_batch(pruned, tmp_path: Path) -> None:
    assert export(pruned, tmp_path / "m.onnx", "onnx") <= TOLERANCE
    session = onnx_session((tmp_path / "m.onnx").read_bytes(), 1)
    for count in (1, 7, 33):
        images = torch.randn(count, 3, 32, 32)
        with torch.inference_mode():
            wanted = pruned(images)
        found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        assert torch.allclose(found, wanted, rtol=0, atol=TOLERANCE * float(wanted.abs().max()))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["mean"]) == pruned.meta["mean"]
    assert json.loads(about["spec"])["widths"] == list(pruned.spec.widths)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_torch_program_needs_no_tp_vgg(make_model, tmp_path: Path) -> None:
    import subprocess
    import sys

    model = make_model()
    assert export(model, tmp_path / "m.pt2", "torch") <= TOLERANCE
    images = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        torch.save({"images": images, "logits": model(images)}, tmp_path / "expected.pth")
    code = (
        "import sys; sys.modules['tp_vgg'] = None\n"
        "import torch; e = torch.load('expected.pth', weights_only=True); "
        "found = {'tp_vgg.json': ''}\n"
        "m = torch.export.load('m.pt2', extra_files=found).module()\n"
        "assert torch.allclose(m(e['images']), e['logits'], rtol=1e-4, atol=1e-4)\n"
        "print(found['tp_vgg.json'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == model.meta["classes"]


@pytest.mark.parametrize("form", ["safetensors", "sparse"])
def test_files_of_weights_are_read_back(make_model, tmp_path: Path, form) -> None:
    model = make_model()
    prune_unstructured(model, 0.95, scope="global")
    path = tmp_path / f"m{EXPORT_FORMATS[form].suffix}"
    assert export(model, path, form) == 0
    again = load(path)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()
    )
    assert again.meta["classes"] == model.meta["classes"]


def test_ninety_five_percent_zeros_are_at_most_twelve_percent_of_the_file(tmp_path: Path) -> None:
    """At full width, where weights make up most of the file; negative zeros count as zeros."""
    from tp_vgg.network.vgg.model import build
    from tp_vgg.network.vgg.spec import VGGSpec

    model = build(VGGSpec.preset(head="linear"))
    save(model, tmp_path / "dense.pth")
    weights = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    prune_unstructured(model, 0.95, scope="global")
    with torch.no_grad():
        for weight, limit in ((weights[-1], 0.12), (weights[-2], 0.12)):
            weight[weight == 0] = -0.0
            export(model, tmp_path / "m.sparse", "sparse")
            assert (tmp_path / "m.sparse").stat().st_size <= limit * (
                tmp_path / "dense.pth"
            ).stat().st_size


def test_nothing_is_kept_that_does_not_match(make_model, tmp_path: Path, monkeypatch) -> None:
    model = make_model()
    with monkeypatch.context() as patch:
        patch.setattr(
            "tp_vgg.network.export._program_runner", lambda _: lambda images: model(images) * 1.001
        )
        with pytest.raises(WorkFailed, match=r"differ by .*not kept"):
            export(model, tmp_path / "m.pt2", "torch")
        patch.setattr(
            "tp_vgg.network.export._program_runner", lambda _: lambda images: model(images)[:1]
        )
        with pytest.raises(WorkFailed, match=r"shape \[1, 10\] instead of \[2, 10\]"):
            export(model, tmp_path / "m.pt2", "torch")
        patch.setattr(
            "tp_vgg.network.export._program_runner",
            lambda _: lambda images: model(images) * float("nan"),
        )
        with pytest.raises(WorkFailed, match="differ by inf"):
            export(model, tmp_path / "m.pt2", "torch")
        patch.setattr(
            "tp_vgg.network.safetensors_format.pack",
            lambda state: (
                dict(state, **{k: v + 1 for k, v in state.items() if k.endswith("bias")}),
                {},
            ),
        )
        with pytest.raises(WorkFailed, match="other weights"):
            export(model, tmp_path / "m.sparse", "sparse")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(make_model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxscript" else object()
    )
    with pytest.raises(BadInput, match=r"onnxscript is not installed; pip install onnxscript$"):
        export(make_model(), tmp_path / "m.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_the_difference_is_relative_to_the_largest_logit(make_model) -> None:
    model = make_model()
    with torch.inference_mode():
        assert largest_difference(model, lambda images: model(images)) == 0
        assert largest_difference(model, lambda images: 1.01 * model(images)) == pytest.approx(
            0.01, rel=1e-3
        )


def test_export_speaks_only_when_it_fails(make_model, capfd) -> None:
    raw = to_onnx(make_model())
    out, err = capfd.readouterr()
    assert out == "" and "ERROR" not in err
    assert io.BytesIO(raw).getbuffer().nbytes > 10_000


SHARED = Path(__file__).parents[3] / "shared" / "data" / "vgg11_bn_linear_cifar10-jpeg.pth"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_file(), reason="the shared CIFAR model is not here")
def test_onnx_runtime_agrees_on_a_trained_model(tmp_path: Path) -> None:
    """The error is within 1e-4 of the largest logit, dense and pruned."""
    model = load(SHARED)
    assert export(model, tmp_path / "dense.onnx", "onnx") <= 1e-4
    prune_structured(model, dict.fromkeys(model.spec.conv_names, 0.3))
    assert export(model, tmp_path / "pruned.onnx", "onnx") <= 1e-4
    assert (tmp_path / "pruned.onnx").stat().st_size < 0.6 * (
        tmp_path / "dense.onnx"
    ).stat().st_size
