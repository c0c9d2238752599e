"""A network is exported to other software or a smaller file, and checked before it is kept."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from tp_vgg.errors import BadInput, WorkFailed, missing_packages
from tp_vgg.files.atomic import write_atomic
from tp_vgg.files.checks import choice
from tp_vgg.files.read import as_path
from tp_vgg.machine.console import hushed
from tp_vgg.network import checkpoint
from tp_vgg.network.doors import network_of
from tp_vgg.network.formats import EXPORT_FORMATS
from tp_vgg.network.network import Network
from tp_vgg.network.plain_copy import plain_copy

TOLERANCE = 1e-4
"""Largest accepted difference of a logit, as a fraction of the largest logit.

It is not zero because another runtime adds up in another order."""
ONNX = ("onnx", "onnxscript", "onnxruntime")
"""Packages that write an ONNX file and run it."""
_BATCHES = (1, 2, 16)
"""Sizes of the batches of random images that check an exported program."""
_INPUT, _OUTPUT = "images", "logits"


def export(model: Network, path: str | Path, form: str) -> float:
    """Write ``model`` to ``path`` in another format, if the result passes a check.

    ``form`` is a key of :data:`~tp_vgg.network.formats.EXPORT_FORMATS`:

    ``onnx`` and ``torch``: a program that maps normalised images [N, 3, S, S], for any N, to logits
    [N, classes]. On random images its logits must be within :data:`TOLERANCE` of the model's.
    Returns the largest difference, as a fraction of the largest logit.

    ``safetensors`` and ``sparse``: a file for :func:`tp_vgg.load`. Reloaded, its weights must equal
    the model's bit for bit. Returns 0.

    The file appears whole or not at all. Raises :class:`WorkFailed` if the check fails,
    :class:`BadInput` if a package is missing or ``form`` is unknown.
    """
    path = as_path(path)
    choice("form", form, EXPORT_FORMATS)
    model = cast(Network, plain_copy(network_of(model)))
    if EXPORT_FORMATS[form].program:
        raw = to_onnx(model) if form == "onnx" else _to_program(model)
        run = _onnx_runner(raw) if form == "onnx" else _program_runner(raw)
        difference = largest_difference(model, run)
        if not difference <= TOLERANCE:
            raise WorkFailed(
                f"{path}: the exported program's logits differ by {difference:.1e} "
                "of the largest logit; the file is not kept"
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
    """Return max|Δlogit| ÷ max|logit| between ``model`` and ``run`` on batches of random images.

    ``run`` maps float32 images [N, 3, S, S] to logits. The result is the largest over the batch
    sizes, and infinite if a logit is NaN. Raises :class:`WorkFailed` if the shapes differ.
    """
    generator = torch.Generator().manual_seed(0)
    side = model.spec.image_size
    worst = 0.0
    for count in _BATCHES:
        images = torch.randn(count, 3, side, side, generator=generator)
        expected = model(images)
        logits = run(images)
        if logits.shape != expected.shape:
            raise WorkFailed(
                f"the exported program's logits have shape {list(logits.shape)} "
                f"instead of {list(expected.shape)}; the file is not kept"
            )
        difference = float((logits - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        worst = max(worst, difference) if difference == difference else float("inf")
    return worst


def to_onnx(model: Network) -> bytes:
    """Return the bytes of an ONNX file of ``model``, which must be on the CPU.

    The batch dimension is free. The metadata holds the spec, the normalisation and the class names.
    The model is left in eval mode. Raises :class:`BadInput` if one of :data:`ONNX` is missing.
    """
    _require_onnx()
    images = torch.zeros(2, 3, model.spec.image_size, model.spec.image_size)
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (images,),
            dynamo=True,
            verbose=False,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    assert program is not None
    proto = program.model_proto
    for name, value in _metadata(model).items():
        proto.metadata_props.add(key=name, value=json.dumps(value))
    import onnx

    onnx.checker.check_model(proto, full_check=True)
    raw: bytes = proto.SerializeToString()
    return raw


def onnx_session(raw: bytes, threads: int | None = None) -> Any:
    """Return an ONNX Runtime session on the CPU for the bytes of an ONNX file.

    ``threads`` is the number of threads per operator; ``None`` leaves it to ONNX Runtime. The
    threads do not spin between runs, because that would take the cores from other work.

    Raises :class:`BadInput` if one of :data:`ONNX` is missing.
    """
    _require_onnx()
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
        torch.export.save(program, out, extra_files={"tp_vgg.json": json.dumps(_metadata(model))})
    return out.getvalue()


def _program_runner(raw: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    with _quiet():
        module = torch.export.load(io.BytesIO(raw)).module()
    return lambda images: module(images)


def _metadata(model: Network) -> dict[str, Any]:
    """Return the spec, and the normalisation and class names as far as ``meta`` holds them."""
    from_meta: dict[str, Any] = {
        name: model.meta[name] for name in ("mean", "std", "classes") if name in model.meta
    }
    return {"spec": model.spec.to_dict(), **from_meta}


def _check_same(model: Network, written: Path, path: Path) -> None:
    """Raise :class:`WorkFailed` unless ``written``, reloaded, equals ``model`` bit for bit."""
    reloaded, expected = checkpoint.load(written), checkpoint.to_dict(model)
    state = reloaded.state_dict()
    same = all(_same_bits(value, state[name]) for name, value in expected["state_dict"].items())
    if not same or reloaded.spec.to_dict() != expected["spec"] or reloaded.kept != expected["kept"]:
        raise WorkFailed(
            f"{path}: reloaded, it holds other weights, widths or kept channels "
            "than the model that was saved; the file is not kept"
        )


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8)
    )


def _require_onnx() -> None:
    if missing := missing_packages(*ONNX):
        raise BadInput(missing)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters: they warn of their own deprecations, and print to stdout too."""
    with (
        hushed("torch.onnx"),
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield
