"""Versions and hardware, as records name them."""

from __future__ import annotations

import contextlib
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


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
