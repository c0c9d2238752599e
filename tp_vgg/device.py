"""The device a command works on: choosing it, its memory, and which precision it is fast in."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tp_vgg.errors import BadInput


def pick_device(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one. Raises :class:`BadInput` for a device this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise BadInput(f"--device: {name!r} is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"--device: {name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """True where bf16 convolutions have hardware: CUDA 8.0+, or a CPU with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    cpu: Any = torch.cpu  # of torch 2.10, which has no public way to ask; tiles come with bf16 in them
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
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16, cache_enabled=False)


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
            _legacy(legacy, ("high" if tf32 else "highest", tf32)) if legacy else contextlib.nullcontext(),
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


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: on the accelerator, or what the system, or the container's limit, leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    return int(min(available, _container_leaves(Path("/sys/fs/cgroup"))))


def _container_leaves(group: Path) -> float:
    """Bytes up to the limit of a control group (version 2), which /proc/meminfo knows nothing of; what it caches of files can be had back."""
    with contextlib.suppress(OSError, ValueError):  # no such limit: "max", or no such file
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(limit - used + int(stat["inactive_file"]), 0)
    return math.inf


class PeakMemory:
    """The peak used since the last reset: allocated on CUDA, resident size of the process on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.init()  # an indexed device is not looked up, so that nothing else has done it yet
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, so that the peak is this stage's own

    def bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _peak_resident()


def halved(block: int) -> int:
    """Half of a block of images for which memory ran out, with a warning and what memory can be had back."""
    release_memory()
    warnings.warn(f"out of memory with {block} images at a time; going on with {block // 2}", stacklevel=2)
    return block // 2


def release_memory() -> None:
    """Give back what nothing refers to any more, on the accelerator too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _peak_resident() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, as plain strings and numbers."""
    import platform

    packages = ("tp-vgg", "torch", "torchvision", "torch-pruning", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "cuda": str(torch.version.cuda) if device.type == "cuda" else None,
        **versions(packages),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by distribution name (a package's own ``__version__`` may lie); missing ones left out."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()
