"""A network made ready to be timed in one mode, dtype and batch; or why it can't be."""

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
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.precision import has_fast_bf16
from tp_vgg.network.export import onnx_session, to_onnx
from tp_vgg.network.families import fold_batch_norm
from tp_vgg.network.network import Network

DTYPE = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


class Unavailable(Exception):
    """A mode that this device, or this machine, lacks; the message says why."""


class InputPool:
    """Images that all networks of a case take in turn, so that none finds the one warm that another has just had."""

    def __init__(self, images: list[torch.Tensor]) -> None:
        self.first = images[0]
        self._cycle = itertools.cycle(images)

    def next(self) -> torch.Tensor:
        return next(self._cycle)


@dataclass(frozen=True)
class PreparedForward:
    """A forward pass over the next of a pool of inputs."""

    call: Call
    held: int
    """Bytes of the weights and of one input."""
    flushed: int
    """Denormal weights set to zero, which they nearly are: they are slow on a CPU, and dead channels make them."""


def check_available(case: BenchmarkCase, cuda: CudaCalls | None) -> None:
    """Raise :class:`Unavailable` for what can be told without trying. ``cuda``: the device, or ``None`` for the CPU."""
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


_IN_CACHE = 1 << 18
"""Elements looked at at a time."""
_REASON = 160
"""Characters that are kept of an error's first line."""


def layout(case: BenchmarkCase) -> torch.memory_format:
    """Of images and weights in memory."""
    return torch.channels_last if case.mode in FOLDED else torch.contiguous_format


def input_pool(side: int, case: BenchmarkCase, device: torch.device, pool_bytes: int) -> InputPool:
    """Random images of ``side`` pixels for ``case``, at least ``pool_bytes`` of them, so that no pass over them in turn finds its input in a
    cache that is smaller; 0 for one input."""
    dtype = DTYPE[case.dtype]
    count = max(-(-pool_bytes // (dtype.itemsize * case.batch_size * 3 * side * side)), 1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count * case.batch_size, 3, side, side, generator=generator)
    images = drawn.to(device=device, dtype=dtype).contiguous(
        memory_format=layout(case)
    )  # thousands, in one transfer
    return InputPool(list(images.split(case.batch_size)))


def prepare(
    model: Network, case: BenchmarkCase, pool: InputPool, cuda: CudaCalls | None, threads: int
) -> PreparedForward:
    """``model`` (left as it is) ready to run in ``case`` on the images of ``pool`` in turn, where these are; call it in inference mode.

    ``cuda``: where graphs are captured. Raises :class:`Unavailable` for a mode that this machine turns out to lack.
    """
    ready = fold_batch_norm(model) if case.mode in FOLDED else copy.deepcopy(model)
    ready = ready.eval().requires_grad_(False)
    ready.to(device=pool.first.device, dtype=DTYPE[case.dtype])
    ready.to(memory_format=layout(case))
    flushed = flush_denormals(ready)
    held = sum(t.nbytes for t in (pool.first, *ready.parameters(), *ready.buffers()))
    return PreparedForward(_MAKERS[case.mode](ready, pool, cuda, threads), held, flushed)


def _plain(model: Network, pool: InputPool, _cuda: CudaCalls | None, _threads: int) -> Call:
    return lambda: model(pool.next())


def _graph(model: Network, pool: InputPool, cuda: CudaCalls | None, _threads: int) -> Call:
    """A replay reads one fixed place, so that each input is copied there first, as a server would have to."""
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

    # torch.compile keeps its results with the code object: one of its own for each network, or the later ones would
    # pay for looking through the earlier ones' guards, of which there may only be so many.
    own = types.FunctionType(
        forward.__code__.replace(), forward.__globals__, "forward", None, forward.__closure__
    )
    with _or_unavailable("torch.compile"):
        compiled = torch.compile(
            own, dynamic=False, fullgraph=True
        )  # imports the compiler, which may warn too
        compiled(pool.first)
    return lambda: compiled(pool.next())


def _onnxruntime(model: Network, pool: InputPool, _cuda: CudaCalls | None, threads: int) -> Call:
    with _or_unavailable("ONNX Runtime"):
        session = onnx_session(to_onnx(model), threads)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: pool.next().numpy()})


_MAKERS: dict[str, Callable[[Network, InputPool, Any, int], Call]] = {
    "eager": _plain,
    "folded": _plain,
    "graph": _graph,
    "folded-graph": _graph,
    "compile": _compiled,
    "onnxruntime": _onnxruntime,
}


@torch.no_grad()
def flush_denormals(model: Network) -> int:
    """Set the weights and buffers smaller than the smallest normal number to zero, in place. Returns how many there were."""
    flushed = 0
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            for part in value.as_strided((value.numel(),), (1,)).split(
                _IN_CACHE
            ):  # in memory's own order, whatever the layout
                tiny = (part != 0) & (part.abs() < torch.finfo(part.dtype).tiny)
                flushed += int(tiny.sum())
                part.masked_fill_(tiny, 0)
    return flushed


@contextlib.contextmanager
def _or_unavailable(what: str) -> Iterator[None]:
    """Whatever a compiler or a driver raises, but for want of memory, says that the mode is not to be had here."""
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # a compiler's advice is neither a failure nor ours to pass on
            yield
    except Exception as error:
        if out_of_memory(error):
            raise
        raise Unavailable(f"{what} failed ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The kind and first line of the ``error`` behind, in ASCII: torch.compile's own says only which backend raised it."""
    inner = getattr(error, "inner_exception", None)
    if isinstance(inner, Exception):
        return _reason(inner)
    line = next((line for line in map(str.strip, str(error).splitlines()) if line), "")
    return ascii(f"{type(error).__name__}: {line}")[1:-1][:_REASON]
