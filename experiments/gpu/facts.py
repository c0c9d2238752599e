"""This step records the machine and its ceilings: a large copy, and large matrix products."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

from gpu.common import DEVICE, TINY, attempt, finish, make_thin_model, record, say, timing_device
from tp_vgg.machine.environment import environment, versions
from tp_vgg.machine.precision import fp32_arithmetic

PRODUCTS = (
    ("bf16", torch.bfloat16, False),
    ("tf32", torch.float32, True),
    ("fp32", torch.float32, False),
)
"""Name, dtype and use of TF32 of each matrix product."""


def describe_machine() -> None:
    """Record the versions, the CPUs, and the properties that the device reports."""
    installed = versions(tuple(sorted({package.name for package in metadata.distributions()})))
    machine = {
        **environment(DEVICE),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
    }
    record("machine", **machine, packages=installed)
    say(machine)
    record("conditions", name="before the round", **timing_device().clock.conditions())
    if DEVICE.type == "cuda":
        properties = torch.cuda.get_device_properties(DEVICE)
        record(
            "device",
            gpu=properties.name,
            multiprocessors=properties.multi_processor_count,
            l2_mib=properties.L2_cache_size >> 20,
            memory_gib=round(properties.total_memory / 2**30, 1),
            cudnn=torch.backends.cudnn.version(),
        )


def measure_ceilings() -> None:
    """Record the bandwidth of a large copy in TB/s, and matrix products in TFLOP/s.

    The products are timed on CUDA only, and in a dry run.
    """
    timing, size = timing_device(), 256 if TINY else 8192
    attempt("ceiling", "copy, TB/s", lambda: {"value": timing.bandwidth() / 1e12})
    for name, dtype, tf32 in PRODUCTS if DEVICE.type == "cuda" or TINY else ():
        a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))

        def rate(a: torch.Tensor = a, b: torch.Tensor = b, tf32: bool = tf32) -> dict[str, float]:
            with fp32_arithmetic(tf32=tf32, deterministic=False):
                return {"value": 2 * size**3 / timing.clock.sample(lambda: a @ b) / 1e12}

        attempt("ceiling", f"matrix product in {name}, TFLOP/s", rate)


if __name__ == "__main__":
    make_thin_model()
    describe_machine()
    with torch.inference_mode():
        measure_ceilings()
    finish()
