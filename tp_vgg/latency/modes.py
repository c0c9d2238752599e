"""Each mode prepares a network to be timed, or says why this machine can't run the mode."""

from __future__ import annotations

import contextlib
import copy
import itertools
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tp_vgg.errors import out_of_memory
from tp_vgg.latency.cuda import CudaCalls
from tp_vgg.latency.table import FOLDED, GRAPHS, BenchmarkCase
from tp_vgg.machine.console import hushed
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.precision import has_fast_bf16
from tp_vgg.network.export import onnx_session, to_onnx
from tp_vgg.network.families import fold_batch_norm
from tp_vgg.network.network import Network

DTYPE = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


class Unavailable(Exception):
    """An Unavailable says that this machine can't run a case; the message says why."""


class InputPool:
    """An input pool holds batches of images that all networks of a case use in rotation.

    So no network finds a batch in the cache only because another network has just used it.
    ``images`` are tensors [batch, 3, side, side] on one device.
    """

    def __init__(self, images: list[torch.Tensor]) -> None:
        self.first = images[0]
        self._cycle = itertools.cycle(images)

    def next(self) -> torch.Tensor:
        """Return the next batch of images; the first follows the last."""
        return next(self._cycle)


@dataclass(frozen=True)
class PreparedForward:
    """A prepared forward is a network that is ready to be timed in one case."""

    call: Call
    """Runs one forward pass on the next batch of the input pool."""
    resident_bytes: int
    """Bytes of the weights, the buffers and one batch of images."""
    flushed: int
    """Number of denormal weights set to zero. Dead channels cause them; a CPU is slow on them."""


def check_available(case: BenchmarkCase, cuda: CudaCalls | None) -> None:
    """Raise :class:`Unavailable` if the device lacks what ``case`` needs; nothing is run.

    ``cuda`` is the CUDA device, or ``None`` for the CPU.
    """
    if case.mode in GRAPHS and cuda is None:
        raise Unavailable("CUDA graphs need a CUDA device")
    if case.mode == "onnxruntime" and (cuda is not None or case.dtype != "fp32"):
        raise Unavailable("ONNX Runtime is timed on the CPU in fp32 only")
    ampere = cuda is not None and cuda.capability() >= (8, 0)
    if case.dtype == "tf32" and not ampere:
        raise Unavailable("this device has no TF32 hardware")
    if case.dtype == "bf16" and not (
        has_fast_bf16(torch.device("cpu")) if cuda is None else ampere
    ):
        raise Unavailable("this device has no bf16 hardware")


_FLUSH_BLOCK = 1 << 18
"""Number of weights that :func:`flush_denormals` checks at a time, so that they stay in the
cache."""
_REASON_LENGTH = 160
"""Longest reason, in characters, that is kept of an error's kind and first line."""


def layout(case: BenchmarkCase) -> torch.memory_format:
    """Return the memory format of images and weights: channels_last in the folded modes."""
    return torch.channels_last if case.mode in FOLDED else torch.contiguous_format


