"""These functions run the parts of a round as steps: tests, latency, sweeps, profile, repair.

They also prepare the images. This module does not import torch.
"""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from functools import partial
from pathlib import Path

from gpu.runner import Round
from gpu.setting import ARCHIVE

TINY_BOX = 240.0
"""Time box in seconds of each step of a dry run."""
OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL) (.+?)(?: - .*)?$")
"""A line of pytest's short summary: outcome and name of a test."""
DECODE = """
import pathlib, sys
from tp_vgg.data.folder import SIZE, folder_fingerprint
print(folder_fingerprint(pathlib.Path(sys.argv[1]), SIZE, print, True))
"""
"""Program that decodes a folder of images to the cache, as the first command would."""
CHECKS = ("peak_memory", "graph", "determinism", "resume")
"""Names of the checks of :mod:`gpu.checks`."""


def box(r: Round, seconds: float) -> float:
    """Return a step's time box in seconds; in a dry run, which may be on a slow CPU, a long one."""
    return TINY_BOX if r.setting.tiny else seconds


def command_line(*arguments: object) -> list[str]:
    """Return the command line of a tp_vgg command."""
    return [sys.executable, "-m", "tp_vgg", *map(str, arguments)]


def images_options(r: Round) -> list[str]:
    """Return the options for the images and the device, and for few images in a dry run."""
    names = ("--limit-train", "--limit-val", "--limit-test")
    few = [
        text
        for name, n in zip(names, r.setting.limits, strict=True)
        if n
        for text in (name, str(n))
    ]
    return [
        "--dataset",
        r.setting.dataset,
        "--data-dir",
        str(r.setting.images),
        "--device",
        r.setting.device,
        *few,
    ]


def unpack_wheels(r: Round) -> None:
    """Unpack the wheels beside the script into the folder at the start of the steps' PYTHONPATH."""
    for wheel in sorted((r.here / "wheels").glob("*-none-any.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(r.work / "site")
        r.line(f"unpacked {wheel.name}")


def prepare_images(r: Round) -> None:
    """Unpack the archive of images and decode them to their cache.

    Nothing is done without a data folder, or if the cache exists.
    """
    images = r.setting.images
    if r.setting.data is None or (images / ".tp_vgg-cache.safetensors").is_file():
        return
    if not images.is_dir():
        archive, partial = Path(r.setting.data) / ARCHIVE, images.with_name("data.partial")
        partial.mkdir(exist_ok=True)
        fast = shutil.which("tar") and shutil.which("xz")
        slow = [
            sys.executable,
            "-m",
            "tarfile",
            "--filter",
            "data",
            "-e",
            str(archive),
            str(partial),
        ]
        command = ["tar", "-xJf", str(archive), "-C", str(partial)] if fast else slow
        if r.step("unpack", command, box(r, 120)) != 0:
            return
        partial.rename(images)
    r.step("decode", [sys.executable, "-c", DECODE, str(images)], box(r, 90))


def gpu_test_files(root: Path) -> list[Path]:
    """Return the test modules with at least one test marked ``gpu``."""
    return [
        path
        for path in sorted((root / "tests").rglob("test_*.py"))
        if "@pytest.mark.gpu" in path.read_text()
    ]


def tests(r: Round) -> None:
    """Run the gpu tests and the checks, each in a process of its own.

    A fault on the device destroys the CUDA context of its process, and only that. A dry run only
    collects the tests.
    """
    root = Path(r.setting.root)
    files = gpu_test_files(root)
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        "-rA",
    ]
    if r.setting.tiny:
        collected = [str(path.relative_to(root)) for path in files]
        r.step("collect the gpu tests", [*pytest, "--collect-only", *collected], TINY_BOX)
        r.module("checks", TINY_BOX)
        return

    def run(path: Path) -> None:
        r.step(f"gpu tests of {path.name}", [*pytest, str(path.relative_to(root))], 95)
        _record_outcomes(r, path.name)

    jobs = [partial(run, path) for path in files] + [
        partial(r.module, "checks", 60, name) for name in CHECKS
    ]
    r.together(jobs, at_once=len(jobs))


def _record_outcomes(r: Round, name: str) -> None:
    """Record the outcome of each test of a file, from the log of its step."""
    log = r.work / "logs" / f"gpu-tests-of-{name}.txt"
    for line in log.read_text(errors="replace").splitlines() if log.is_file() else ():
        summary = OUTCOME.match(line)
        if summary:
            r.record("test", name=summary[2], outcome=summary[1].lower())


def latency(r: Round) -> None:
    """Time the groups of the latency table, most important first; nothing else runs meanwhile."""
    groups = (
        {"fp32": 0, "compile": 0} if r.setting.tiny else {"bf16": 130, "fp32": 75, "compile": 45}
    )
    for group, seconds in groups.items():
        r.module("latency", box(r, seconds), group)


def sweeps(r: Round) -> None:
    """Sweep the test images by the command line, then in one process by :mod:`gpu.sweeps`.

    The first includes the start of Python and the loading. The second is timed cold and warm, and
    compared with the notebook's loop.
    """
    levels = ["--levels", "0.3,0.9"] if r.setting.tiny else []
    for kind in ("structured",) if r.setting.tiny else ("structured", "unstructured"):
        command = command_line(
            "sensitivity",
            "--kind",
            kind,
            *images_options(r),
            "--checkpoint",
            r.setting.dense,
            "--split",
            "test",
            "--out",
            r.work / "runs" / "sweep",
            *levels,
        )
        r.step(f"{kind} sweep by the command line", command, box(r, 40))
    r.module("sweeps", box(r, 75))


def profile(r: Round) -> None:
    """Make the staircase profiles (:mod:`gpu.profiles`)."""
    r.module("profiles", box(r, 48))


def repair(r: Round) -> None:
    """Time repairs of pruned models (:mod:`gpu.repair`)."""
    r.module("repair", box(r, 60))
