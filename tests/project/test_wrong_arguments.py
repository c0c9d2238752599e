"""Every public call refuses arguments of a wrong kind in one line, before it changes anything.

The calls and their parameters are read from the signatures. A name that ``import tp_vgg`` gives
must be in :data:`CALLS`, and what is right for its parameters in :data:`LEGAL`.
"""

from __future__ import annotations

import functools
import inspect
import io
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import SMALL, lively
from helpers.wrong_kinds import MODULES, PLAIN, paths
from torch import nn

import tp_vgg
from tp_vgg.data import Split
from tp_vgg.errors import BadInput, printable
from tp_vgg.network.vgg.spec import VGGSpec


def _split() -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(8))


@functools.cache
def _table():
    return tp_vgg.sweep(lively(), _split(), levels=[0.5], layers=["features.0", "features.4"])


CALLS: dict[str, dict[str, Any]] = {
    "Split": {"images": _split().images, "labels": _split().labels},
    "VGGSpec": {"widths": SMALL.widths},
    "accuracy": {"model": lively, "images": _split},
    "build": {"spec": SMALL},
    "finetune": {"model": lively, "loader": _split, "epochs": 1},
    "from_torchvision": {"model": lambda: nn.Sequential(), "mean": [0.5] * 3, "std": [0.5] * 3},
    "held": {"model": lively},
    "load": {"path": "m.pth", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]},
    "load_data": {"name": "digits", "data_dir": "data", "device": "cpu"},
    "make_plan": {"table": lambda: _table(), "budget": {"macs": 0.9}},
    "measure_latency": {"models": lambda: {"dense": lively()}, "modes": ["eager"]},
    "prune_structured": {
        "model": lively,
        "ratios": {"features.0": 0.5},
        "importance": "obs",
        "images": _split,
    },
    "prune_unstructured": {"model": lively, "sparsity": 0.5},
    "read_ratios": {"path": "ratios.json"},
    "repair": {"model": lively, "dense": lively, "images": _split},
    "save": {"model": lively, "path": "saved.pth"},
    "sweep": {"model": lively, "split": _split, "levels": [0.5]},
}
"""Arguments that are right, by the name of the call. Functions make theirs anew."""
METHODS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "VGGSpec.preset": (lambda: VGGSpec.preset, {}),
    "VGGSpec.from_dict": (lambda: VGGSpec.from_dict, {"data": SMALL.to_dict()}),
    "VGGSpec.with_widths": (lambda: SMALL.with_widths, {"widths": {"features.0": 4}}),
    "Split.take": (lambda: _split().take, {"indices": [0, 1]}),
    "Split.blocks": (lambda: _split().blocks, {"size": 2}),
    "Sensitivity.of_layer": (lambda: _table().of_layer, {"layer": "features.0"}),
    "Sensitivity.cost_removed": (
        lambda: _table().cost_removed,
        {"point": lambda: _table().points[0]},
    ),
}
"""Methods of what the public calls return, with right arguments."""
FLAG = {"true", "false", "numpy bool"}
COUNT = {"int", "int enum", "numpy int"}
SEED = {"zero", *COUNT}
FRACTION = {"zero", "numpy float", "fraction 0d", "array 0d", "tensor 0d"}
POSITIVE = {
    "large",
    "float",
    "int",
    "int enum",
    "numpy int",
    "numpy float",
    "array 0d",
    "tensor 0d",
}
NEW_FILE = {"text", "text of its own", "lines", "missing file"}
ANY_PATH = {
    *NEW_FILE, "directory", "directory text", "below a file", "junk file", "junk text",
    "loop of links",
}  # fmt: skip
EMPTY = {"empty list", "empty array", "empty tensor", "empty sequence"}
IMAGES = {"labelled"}
ANY_NETWORK = {"network", "meta empty", "meta wrong", "kept wrong", "kept far"}
LEGAL: dict[str, set[str]] = {
    "VGGSpec.batch_norm": FLAG,
    "VGGSpec.hidden": EMPTY,
    "accuracy.model": {*ANY_NETWORK, "masked"} - {"meta empty", "meta wrong"},
    "accuracy.images": {"tensor pair"},
    "accuracy.normalisation": {"none"},
    "accuracy.label": {"empty text", "text", "long text", "nul", "surrogate", "lines",
                       "text of its own", "directory text", "junk text"},
    "build.spec": {"spec"},
    "data_dir": ANY_PATH,
    "device": {"device"},
    "distill_temperature": POSITIVE,
    "distill_weight": FRACTION,
    "epochs": COUNT,
    "batch_size": {"none", *COUNT},
    "finetune.model": {*ANY_NETWORK, "masked"} - {"meta empty", "meta wrong"},
    "finetune.teacher": {"none", *ANY_NETWORK, "masked"},
    "flip": FLAG,
    "move_zeros": FLAG,
    "from_torchvision.image_size": {"none"},
    "held.model": {*MODULES} - {"network class", "network on meta", "resnet18",
                                "torchvision vgg11_bn", "empty sequence", "state dict"},
    "indices": EMPTY,
    "journal": {"none", *NEW_FILE, "loop of links"},
    "label_smoothing": FRACTION,
    "layers": {"none"},
    "limit": COUNT,
    "limits": {"none"},
    "load.image_size": {"none"},
    "loader": {"tensor pair"},
    "lr": {"none", *POSITIVE},
    "make_plan.profile": {"none"},
    "make_plan.sweep": {"none", "empty dict", "dict of texts", "dict of objects", "nested dict",
                        "dict of NaN", "state dict"},
    "masks": FLAG,
    "num_classes": COUNT,
    "plan_dirs": {*EMPTY, "list of texts"},
    "probes": FLAG,
    "prune_structured.images": {"images", "tensor pair"},
    "prune_structured.model": {"network", "meta empty", "meta wrong"},
    "prune_unstructured.model": {*ANY_NETWORK, "half", "double", "masked"},
    "quiet": FLAG,
    "repair.dense": {"network", "meta empty", "meta wrong", "masked"},
    "repair.images": {"images", "tensor pair"},
    "repair.model": {"network", "masked"},
    "ratios": {"empty dict"},
    "recalibrate": {"none", "tensor pair"},
    "reconstruct": {"none", "images", "tensor pair"},
    "repair_linear": {"false"},
    "round_to": COUNT,
    "save.model": {*ANY_NETWORK, "half", "double", "masked", "wrapped", "other spec"}
    - {"meta empty", "meta wrong", "kept wrong", "kept far"},
    "save.path": {*ANY_PATH} - {"directory", "directory text", "below a file"},
    "seed": SEED,
    "size": {*COUNT},
    "skip_corrupt": FLAG,
    "sparsity": {*FRACTION, "empty dict"},
    "split": {"tensor pair"},
    "sweep.levels": {"array", "tensor"},
    "sweep.model": {"network", "kept wrong", "kept far"},
    "threads": {"none", *COUNT},
    "measure_latency.batch_sizes": {"none"},
    "trials": {"none"},
    "val": {"none", "tensor pair"},
    "VGGSpec.with_widths.widths": {"empty dict"},
}  # fmt: skip
"""The kinds that are right, by "call.parameter", or by "parameter" for any call."""
NETWORKS = ("model", "models", "teacher", "dense")
SOME_MODULES = ("network", "network class", "wrapped", "sequence", "state dict")
"""The modules that are tried for parameters that take no network."""
FEWEST = 60
"""Fewest wrong kinds that are left to try for each parameter."""
WORDS = {
    "VGGSpec.from_dict.data": "spec",
    "load_data.name": "data set",
    "measure_latency.modes": "modes|cases",
    "measure_latency.dtypes": "dtypes|cases",
    "measure_latency.batch_sizes": "batch.sizes|cases",
    "model": r"model|meta:|kept:|not a VGG|weight: is on the meta device",
}
"""Other words that name a parameter in a message, as a regular expression."""


