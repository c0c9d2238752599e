"""A network for other runtimes and smaller files; none is kept that was not checked against the network."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.files.atomic import write_atomic
from tp_vgg.network import checkpoint
from tp_vgg.network.formats import EXPORT_FORMATS
from tp_vgg.network.network import Network

TOLERANCE = 1e-4
"""Largest difference of a logit that counts as equal, as a share of the largest logit: another runtime sums in another order."""
_BATCHES = (1, 2, 16)
"""Batches of random images that an export is checked with."""
_INPUT, _OUTPUT = "images", "logits"


def export(model: Network, path: Path, form: str) -> float:
    """Write ``model`` to ``path`` in ``form``, once what was written is known to be it; whole or not at all.

    ``onnx`` and ``torch``: a program from normalised images [N, 3, S, S], N free, to logits [N, classes], its logits within
    :data:`TOLERANCE` of the model's on random images; returns the largest difference as a share of the largest logit. ``safetensors`` and
    ``sparse``: files for :func:`tp_vgg.load`, weights equal to the last bit; returns 0.

    Raises :class:`WorkFailed` where the check fails, :class:`BadInput` where a package is missing.
    """
    model = copy.deepcopy(model).cpu().eval()
    if EXPORT_FORMATS[form].program:
        raw = to_onnx(model) if form == "onnx" else _to_program(model)
        run = _onnx_runner(raw) if form == "onnx" else _program_runner(raw)
        difference = largest_difference(model, run)
        if not difference <= TOLERANCE:
            raise WorkFailed(
                f"{path}: the exported program's logits differ by {difference:.1e} of the largest; not kept"
            )
        write_atomic(path, lambda file: file.write(raw))
        return difference
    with TemporaryDirectory() as directory:
        written = Path(directory) / f"model{EXPORT_FORMATS[form].suffix}"
        checkpoint.save(model, written)
        _check_same(model, written, path)
        write_atomic(path, lambda file: file.write(written.read_bytes()))
    return 0.0


@torch.inference_mode()
def largest_difference(model: Network, run: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """max|Δlogit| ÷ max|logit| between ``model`` and ``run`` over random images, in batches of several sizes."""
    generator = torch.Generator().manual_seed(0)
    side = model.spec.image_size
    worst = 0.0
    for count in _BATCHES:
        images = torch.randn(count, 3, side, side, generator=generator)
        wanted = model(images)
        found = run(images)
        if found.shape != wanted.shape:
            raise WorkFailed(
                f"the exported program gives {list(found.shape)} for logits {list(wanted.shape)}; not kept"
            )
        difference = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
        worst = max(worst, difference) if difference == difference else float("inf")
    return worst


def to_onnx(model: Network) -> bytes:
    """``model``, on the CPU, as an ONNX file with a free batch dimension; its normalisation and classes are in the metadata.

    Raises :class:`BadInput` where onnx or onnxscript is missing.
    """
    _require("onnx", "onnxscript")
    images = torch.zeros(2, 3, model.spec.image_size, model.spec.image_size)
    with _quiet():
        program = torch.onnx.export(
            model.eval(), (images,), dynamo=True, verbose=False, input_names=[_INPUT], output_names=[_OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    for name, value in _about(model).items():
        proto.metadata_props.add(key=name, value=json.dumps(value))
    import onnx

    onnx.checker.check_model(proto, full_check=True)
    raw: bytes = proto.SerializeToString()
    return raw


def onnx_session(raw: bytes, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU for the bytes of an ONNX file. Its threads do not spin between runs, where they would take the cores from others.

    Raises :class:`BadInput` where onnxruntime is missing.
    """
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


def _onnx_runner(raw: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    session = onnx_session(raw)
    return lambda images: torch.from_numpy(session.run(None, {_INPUT: images.numpy()})[0])


def _to_program(model: Network) -> bytes:
    images = torch.zeros(2, 3, model.spec.image_size, model.spec.image_size)
    program = torch.export.export(
        model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    out = io.BytesIO()
    with _quiet():
        torch.export.save(program, out, extra_files={"tp_vgg.json": json.dumps(_about(model))})
    return out.getvalue()


def _program_runner(raw: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    with _quiet():
        module = torch.export.load(io.BytesIO(raw)).module()
    return lambda images: module(images)


def _about(model: Network) -> dict[str, Any]:
    """What a program needs besides its weights."""
    noted: dict[str, Any] = {
        name: model.meta[name] for name in ("mean", "std", "classes") if name in model.meta
    }
    return {"spec": model.spec.to_dict(), **noted}


def _check_same(model: Network, written: Path, path: Path) -> None:
    found, wanted = checkpoint.load(written), checkpoint.to_dict(model)
    state = found.state_dict()
    same = all(_same_bits(value, state[name]) for name, value in wanted["state_dict"].items())
    if not same or found.spec != model.spec or found.kept != model.kept:
        raise WorkFailed(
            f"{path}: reloaded, it holds other weights than the model that was saved; not kept"
        )


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8)
    )


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"{', '.join(missing)} is not installed; pip install 'tp_vgg[export]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk of their own deprecations, on stdout too."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
