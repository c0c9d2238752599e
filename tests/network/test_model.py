from __future__ import annotations

import pytest
import torch
import torchvision

from tp_vgg.errors import WorkFailed
from tp_vgg.network.network import realised_spec
from tp_vgg.network.torchvision_weights import from_state_dict, imagenet_weights
from tp_vgg.network.vgg.fold import fold_batch_norm, fold_head_columns
from tp_vgg.network.vgg.model import activation_after, build
from tp_vgg.network.vgg.spec import ARCHS, VGGSpec


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("arch", ARCHS)
def test_names_and_shapes_are_torchvisions(arch: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(arch, num_classes=10)
        ours = build(VGGSpec.preset(arch, pool=7))
    shapes = [
        {name: value.shape for name, value in model.state_dict().items()}
        for model in (theirs, ours)
    ]
    assert shapes[0] == shapes[1]


def test_torchvisions_state_dict_gives_torchvisions_logits() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.vgg11_bn(num_classes=10).eval()
    ours = from_state_dict(theirs.state_dict())
    assert ours.spec == VGGSpec.preset("vgg11_bn"), "the head is folded for 32×32"
    x = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = theirs.double()(x.double())
        # 1e-6, because the folded weights were stored in fp32.
        assert relative_error(ours.double()(x.double()), expected) < 1e-6


def test_head_fold_is_exact_in_fp64() -> None:
    weight, maps = (
        torch.randn(6, 5 * 49, dtype=torch.float64),
        torch.randn(8, 5, dtype=torch.float64),
    )
    pooled = maps.repeat_interleave(49, dim=1)
    assert relative_error(maps @ fold_head_columns(weight).T, pooled @ weight.T) < 1e-13


def test_batch_norm_fold_keeps_the_logits(make_model, spec: VGGSpec) -> None:
    model = make_model(spec).double()
    folded = fold_batch_norm(model)
    assert not folded.spec.batch_norm
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        assert relative_error(folded(x), model(x)) < 1e-12
    assert folded.features[0].weight.data_ptr() != model.features[0].weight.data_ptr()


def test_activation_after_is_the_relu(make_model, spec: VGGSpec) -> None:
    model = make_model(spec)
    found = [activation_after(model, name) for name in spec.prunable]
    assert all(isinstance(module, torch.nn.ReLU) for module in found)
    assert len({id(module) for module in found}) == len(found)
    assert realised_spec(model) == spec


def test_a_fresh_folded_head_passes_on_as_much_as_torchvisions() -> None:
    torch.manual_seed(0)
    model = build(VGGSpec.preset())
    std = [
        float(model.get_submodule(name).weight.detach().std()) for name in model.spec.linear_names
    ]
    assert std == pytest.approx([0.07, 0.01, 0.01], rel=0.02)


def test_a_plain_network_starts_with_a_signal() -> None:
    """He's fan-in initialisation: the deepest feature map is about as large as the first."""
    torch.manual_seed(0)
    model = build(VGGSpec.preset("vgg11", "linear")).eval()
    with torch.inference_mode():
        scale = float(model.features(torch.randn(16, 3, 32, 32)).std())
    assert 0.2 < scale < 5


def test_failed_imagenet_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args, **_kwargs):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    with pytest.raises(WorkFailed, match="--weights PATH") as failure:
        imagenet_weights("vgg11")
    assert "\n" not in str(failure.value)
