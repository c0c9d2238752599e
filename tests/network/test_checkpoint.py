from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.networks import SMALL, VARIANTS
from safetensors.torch import save_file

from tp_vgg.errors import BadInput
from tp_vgg.network.checkpoint import load, save, to_dict
from tp_vgg.network.torchvision_weights import from_state_dict
from tp_vgg.network.vgg.model import build
from tp_vgg.pruning.structured import prune_structured

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(X)


def test_round_trip_is_bit_exact(make_model, spec, tmp_path: Path) -> None:
    model = make_model(spec)
    prune_structured(model, {"features.0": 0.3, spec.conv_names[-1]: 0.5})
    save(model, tmp_path / "m.pth")
    again = load(tmp_path / "m.pth")
    assert again.spec == model.spec != spec
    assert again.kept == model.kept
    assert again.meta["mean"] == model.meta["mean"]
    assert not again.training
    assert torch.equal(logits(again), logits(model))
    assert all(p.requires_grad for p in again.parameters())


def test_opens_without_tp_vgg_and_without_torch_pruning(make_model, tmp_path: Path) -> None:
    """Plain torch reads it with weights_only=True; the spec rebuilds a model with equal logits."""
    model = make_model()
    prune_structured(model, {"features.4": 0.5, "classifier.0": 0.25})
    save(model, tmp_path / "m.pth")
    torch.save({"x": X, "logits": logits(model)}, tmp_path / "expected.pth")
    bare = (
        "import sys, torch; sys.modules['tp_vgg'] = None; "
        "d = torch.load('m.pth', weights_only=True); "
        "print(sorted(d), d['format'], d['spec']['widths'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", bare], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(
        "['format', 'kept', 'meta', 'spec', 'state_dict'] tp_vgg/1 [8, 6, "
    )
    rebuild = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "import torch, tp_vgg\n"
        "raw = torch.load('m.pth', weights_only=True); "
        "e = torch.load('expected.pth', weights_only=True)\n"
        "m = tp_vgg.build(tp_vgg.VGGSpec.from_dict(raw['spec'])); "
        "m.load_state_dict(raw['state_dict']); m.eval()\n"
        "assert torch.equal(m(e['x']), e['logits']) "
        "and torch.equal(tp_vgg.load('m.pth')(e['x']), e['logits'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", rebuild], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_holds_plain_types_only(make_model) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(type(k) is str and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return type(value) in (str, int, float, bool, torch.Tensor, type(None))

    model = make_model()
    prune_structured(model, {"features.0": 0.5})
    raw = to_dict(model)
    assert plain(raw)
    assert set(raw["meta"]["versions"]) >= {"torch", "torch-pruning"}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", VARIANTS)
def test_plain_state_dicts_are_accepted(name: str, suffix: str, make_model, tmp_path: Path) -> None:
    model = make_model(VARIANTS[name])
    path = tmp_path / f"m{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(dict(model.state_dict()), path)
    found = load(path)
    assert found.spec == replace(VARIANTS[name], pool=1)
    assert found.meta["mean"] == [0.4914, 0.4822, 0.4465]
    assert any("head folded" in note for note in found.meta["notes"]) == (name == "bn-unfolded")
    assert torch.allclose(logits(found), logits(model), rtol=1e-4, atol=1e-5)


def test_what_build_gives_can_be_saved_and_loaded(tmp_path: Path) -> None:
    save(build(SMALL), tmp_path / "fresh.pth")
    assert load(tmp_path / "fresh.pth").meta["mean"] == [0.4914, 0.4822, 0.4465]


def test_kept_may_name_only_the_pruned_layers(make_model, tmp_path: Path) -> None:
    """With only the required fields (no dense widths, no untouched layers), pruning can go on."""
    model = make_model()
    kept = prune_structured(model, {"features.0": 0.5}).kept
    raw = to_dict(model)
    raw["kept"], raw["meta"] = dict(kept), {k: raw["meta"][k] for k in ("mean", "std")}
    torch.save(raw, tmp_path / "m.pth")
    again = load(tmp_path / "m.pth")
    prune_structured(again, {"features.4": 0.5, "features.0": 0.5})
    assert set(again.kept["features.0"]) < set(kept["features.0"])
    assert len(again.kept["features.4"]) == 6


def test_half_precision_is_upcast(make_model) -> None:
    state = {
        k: v.half() if v.is_floating_point() else v for k, v in make_model().state_dict().items()
    }
    found = from_state_dict(state)
    assert all(p.dtype == torch.float32 for p in found.parameters())
    assert torch.equal(found.features[0].weight, state["features.0.weight"].float())


def test_a_missing_batch_counter_is_no_fault(make_model) -> None:
    model = make_model()
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert torch.equal(logits(from_state_dict(state)), logits(model))


def altered(model, change):
    raw = to_dict(model)
    change(raw)
    return raw


def set_tensor(name, make):
    return lambda raw: raw["state_dict"].__setitem__(name, make(raw["state_dict"][name]))


def in_spec(**values):
    return lambda raw: raw["spec"].update(values)


W = "features.4.weight"
BAD = {
    "other format": (lambda raw: raw.update(format="tp_vgg/9"), "made by another version"),
    "no spec": (lambda raw: raw.pop("spec"), "spec: missing"),
    "spec of wrong type": (lambda raw: raw.update(spec=[1]), "exactly the keys"),
    "huge widths": (in_spec(widths=[10**12] * 8), "widths"),
    "bool width": (in_spec(widths=[True] * 8), "widths"),
    "nan width": (in_spec(widths=[float("nan")] * 8), "widths"),
    "wider than its tensors": (in_spec(widths=[60000] * 8), "shape"),
    "missing tensor": (lambda raw: raw["state_dict"].pop(W), f"{W}: missing"),
    "extra tensor": (
        lambda raw: raw["state_dict"].update(extra=torch.zeros(1)),
        "extra.*not a tensor of",
    ),
    "state of wrong type": (
        lambda raw: raw.update(state_dict={"a": 1}),
        "must map names to tensors",
    ),
    "wrong shape": (set_tensor(W, lambda t: t[:-1]), f"{W}: shape"),
    "nan": (set_tensor(W, lambda t: t * float("nan")), "NaN or infinity"),
    "inf": (set_tensor("classifier.0.bias", lambda t: t + float("inf")), "NaN or infinity"),
    "negative variance": (set_tensor("features.1.running_var", lambda t: -t), "variance below 0"),
    "complex": (set_tensor(W, lambda t: t.to(torch.complex64)), "dtype complex64"),
    "int": (set_tensor(W, torch.Tensor.int), "dtype int32"),
    "sparse": (set_tensor(W, lambda t: t.view(12, -1).to_sparse()), "must be a dense CPU tensor"),
    "quantized": (
        set_tensor(W, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
        "must be a dense CPU tensor|refused|can't be read",
    ),
    "meta": (set_tensor(W, lambda t: t.to("meta")), "must be a dense CPU tensor"),
    "counter of wrong type": (
        set_tensor("features.1.num_batches_tracked", lambda t: t + 0.5),
        "one whole number",
    ),
    "no normalisation": (lambda raw: raw["meta"].pop("mean"), "meta: mean"),
    "zero deviation": (lambda raw: raw["meta"].update(std=[0.0, 1.0, 1.0]), "meta: std"),
    "nan mean": (lambda raw: raw["meta"].update(mean=[float("nan")] * 3), "meta: mean"),
    "classes of wrong type": (lambda raw: raw["meta"].update(classes=10), "meta: classes"),
    "notes of wrong type": (lambda raw: raw["meta"].update(notes=[5]), "meta: notes"),
    "kept of wrong type": (lambda raw: raw.update(kept=[1]), "kept"),
    "kept of unknown layer": (lambda raw: raw["kept"].update(other=[1]), "kept: 'other'"),
    "kept unsorted": (lambda raw: raw["kept"]["features.0"].reverse(), "kept: features.0"),
    "kept twice": (lambda raw: raw["kept"].update({"features.0": [1] * 4}), "kept: features.0"),
    "kept out of range": (lambda raw: raw["kept"].update({"features.0": [1, 2, 3, 8]}), "below 8"),
    "kept too short": (lambda raw: raw["kept"]["features.0"].pop(), "must be 4"),
}


@pytest.mark.filterwarnings("ignore:.*[qQ]uantiz.*", "ignore:TypedStorage")
@pytest.mark.parametrize("case", BAD)
def test_a_checkpoint_that_does_not_hold_together_is_refused(
    case: str, make_model, tmp_path: Path
) -> None:
    model = make_model()
    prune_structured(model, {"features.0": 0.5})
    change, said = BAD[case]
    torch.save(altered(model, change), tmp_path / "bad.pth")
    with pytest.raises(BadInput, match=said) as refusal:
        load(tmp_path / "bad.pth")
    assert "bad.pth" in str(refusal.value)
    assert "\n" not in str(refusal.value)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_never_run(tmp_path: Path, make_model) -> None:
    canary = tmp_path / "ran"
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Canary(canary)))
    torch.save({"format": "tp_vgg/1", "x": Canary(canary)}, tmp_path / "zip.pth")
    torch.save(make_model(), tmp_path / "module.pth")
    for name in ("raw.pth", "zip.pth", "module.pth"):
        with pytest.raises(BadInput, match="refused: holds pickled objects"):
            load(tmp_path / name)
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04broken"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="x"):
        load(path)


def test_directories_fifos_and_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.pth")
    for path, said in (
        (tmp_path, "not a regular file"),
        (tmp_path / "fifo.pth", "not a regular file"),
        (tmp_path / "no.pth", "no such file"),
    ):
        with pytest.raises(BadInput, match=said):
            load(path)


@pytest.mark.parametrize(
    "state", [{}, {"a": torch.zeros(1)}, {"features.0.weight": torch.zeros(2, 3, 3, 3)}, [1], None]
)
def test_other_state_dicts_are_refused(state: object) -> None:
    with pytest.raises(BadInput):
        from_state_dict(state)


def test_a_saved_file_is_whole_or_absent(
    make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pth"
    save(make_model(SMALL), path)
    before = path.read_bytes()
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        save(make_model(SMALL, seed=1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.pth"]
