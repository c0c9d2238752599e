"""A file's object is searched here for the state dict of a network and what describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.bitmask import State
from tp_vgg.network.other_networks import some_names

WRAPPERS = (
    "state_dict", "model", "model_state_dict", "net",
    "model_state", "net_state_dict", "network", "network_state_dict", "module", "params",
    "weights", "ema", "ema_state_dict", "state_dict_ema", "model_ema", "params_ema", "shadow",
)  # fmt: skip
"""Names under which training scripts save a state dict; the first one that is there is taken."""
_LEVELS = 3
"""Limit on the levels of dicts around a state dict."""
_CLASSES = ("classes", "class_names", "class_to_idx")


@dataclass(frozen=True)
class Contents:
    """Contents are the tensors of one state dict, and what lies beside them in the file."""

    state: State
    notes: tuple[str, ...]
    """What was chosen and left out."""
    mean: list[float] | None = None
    std: list[float] | None = None
    classes: tuple[str, ...] = ()
    """Names of the classes; empty if the file has none."""


def state_dict_in(raw: object) -> Contents:
    """Return the state dict in the object that a file holds.

    Raises :class:`BadInput`, which says what the file holds instead.
    """
    notes: list[str] = []
    beside: dict[str, Any] = {}
    path = ""
    for _ in range(_LEVELS):
        if not isinstance(raw, dict):
            break
        name = _wrapper(raw)
        if name is None:
            break
        others = [key for key in raw if key != name]
        beside |= {key: raw[key] for key in others if isinstance(key, str)}
        path = f"{path}.{name}" if path else name
        rivals = [key for key in _reaching(raw) if key != name]
        notes.append(
            f"state dict: taken from {ascii(path)[:60]}"
            + (f"; the file also has {some_names(rivals)}, not read" if rivals else "")
        )
        raw = raw[name]
    if not _has_weights(raw):
        raise BadInput(f"no weights of a network: {_what(raw)}; give the state_dict of a VGG")
    assert isinstance(raw, dict)
    state = {name: value for name, value in raw.items() if isinstance(value, torch.Tensor)}
    rest = [name for name in raw if name not in state]
    wrong = [
        name
        for name in raw
        if not isinstance(name, str)
        or (name in rest and name.rpartition(".")[2] in ("weight", "bias"))
    ]
    if wrong:
        raise BadInput(f"state_dict: {some_names(wrong)}: must be a name with a tensor")
    if rest:
        notes.append(f"entries beside the weights not read: {some_names(rest)}")
        beside |= {name: raw[name] for name in rest}
    mean, std = _triple(beside.get("mean")), _triple(beside.get("std"))
    if mean is None or std is None:
        mean = std = None
    return Contents(state, tuple(notes), mean, std, _classes(beside))


def _wrapper(raw: Mapping[Any, Any]) -> str | None:
    """Return the name of the entry that holds the state dict; None if ``raw`` itself may be it."""
    reaching = _reaching(raw)
    for name in WRAPPERS:
        if name in reaching:
            return name
    if _has_weights(raw):
        return None
    if len(reaching) > 1:
        raise BadInput(
            f"several state dicts: {some_names(reaching)}; save the network's one alone: "
            "torch.save(model.state_dict(), ...)"
        )
    return reaching[0] if reaching else None


def _has_weights(value: object) -> bool:
    """Return True if ``value`` may be a state dict: it names a matrix or a conv's kernel."""
    return isinstance(value, dict) and any(
        isinstance(name, str) and isinstance(entry, torch.Tensor) and entry.ndim in (2, 4)
        for name, entry in value.items()
    )


def _reaching(raw: Mapping[Any, Any]) -> list[str]:
    """Return the names of the entries that are a state dict, or a dict around one."""
    verdicts: dict[tuple[int, int], bool] = {}

    def reaches(value: object, levels: int) -> bool:
        if not isinstance(value, dict) or "param_groups" in value:
            return False
        key = (id(value), levels)  # an entry may be there many times
        if key not in verdicts:
            verdicts[key] = _has_weights(value) or (
                levels > 1
                and any(
                    isinstance(name, str) and reaches(entry, levels - 1)
                    for name, entry in value.items()
                )
            )
        return verdicts[key]

    return [
        name for name, value in raw.items() if isinstance(name, str) and reaches(value, _LEVELS)
    ]


def _what(raw: object) -> str:
    """Say what an object without weights is."""
    if isinstance(raw, torch.Tensor):
        return f"the file holds one tensor of shape {list(raw.shape)}"
    if not isinstance(raw, dict):
        length = f" of {len(raw)}" if isinstance(raw, list | tuple) else ""
        return f"the file holds a value of type {type(raw).__name__}{length}, not a dict"
    if not raw:
        return "the file holds an empty dict"
    if "param_groups" in raw:
        return "the file holds the state dict of an optimizer"
    return f"the file holds only {some_names(list(raw))}"


def _triple(value: object) -> list[float] | None:
    """Return three numbers as floats; None if ``value`` is anything else."""
    if isinstance(value, torch.Tensor) and value.numel() == 3 and not value.is_complex():
        value = value.flatten().tolist()
    if (
        not isinstance(value, list | tuple)
        or len(value) != 3
        or not all(type(number) in (int, float) for number in value)
    ):
        return None
    return [float(number) for number in value]


def _classes(beside: Mapping[str, Any]) -> tuple[str, ...]:
    for name in _CLASSES:
        value = beside.get(name)
        if isinstance(value, dict) and all(type(index) is int for index in value.values()):
            value = sorted(value, key=value.__getitem__)
        if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
            return tuple(value)
    return ()