def _parameters() -> Iterator[tuple[str, str]]:
    for name in tp_vgg.__all__:
        value = getattr(tp_vgg, name)
        if not (inspect.isclass(value) and issubclass(value, Exception)):
            yield from ((name, parameter) for parameter in inspect.signature(value).parameters)
    for name, (method, _) in METHODS.items():
        yield from ((name, parameter) for parameter in inspect.signature(method()).parameters)


def test_every_public_name_is_tried() -> None:
    names = {name for name, _ in _parameters()} - set(METHODS)
    assert not names - set(CALLS), "add the right arguments of the new call to CALLS"
    for name in names:
        required = {
            parameter.name
            for parameter in inspect.signature(getattr(tp_vgg, name)).parameters.values()
            if parameter.default is parameter.empty
        }
        assert required <= set(CALLS[name]), name


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wrong")
    tp_vgg.save(lively(), directory / "m.pth")
    (directory / "ratios.json").write_text('{"features.0": 0.5}')
    return directory


@functools.cache
def _module(kind: str) -> Any:
    return MODULES[kind]()


def _too_long(*_: object) -> None:
    raise AssertionError("over 10 seconds")


def _said(call: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """Return the message of the refusal, or what happened instead."""
    signal.alarm(10)
    try:
        call(**arguments)
    except BadInput as refusal:
        return str(refusal)
    except Exception as error:  # noqa: BLE001  that is what is looked for
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        return f"!! {type(error).__name__} {where} {error}"[:120]
    finally:
        signal.alarm(0)
    return "!! no refusal"


@pytest.mark.parametrize(("name", "parameter"), [*_parameters()], ids=str)
def test_a_wrong_kind_is_refused_in_one_line(
    name: str, parameter: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setattr("tp_vgg.latency.benchmark.measure", lambda *_, **__: None)
    monkeypatch.setattr("tp_vgg.data.datasets._digits", lambda *_: None)
    signal.signal(signal.SIGALRM, _too_long)
    method, given = METHODS.get(name, (lambda: getattr(tp_vgg, name), CALLS.get(name, {})))
    arguments = {
        key: value() if inspect.isfunction(value) else value for key, value in given.items()
    }
    directory = here / f"{name}-{parameter}"
    directory.mkdir()
    modules = MODULES if parameter in NETWORKS else SOME_MODULES
    kinds = {**PLAIN, **dict.fromkeys(modules), **paths(directory)}
    full = f"{name}.{parameter}"
    legal = LEGAL.get(full, LEGAL.get(parameter, set()))
    words = WORDS.get(full, WORDS.get(parameter, parameter.replace("_", "[_-]")))
    tried = [kind for kind in kinds if kind not in legal]
    assert len(tried) >= FEWEST
    wrong = []
    for kind in tried:
        value = _module(kind) if kind in MODULES else kinds[kind]()
        said = _said(method(), {**arguments, parameter: value})
        plain = said.replace(str(directory), "")
        place = printable(str(value)) if isinstance(value, str | Path) else parameter
        named = re.search(words, plain, re.I) or place in said or str(directory) in said
        if said.startswith("!!") or not said.isprintable() or len(plain) > 300 or not named:
            wrong.append(f"{kind}: {said}")
        if isinstance(value, io.IOBase):
            value.close()
    assert not wrong, "\n".join(wrong)
