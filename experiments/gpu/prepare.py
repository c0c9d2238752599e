"""This module makes a kit: a folder with all that a round needs on a bare GPU machine (no torch).

The folder is inside the checkout, and git ignores it.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from gpu.outputs import MIB
from gpu.setting import ARCHIVE, CHECKPOINT
from tp_vgg.errors import BadInput, WorkFailed

MOST = 60 * MIB
"""Most bytes that may be carried to the machine."""
MARK = ".made-by-gpu_round"
"""Name of the file that marks a folder as a kit, which may be replaced.

It holds the commit from which the kit was made."""
CARRIED = ("torch-pruning", "click", "nvidia-ml-py")
"""Requirements that the machine may lack or have too old, all of pure Python.

The machine must have torch."""


def prepare(
    target: Path, root: Path, script: Path, data: Path, python: str, say: Callable[[str], None]
) -> None:
    """Make the kit in ``target`` and print how to use it.

    ``root``: the checkout. ``script``: experiments/gpu_round.py, with the package `gpu` beside it.
    ``data``: the folder of images and checkpoint. ``python``: the machine's version, such as 3.12.
    ``say`` prints a line. Raises :class:`BadInput` if the folder may not be written, and
    :class:`WorkFailed` if a download fails or there are over :data:`MOST` bytes to carry.
    """
    target = target.resolve()
    if (script.parent / MARK).is_file():
        raise BadInput(
            "--prepare: is done by the project's own experiments/gpu_round.py, and not by a kit's"
        )
    check_target(target, root)
    ignore(target, root)
    shutil.rmtree(target, ignore_errors=True)
    for folder in ("data", "wheels"):
        (target / folder).mkdir(parents=True)
    (target / MARK).write_text(commit_of(root, root))
    shutil.copyfile(script, target / script.name)
    shutil.copytree(
        script.parent / "gpu", target / "gpu", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in (ARCHIVE, CHECKPOINT):
        shutil.copyfile(data / name, target / "data" / name)
    download_wheels(target / "wheels", root, python)
    carried, kit, shared = tracked_bytes(root), folder_bytes(target), folder_bytes(root / "shared")
    say(", ".join(sorted(path.name for path in (target / "wheels").iterdir())))
    say(
        f"working tree {carried >> 10} KiB, kit {kit >> 10} KiB, shared/ {shared >> 10} KiB;"
        f" {MOST // MIB} MiB at most"
    )
    if carried + kit + shared > MOST:
        raise WorkFailed(
            f"{(carried + kit + shared) / MIB:.0f} MiB are to be carried, {MOST // MIB} at most"
        )
    place = target.relative_to(root) / script.name
    say(f"dry run here:        OUT=$(mktemp -d) python {place} --tiny")
    say(f"on the GPU machine:  OUT=DIRECTORY python3 {place} --minutes 9")


def check_target(target: Path, root: Path) -> None:
    """Raise :class:`BadInput` unless ``target`` is in the checkout, and new, empty or a kit."""
    if root not in target.parents:
        raise BadInput(f"--prepare: {target}: must lie inside the checkout {root}")
    if target.exists() and not (
        target.is_dir() and ((target / MARK).is_file() or not any(target.iterdir()))
    ):
        raise BadInput(f"--prepare: {target}: is there and is no earlier kit; give another folder")


def ignore(target: Path, root: Path) -> None:
    """Add the folder to the checkout's own list of ignored files (``info/exclude``)."""
    exclude = root / git(root, "rev-parse", "--git-path", "info/exclude").strip()
    line = f"/{target.relative_to(root).as_posix()}/"
    known = exclude.read_text() if exclude.is_file() else ""
    if line not in known.splitlines():
        exclude.parent.mkdir(parents=True, exist_ok=True)
        exclude.write_text(
            f"{known}{'' if not known or known.endswith(chr(10)) else chr(10)}{line}\n"
        )


def requirements(root: Path) -> list[str]:
    """Return the requirements of the carried packages, with the bounds in setup.cfg."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    texts = (config["options"]["install_requires"], config["options.extras_require"]["gpu"])
    lines = [line for text in texts for line in text.splitlines()]
    return [line for line in lines if re.split(r"[<>=!~ ]", line)[0] in CARRIED]


def download_wheels(folder: Path, root: Path, python: str) -> None:
    """Download the wheels of the carried packages, in pure Python, so that they run anywhere.

    Raises :class:`WorkFailed` if pip fails.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        python,
        "--implementation",
        "py",
        "--abi",
        "none",
        "--platform",
        "any",
        "-d",
        str(folder),
        *requirements(root),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WorkFailed(f"pip download failed: {reason}")


def git(root: Path, *arguments: str) -> str:
    """Run a git command and return its output; raise :class:`BadInput` if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        raise BadInput(f"--prepare: {root}: is not a git checkout") from None
    return done.stdout


def commit_of(root: Path, here: Path) -> str:
    """Return the commit of the code, with ``-dirty`` if it has changed since.

    The kit in ``here`` says it, or else git in ``root``; the result is empty if neither does.
    """
    if (here / MARK).is_file():
        return (here / MARK).read_text()
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def tracked_bytes(root: Path) -> int:
    """Sum the bytes of the files that git tracks or would add."""
    names = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return sum(
        (root / name).stat().st_size for name in set(names) if name and (root / name).is_file()
    )


def folder_bytes(folder: Path) -> int:
    """Sum the bytes of all files of a folder; 0 if there is no such folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
