"""This module chooses between bf16 and fp32, and sets whether TF32 may replace fp32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Return True if the device has hardware for bf16 convolutions.

    That is CUDA compute capability 8.0 or higher, or a CPU with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    # torch 2.10 has no public function for this. A CPU with AMX tiles multiplies bf16 in them.
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def screening_pays(device: torch.device) -> bool:
    """Tell whether a sweep that screens in bf16 and verifies in fp32 beats one in fp32 alone.

    Measured in docs/results.md and docs/gpu.md: on a GPU with bf16 hardware it is faster. On a CPU
    it is not, even with AVX512-BF16, because only fp32 has kernels of our own there (Winograd, and
    sums that each level continues from the previous one). With AMX it was not measured.
    """
    return device.type == "cuda" and has_fast_bf16(device)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype called ``name``; ``auto`` is bf16 if the device is fast at it, else fp32."""
    if name == "bf16" or (name == "auto" and has_fast_bf16(device)):
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return a context of autocast to bf16, or one without effect if ``precision`` is fp32.

    Casts are not cached: our networks use each weight once, and a CUDA graph must not read a weight
    that was cast before the capture.
    """
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16, cache_enabled=False
    )


@contextlib.contextmanager
def fp32_arithmetic(*, tf32: bool, deterministic: bool, compiles: bool = False) -> Iterator[None]:
    """Set how fp32 is computed for the duration of the block, and restore the settings at the end.

    It does not matter what the process has set before, nor by which of torch's two interfaces.
    Without ``tf32``, fp32 numbers are multiplied in fp32: neither TF32 on CUDA nor oneDNN's bf16 on
    a CPU replaces it. cuDNN chooses its kernels without timing them; ``deterministic`` restricts it
    to kernels that give the same bits on every run.

    Set ``compiles`` if torch's compilers or exporters run inside the block: they read the older
    interface, which must not contradict the newer one. This has a side effect: if cuDNN's
    convolutions had their default precision, it is then as if it had been set explicitly, and they
    no longer follow a later setting for the whole process.
    """
    cudnn = torch.backends.cudnn
    flags = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    legacy = _legacy_precision() if compiles else None
    precisions = [leaf.fp32_precision for leaf in _leaves()] if compiles else []
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
        for leaf, value in zip(_leaves(), precisions, strict=False):
            if leaf.fp32_precision != value:  # cuDNN's default is no setting, so it is not back yet
                leaf.fp32_precision = value


@contextlib.contextmanager
def _precision(wanted: str, *places: Any) -> Iterator[None]:
    """Set torch's newer interface to ``wanted`` in each of ``places``, for the block's duration.

    ``places`` names the whole before its parts, and a place that has the value already is not set.
    So a part that inherits from the whole is never set, and goes on inheriting afterwards.
    """
    changed = []
    try:
        for place in places:
            if place.fp32_precision != wanted:
                changed.append((place, place.fp32_precision))
                place.fp32_precision = wanted
        yield
    finally:
        for place, before in reversed(changed):
            place.fp32_precision = before


def _leaves() -> tuple[Any, ...]:
    """Return the places of the newer interface that set fp32 for one library's operation."""
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv


def _legacy_precision() -> tuple[str, bool]:
    """Read torch's older interface: the precision of matrix products, and cuDNN's ``allow_tf32``.

    Reading it raises an error if the process has set something else by the newer interface alone;
    the older one then still has its default.
    """
    matmul, cudnn = "highest", True
    with contextlib.suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        cudnn = torch.backends.cudnn.allow_tf32
    return matmul, cudnn


@contextlib.contextmanager
def _legacy(before: tuple[str, bool], wanted: tuple[str, bool]) -> Iterator[None]:
    """Set torch's older interface to ``wanted`` for the duration of the block, then to ``before``.

    Setting it changes the newer interface too, whose settings are therefore restored as well.
    """
    leaves = [(leaf, "none" if _follows(leaf) else leaf.fp32_precision) for leaf in _leaves()]
    torch.set_float32_matmul_precision(wanted[0])
    torch.backends.cudnn.allow_tf32 = wanted[1]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        for leaf, value in leaves:
            leaf.fp32_precision = value


def _follows(leaf: Any) -> bool:
    """Tell whether a leaf inherits its value from its library or from the whole process."""
    value = leaf.fp32_precision
    with _precision("ieee" if value == "tf32" else "tf32", torch.backends, torch.backends.cudnn):
        return bool(leaf.fp32_precision != value)


def fp32_flags() -> dict[str, Any]:
    """Return the fp32 settings in force now, from :func:`fp32_arithmetic` or from the process."""
    matmul, conv, *_ = (leaf.fp32_precision for leaf in _leaves())
    cudnn = torch.backends.cudnn
    return {
        "cuda_matmul": matmul,
        "cudnn_conv": conv,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
    }


def exact_fp32() -> contextlib.AbstractContextManager[None]:
    """Return a context in which fp32 is never TF32 or bf16, and gives the same bits on each run."""
    return fp32_arithmetic(tf32=False, deterministic=True)
