"""The parts of a round as steps: tests, latency, sweeps and profile; and the data that they need (no torch)."""

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
"""Seconds of each step of a dry run."""
OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL) (.+?)(?: - .*)?$")
"""A line of pytest's summary."""
DECODE = """
import pathlib, sys
from tp_vgg.data.folder import SIZE, folder_fingerprint
print(folder_fingerprint(pathlib.Path(sys.argv[1]), SIZE, print, True))
"""
CHECKS = ("peak_memory", "graph", "determinism", "resume")


def box(r: Round, seconds: float) -> float:
    """A step's time box; a dry run's is long, since it runs on any CPU."""
    return TINY_BOX if r.setting.tiny else seconds


def command_line(*arguments: object) -> list[str]:
    """A command of the product."""
    return [sys.executable, "-m", "tp_vgg", *map(str, arguments)]


def images_options(r: Round) -> list[str]:
    """The options that say which images and device, and how few images in a dry run."""
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
    """Unpack the wheels beside the script into the folder that the steps' PYTHONPATH begins with."""
    for wheel in sorted((r.here / "wheels").glob("*-none-any.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(r.work / "site")
        r.line(f"unpacked {wheel.name}")


def prepare_images(r: Round) -> None:
    """Unpack the images and decode them once, as the first command would; nothing for digits."""
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
        if (
            r.step(
                "unpack",
                ["tar", "-xJf", str(archive), "-C", str(partial)] if fast else slow,
                box(r, 120),
            )
            != 0
        ):
            return
        partial.rename(images)
    r.step("decode", [sys.executable, "-c", DECODE, str(images)], box(r, 90))


def gpu_test_files(root: Path) -> list[Path]:
    """The test modules that hold a test for a GPU."""
    return [
        path
        for path in sorted((root / "tests").rglob("test_*.py"))
        if "@pytest.mark.gpu" in path.read_text()
    ]


def tests(r: Round) -> None:
    """Run the gpu tests and the checks, each in a process of its own: a fault of one takes the CUDA context with it."""
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
    """Record how each test of a file ended, from the log of its step."""
    log = r.work / "logs" / f"gpu-tests-of-{name}.txt"
    for line in log.read_text(errors="replace").splitlines() if log.is_file() else ():
        summary = OUTCOME.match(line)
        if summary:
            r.record("test", name=summary[2], outcome=summary[1].lower())


def latency(r: Round) -> None:
    """The table's groups, the most wanted first; nothing else runs meanwhile."""
    groups = (
        {"fp32": 0, "compile": 0} if r.setting.tiny else {"bf16": 130, "fp32": 75, "compile": 45}
    )
    for group, seconds in groups.items():
        r.module("latency", box(r, seconds), group)


def sweeps(r: Round) -> None:
    """Cold by the command line on the test images; then warm, beside the notebook's loop."""
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
    """The staircase."""
    r.module("profiles", box(r, 48))
