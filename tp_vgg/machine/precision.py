"""Which arithmetic is fast on a device, and fp32 that is fp32 whatever the process has set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """True where bf16 convolutions have hardware: CUDA 8.0+, or a CPU with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    cpu: Any = (
        torch.cpu
    )  # of torch 2.10, which has no public way to ask; tiles come with bf16 in them
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def screening_pays(device: torch.device) -> bool:
    """Whether a sweep that screens in bf16 and verifies in fp32 is faster than one in fp32 alone, as measured (docs/results.md, docs/gpu.md).

    On a GPU with bf16 hardware it is. On a CPU it is not, with AVX512-BF16 either: there fp32 has kernels of its own (Winograd, sums that one
    level goes on with from the last) and bf16 has none. With AMX it was not measured.
    """
    return device.type == "cuda" and has_fast_bf16(device)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 where that has hardware, else fp32."""
    if name == "bf16" or (name == "auto" and has_fast_bf16(device)):
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Autocast to ``precision``; a no-op for fp32. Nothing is kept of a cast: our networks use each weight once, and a CUDA graph must not read what
    was cast before it was captured."""
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16, cache_enabled=False
    )


@contextlib.contextmanager
def fp32_arithmetic(*, tf32: bool, deterministic: bool, compiles: bool = False) -> Iterator[None]:
    """What fp32 stands for, whatever the process has set and by whichever of torch's two interfaces, which is put back at the end.

    Without ``tf32`` a product of fp32 numbers is one of fp32 numbers: neither TF32 on CUDA nor oneDNN's bf16 on a CPU stands in for it.
    cuDNN chooses its kernels without timing them; ``deterministic`` leaves it those that give the same bits on every run.

    ``compiles``: torch's compilers and exporters run inside, which read the older interface and may not find it to contradict the newer. That leaves
    a trace: what cuDNN's convolutions had by default they then have as if it had been set, and follow no later choice for the whole process.
    """
    cudnn = torch.backends.cudnn
    flags = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    legacy = _legacy_precision() if compiles else None
    read = [leaf.fp32_precision for leaf in _leaves()] if compiles else []
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, deterministic
    try:
        with (
            _precision("tf32" if tf32 else "ieee", torch.backends, cudnn, *_leaves()),
            _legacy(legacy, ("high" if tf32 else "highest", tf32))
            if legacy
            else contextlib.nullcontext(),
        ):
            yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = flags
        for leaf, value in zip(_leaves(), read, strict=False):
            if leaf.fp32_precision != value:  # cuDNN's default, which is no setting
                leaf.fp32_precision = value


@contextlib.contextmanager
def _precision(wanted: str, *places: Any) -> Iterator[None]:
    """By torch's newer interface: in each of ``places`` in turn, the whole before its parts, where it is not ``wanted`` already. A part that
    followed the whole before does so afterwards."""
    held = []
    try:
        for place in places:
            if place.fp32_precision != wanted:
                held.append((place, place.fp32_precision))
                place.fp32_precision = wanted
        yield
    finally:
        for place, before in reversed(held):
            place.fp32_precision = before


def _leaves() -> tuple[Any, ...]:
    """Where that interface keeps how fp32 is multiplied, by library and operation."""
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv


def _legacy_precision() -> tuple[str, bool]:
    """Of matrix products, and whether cuDNN may take TF32, by torch's older interface. Reading it is an error where the process has said
    something else by the newer one alone: then the older one still has its default."""
    matmul, cudnn = "highest", True
    with contextlib.suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        cudnn = torch.backends.cudnn.allow_tf32
    return matmul, cudnn


@contextlib.contextmanager
def _legacy(before: tuple[str, bool], wanted: tuple[str, bool]) -> Iterator[None]:
    """The older interface says the same as the newer one, and ``before`` again afterwards."""
    held = [(leaf, "none" if _follows(leaf) else leaf.fp32_precision) for leaf in _leaves()]
    torch.set_float32_matmul_precision(wanted[0])
    torch.backends.cudnn.allow_tf32 = wanted[1]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        for leaf, value in held:
            leaf.fp32_precision = value


def _follows(leaf: Any) -> bool:
    """Whether a leaf has what its library or the process as a whole has, whatever that comes to be."""
    value = leaf.fp32_precision
    with _precision("ieee" if value == "tf32" else "tf32", torch.backends, torch.backends.cudnn):
        return bool(leaf.fp32_precision != value)


def fp32_flags() -> dict[str, Any]:
    """What :func:`fp32_arithmetic` has set, or the process."""
    matmul, conv, *_ = (leaf.fp32_precision for leaf in _leaves())
    cudnn = torch.backends.cudnn
    return {
        "cuda_matmul": matmul,
        "cudnn_conv": conv,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
    }


def exact_fp32() -> contextlib.AbstractContextManager[None]:
    """fp32 that is fp32, with the same bits on every run."""
    return fp32_arithmetic(tf32=False, deterministic=True)