def input_pool(side: int, case: BenchmarkCase, device: torch.device, pool_bytes: int) -> InputPool:
    """Draw random batches [batch, 3, side, side] for ``case``, in all at least ``pool_bytes``.

    If that is larger than the cache, no forward pass finds its batch in the cache. With
    ``pool_bytes=0`` there is one batch. The images have the dtype and the memory format of the
    case, and are the same in every call (fixed seed).
    """
    dtype = DTYPE[case.dtype]
    count = max(-(-pool_bytes // (dtype.itemsize * case.batch_size * 3 * side * side)), 1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count * case.batch_size, 3, side, side, generator=generator)
    # One transfer to the device for all batches, of which there may be thousands.
    images = drawn.to(device=device, dtype=dtype).contiguous(memory_format=layout(case))
    return InputPool(list(images.split(case.batch_size)))


def prepare(
    model: Network, case: BenchmarkCase, pool: InputPool, cuda: CudaCalls | None, threads: int
) -> PreparedForward:
    """Prepare a copy of ``model`` to be timed in ``case``, on the device of the images in ``pool``.

    Each call of the result takes the next batch of ``pool``. Prepare and call it in inference
    mode. ``model`` itself stays unchanged. ``cuda`` is the device that captures CUDA graphs, or
    ``None``; ``threads`` is the number of threads of ONNX Runtime. Raises :class:`Unavailable` if
    the mode fails on this machine.
    """
    ready = fold_batch_norm(model) if case.mode in FOLDED else copy.deepcopy(model)
    ready = ready.eval().requires_grad_(False)
    ready.to(device=pool.first.device, dtype=DTYPE[case.dtype])
    ready.to(memory_format=layout(case))
    flushed = flush_denormals(ready)
    resident_bytes = sum(t.nbytes for t in (pool.first, *ready.parameters(), *ready.buffers()))
    call = _CALL_MAKERS[case.mode](ready, pool, cuda, threads)
    return PreparedForward(call, resident_bytes, flushed)


def _plain(model: Network, pool: InputPool, _cuda: CudaCalls | None, _threads: int) -> Call:
    return lambda: model(pool.next())


def _graph(model: Network, pool: InputPool, cuda: CudaCalls | None, _threads: int) -> Call:
    """Return a call that copies the next batch to the graph's input and replays the graph.

    A graph always reads the same memory, so a server would need this copy too; it is timed.
    """
    assert cuda is not None
    static = pool.first.clone()
    with _or_unavailable("CUDA graph capture"):
        replay = cuda.capture(lambda: model(static))

    def call() -> None:
        static.copy_(pool.next())
        replay()

    return call


def _compiled(model: Network, pool: InputPool, _cuda: CudaCalls | None, _threads: int) -> Call:

    def forward(x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(x)
        return logits

    # torch.compile stores its results with the code object of the function. If the networks
    # shared one, each call would check the guards of the networks before it, and torch limits how
    # many results one code object may have. So each network gets its own copy.
    with_own_code = types.FunctionType(
        forward.__code__.replace(), forward.__globals__, "forward", None, forward.__closure__
    )
    with _or_unavailable("torch.compile"):
        # Inside the block, because this imports the compiler, which may warn.
        compiled = torch.compile(with_own_code, dynamic=False, fullgraph=True)
        compiled(pool.first)
    return lambda: compiled(pool.next())


def _onnxruntime(model: Network, pool: InputPool, _cuda: CudaCalls | None, threads: int) -> Call:
    with _or_unavailable("ONNX Runtime"):
        session = onnx_session(to_onnx(model), threads)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: pool.next().numpy()})


_CALL_MAKERS: dict[str, Callable[[Network, InputPool, Any, int], Call]] = {
    "eager": _plain,
    "folded": _plain,
    "graph": _graph,
    "folded-graph": _graph,
    "compile": _compiled,
    "onnxruntime": _onnxruntime,
}


@torch.no_grad()
def flush_denormals(model: Network) -> int:
    """Set the denormal weights and buffers of ``model`` to zero, in place; return their number.

    A number is denormal if it is not zero but smaller than the smallest normal number of its dtype.
    """
    flushed = 0
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            in_memory_order = value.as_strided((value.numel(),), (1,))
            for part in in_memory_order.split(_FLUSH_BLOCK):
                tiny = (part != 0) & (part.abs() < torch.finfo(part.dtype).tiny)
                flushed += int(tiny.sum())
                part.masked_fill_(tiny, 0)
    return flushed


@contextlib.contextmanager
def _or_unavailable(what: str) -> Iterator[None]:
    """Turn every error of the block except out-of-memory into :class:`Unavailable`.

    ``what`` names the compiler or driver in the message.
    """
    try:
        # A compiler's warnings are no failure, and the user can't act on them. The logger says
        # that no CUDA runtime was found, also if only the CPU is timed.
        with hushed("torch.utils.cpp_extension"), warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:
        if out_of_memory(error):
            raise
        raise Unavailable(f"{what} failed ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """Return the kind and the first line of ``error``, in ASCII.

    For an error of torch.compile it is the inner error: the outer one only names the backend.
    """
    inner = getattr(error, "inner_exception", None)
    if isinstance(inner, Exception):
        return _reason(inner)
    line = next((line for line in map(str.strip, str(error).splitlines()) if line), "")
    return ascii(f"{type(error).__name__}: {line}")[1:-1][:_REASON_LENGTH]
