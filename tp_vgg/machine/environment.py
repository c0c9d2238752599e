"""Records name the software versions and the hardware that this module finds."""

from __future__ import annotations

import contextlib
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions and hardware as plain strings and numbers; ``cuda`` is None on a CPU."""
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
    """Return the installed version of each package by distribution name; missing ones are left out.

    The versions come from the installation's metadata, because a package's own ``__version__`` may
    be wrong.
    """
    installed = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()
