"""Small real networks and data for all tests; every run directory is a temporary one."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers import quick
from helpers.commands import QUICK
from helpers.networks import VARIANTS, lively

from tp_vgg.network.vgg.spec import VGGSpec

if TYPE_CHECKING:
    from tp_vgg.network.vgg.model import VGG

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is one worker per core: more threads would wait for each other. OpenMP reads this when
    # torch is first imported, so nothing that is imported above may import it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = ("test_readme_guide_and_reference_run_in_order", "test_its_outputs_are_current")
"""Tests of several minutes. They start first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.name not in LONGEST)


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def settled() -> None:
    quick.settle()


@pytest.fixture(params=VARIANTS, ids=str)
def spec(request: pytest.FixtureRequest) -> VGGSpec:
    return VARIANTS[request.param]


@pytest.fixture
def make_model() -> Callable:
    return lively


@pytest.fixture(scope="session")
def digits():
    import torch

    from tp_vgg.data.datasets import load_data

    return load_data("digits", Path("unused"), torch.device("cpu"))


@pytest.fixture(scope="session")
def few_digits():
    import torch

    from tp_vgg.data.datasets import load_data

    return load_data("digits", Path("unused"), torch.device("cpu"), limits=(96, 40, 40))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """An ImageFolder of a dark and a light class, in several modes and sizes."""
    from PIL import Image

    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for label, name in enumerate(("dark", "light")):
            directory = root / split / name
            directory.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (40, 32 + i, 3), dtype=np.uint8) + np.uint8(
                    130 * label
                )
                mode = ("RGB", "L", "RGBA", "P")[i % 4]
                Image.fromarray(pixels).convert(mode).save(directory / f"{i}.png")
    return root


@pytest.fixture
def plan_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a plan (an object, or raw text or bytes) and return its path."""

    def write(content: object, name: str = "ratios.json") -> Path:
        path = tmp_path / name
        raw = (
            content
            if isinstance(content, bytes)
            else (content if isinstance(content, str) else json.dumps(content)).encode()
        )
        path.write_bytes(raw)
        return path

    return write


@pytest.fixture(scope="session")
def tp_vgg() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a user does, in a process of its own."""

    def run(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tp_vgg", *map(str, args)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **env},
            check=False,
        )

    return run


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


@pytest.fixture(scope="session")
def read_digits() -> Callable:
    """A function that reads the digits once per process."""
    from tp_vgg.data import datasets

    return functools.cache(datasets._digits)


@pytest.fixture
def undrawn() -> Iterator[None]:
    with quick.undrawn():
        yield


@pytest.fixture
def brief() -> Iterator[None]:
    with quick.brief():
        yield


@pytest.fixture
def thin() -> Iterator[None]:
    with quick.thin():
        yield


@pytest.fixture
def call(
    at_home: Path,
    capsys: pytest.CaptureFixture[str],
    read_digits: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable:
    """Run a command in this process: (exit status, stdout, stderr)."""
    monkeypatch.setattr("tp_vgg.data.datasets._digits", read_digits)

    def run(*args: object) -> tuple[int, str, str]:
        from tp_vgg import cli

        capsys.readouterr()
        status = cli.execute([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def small(make_model, tmp_path: Path) -> list:
    """Options that start from a thin dense checkpoint, on few digits."""
    from tp_vgg.network.checkpoint import save

    save(make_model(), tmp_path / "small.pth")
    return ["--dataset", "digits", *QUICK[4:], "--checkpoint", tmp_path / "small.pth"]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the bytes of each file were hashed, by any code."""
    import hashlib

    counts: Counter[str] = Counter()
    real = hashlib.file_digest

    def counted(file, name: str):
        counts[Path(file.name).name] += 1
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return counts


@pytest.fixture(scope="session")
def trained(digits) -> Callable[[VGGSpec], VGG]:
    """A network that has learned digits well enough for its counts to mean something."""
    import torch
    from helpers.training import fit

    from tp_vgg.network.vgg.model import build
    from tp_vgg.training.recipe import Recipe

    held: dict[VGGSpec, VGG] = {}

    def train(spec: VGGSpec, epochs: int | None = None) -> VGG:
        if spec not in held:
            torch.manual_seed(0)
            model = build(spec)
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    # With the default initialisation so thin a head learns nothing in 3 epochs.
                    torch.nn.init.kaiming_normal_(module.weight)
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            model.meta = {
                "mean": list(digits.normalisation.mean),
                "std": list(digits.normalisation.std),
            }
            epochs = epochs or (3 if spec.batch_norm else 6)  # slower without batch norm
            recipe = Recipe(epochs=epochs, lr=0.02, batch_size=64, seed=0)
            fit(model, digits, recipe)
            held[spec] = model.eval()
        return held[spec]

    return train
