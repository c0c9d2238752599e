"""The published sdist has all files, the wheel has the package; both install offline."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = (
    "import sys; from setuptools import build_meta as b; to = sys.argv[1]; "
    "b.build_sdist(to); b.build_wheel(to)"
)
PAGE = {
    "tp_vgg/report/page.html",
    "tp_vgg/report/page.css",
    "tp_vgg/report/page.js",
    "tp_vgg/py.typed",
}


def tracked() -> set[str]:
    found = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip("not a git checkout")
    return {name for name in found.stdout.split("\0") if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist and the wheel of the tracked files, built by setuptools without a network."""
    pytest.importorskip("setuptools")
    base = tmp_path_factory.mktemp("packaging")
    for name in tracked():
        (base / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, base / "source" / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, base],
        cwd=base / "source",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {"sdist": next(base.glob("*.tar.gz")), "wheel": next(base.glob("*.whl"))}


def test_the_sdist_has_every_tracked_file(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked() <= names
    assert names >= {"LICENSE", "README.md", "examples/ratios.json", *PAGE}


def test_the_wheel_has_what_runs_and_no_more(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = set(archive.namelist())
    assert {name for name in tracked() if name.startswith("tp_vgg/")} | PAGE <= names
    assert {name.split("/", 1)[1] for name in names if ".data/" in name} == {
        f"data/share/tp_vgg/{name}" for name in tracked() if name.startswith("examples/")
    }
    assert any(name.endswith("/LICENSE") for name in names)
    tops = {name.partition("/")[0].partition("-")[0] for name in names}
    assert tops == {"tp_vgg"}, "nothing at the top that another package may have"


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_what_was_built_installs_and_runs(
    kind: str, built: dict[str, Path], tmp_path: Path, tp_vgg
) -> None:
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    installed = tmp_path / "installed"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            *options,
            "--target",
            installed,
            built[kind],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tp_vgg" in tp_vgg("--help", cwd=tmp_path, PYTHONPATH=str(installed)).stdout
    plan = installed / "share" / "tp_vgg" / "examples" / "ratios.json"
    done = tp_vgg(
        "structured", "--ratios", plan, "--dry-run", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "total" in done.stdout
    probe = "import tp_vgg, tp_vgg.report.page as page; print(tp_vgg.__file__); page.render"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(str(installed)), done.stderr


def test_every_import_is_a_dependency() -> None:
    """Imports at any depth of the package are in install_requires or in an extra."""
    import ast
    import configparser
    import re

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["install_requires"]
    for extra in ("export", "tensorboard"):
        listed += config["options.extras_require"][extra]
    names = {
        re.split(r"[<>=!~]", line)[0].lower().replace("-", "_") for line in listed.split() if line
    }
    names = {{"scikit_learn": "sklearn", "pillow": "pil"}.get(name, name) for name in names}
    found = set()
    for path in (ROOT / "tp_vgg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    assert {name.lower() for name in found - set(sys.stdlib_module_names) - {"tp_vgg"}} <= names
