from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tp_vgg.errors import BadInput
from tp_vgg.files.bitmask import pack, unpack
from tp_vgg.network.checkpoint import load, save, to_dict
from tp_vgg.pruning.unstructured import prune_unstructured


def bits(value: torch.Tensor) -> list[int]:
    return value.contiguous().flatten().view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 1.0])
def test_every_bit_comes_back(dtype: torch.dtype, share: float) -> None:
    """Including negative zeros, denormals, NaN, infinity, and a partly filled last byte."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(7, 11, 3, generator=generator).to(dtype)
    values[torch.rand(values.shape, generator=generator) < share] = 0
    odd = torch.zeros(1001, dtype=dtype)
    odd[:5] = torch.tensor(
        [-0.0, 1e-45 if dtype == torch.float32 else 0, float("nan"), float("inf"), -1.5]
    ).to(dtype)
    state = {"a": values, "odd": odd, "count": torch.tensor(7), "empty": torch.zeros(0, 3)}
    packed, shapes = pack(state)
    found = unpack(packed, shapes)
    assert set(found) == set(state)
    for name, value in state.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        assert bits(found[name]) == bits(value)
    assert ("a" in shapes) is (share >= 0.3)
    assert sum(part.nbytes for part in packed.values()) <= sum(
        value.nbytes for value in state.values()
    )


def test_the_size_is_a_bit_an_element_and_the_rest() -> None:
    values = torch.zeros(10_000)
    values[:500] = 1
    packed, _ = pack({"w": values})
    assert sum(part.nbytes for part in packed.values()) == 10_000 / 8 + 4 * 500
    values[500:] = -0.0
    packed, _ = pack({"w": values})
    assert sum(part.nbytes for part in packed.values()) == 10_000 / 8 + 4 * 500 + -(-9_500 // 8)


@pytest.mark.parametrize("end", [".sparse", ".safetensors"])
def test_a_model_comes_back_whole(make_model, tmp_path: Path, end: str) -> None:
    model = make_model()
    prune_unstructured(model, 0.9, scope="global")
    model.kept = {"features.0": [0, 1, 2, 3, 4, 5, 6, 7]}
    save(model, tmp_path / f"m{end}")
    save(model, tmp_path / "m.pth")
    again = load(tmp_path / f"m{end}")
    assert again.spec == model.spec and again.kept == model.kept
    assert {k: again.meta[k] for k in model.meta} == model.meta
    for name, value in model.state_dict().items():
        assert bits(again.state_dict()[name]) == bits(value)
    smaller = (tmp_path / f"m{end}").stat().st_size / (tmp_path / "m.pth").stat().st_size
    assert smaller < (0.5 if end == ".sparse" else 1.1)


def test_masks_leave_no_negative_zeros(make_model) -> None:
    model = make_model()
    prune_unstructured(model, 0.5)
    weight = model.get_parameter("features.4.weight").detach()
    assert (weight == 0).any() and not weight[weight == 0].signbit().any()


def broken(model) -> dict[str, tuple[dict, dict]]:
    """Files that no export writes: tensors and shapes by error message."""
    state = to_dict(model)["state_dict"]
    weight = torch.zeros(80)
    weight[:3] = 1
    packed, shapes = pack({"w": weight})
    return {
        "its mask does not fit": ({**packed, "w:mask": packed["w:mask"][:-1]}, shapes),
        "its mask does not fit its shape": (packed, {"w": [10**12]}),
        "must be a list of sizes": (packed, {"w": [-80]}),
        "and values": ({**packed, "w:values": packed["w:values"][:2]}, shapes),
        "does not fit its shape and values": (
            {**packed, "w:mask": packed["w:mask"].float()},
            shapes,
        ),
        "only floats": ({**packed, "w:values": packed["w:values"].long()}, shapes),
        "its signs": ({**packed, "w:signs": torch.zeros(3, dtype=torch.uint8)}, shapes),
        "and no others": (packed, {}),
        "shapes: must name": ({**packed, "w": weight}, shapes),
        "must be an object": (state, []),  # type: ignore[dict-item]
    }


@pytest.mark.parametrize("what", range(10))
def test_parts_that_do_not_fit_are_refused(make_model, what: int) -> None:
    message, (packed, shapes) = list(broken(make_model()).items())[what]
    with pytest.raises(BadInput, match=message):
        unpack(packed, shapes)


def test_a_hostile_file_is_one_line(make_model, tmp_path: Path) -> None:
    model = make_model()
    state = to_dict(model)["state_dict"]
    for texts, message in (
        ({"format": "tp_vgg/1", "spec": "{"}, "not JSON"),
        ({"format": "tp_vgg/1", "spec": "[" * 100_000}, "not JSON"),
        ({"format": "tp_vgg/1"}, "missing"),
        ({"format": "tp_vgg/2"}, "another version"),
        ({"format": "tp_vgg/1", "shapes": "[]"}, "shapes"),
    ):
        save_file(state, tmp_path / "bad.sparse", texts)
        with pytest.raises(BadInput, match=message):
            load(tmp_path / "bad.sparse")
    (tmp_path / "bad.sparse").write_bytes(b"\xff" * 100)
    with pytest.raises(BadInput, match="can't be read"):
        load(tmp_path / "bad.sparse")


def test_the_tensors_of_others_are_a_plain_state_dict(make_model, tmp_path: Path) -> None:
    """Most files of other tools have the format "pt" in their metadata."""
    model = make_model()
    save_file(
        {name: value.clone() for name, value in model.state_dict().items()},
        tmp_path / "m.safetensors",
        {"format": "pt"},
    )
    again = load(tmp_path / "m.safetensors")
    assert again.spec == model.spec and "plain state dict" in again.meta["notes"][0]


def test_meta_that_json_cannot_hold_is_refused(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.meta["when"] = {1, 2}
    with pytest.raises(BadInput, match="meta: when: a set can't be saved"):
        save(model, tmp_path / "m.sparse")
    assert not list(tmp_path.iterdir())
