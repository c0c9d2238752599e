"""A message that says `pip install` names packages that setup.cfg knows, and works anywhere.

tp_vgg is on no index: `pip install 'tp_vgg[export]'` fails in a clone and everywhere else.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from tp_vgg.errors import BadInput, missing_packages
from tp_vgg.network.export import ONNX, export

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"pip install ([^\n`;(){}]+)")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Names of all packages that tp_vgg or one of its extras requires."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = "\n".join(lists).split()
    return {re.split(r"[<>=~! ]", line)[0] for line in lines}


def packages(text: str) -> list[str]:
    """Return the words behind each `pip install` in a text."""
    return [word.strip(".,") for line in LINE.findall(text) for word in line.split()]


def test_each_line_in_the_source_names_known_packages(known: set[str]) -> None:
    sources = [
        path for path in (ROOT / "tp_vgg").rglob("*.*") if path.suffix in (".py", ".html", ".js")
    ]
    literal = {word for path in sources for word in packages(path.read_text())}
    assert literal and literal <= known


@pytest.mark.parametrize("names", [ONNX, ("tensorboard",)], ids=str)
def test_a_message_names_what_is_missing_and_nothing_else(
    names: tuple[str, ...], known: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not missing_packages(*names)
    for present in range(len(names)):
        missing = names[present:]
        monkeypatch.setattr(
            "importlib.util.find_spec",
            lambda name, missing=missing: None if name in missing else object(),
        )
        message = missing_packages(*names)
        assert packages(message) == list(missing) and set(missing) <= known
        assert message.startswith(", ".join(missing)) and not set(message) & set("'\"[]")


def test_an_export_asks_for_all_that_it_needs_at_once(
    make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BadInput, match="pip install onnx onnxscript onnxruntime"):
        export(make_model(), tmp_path / "m.onnx", "onnx")
    assert not list(tmp_path.iterdir())
