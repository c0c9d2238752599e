"""A plan file (ratios.json) is read, validated and resolved against a spec here.

Resolving gives the target widths (structured) or the number of weights to zero (unstructured).

This module does not import torch.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from tp_vgg.errors import BadInput, first_of, shown
from tp_vgg.files.checks import choice, mapping, plain_number, sequence, type_name
from tp_vgg.files.fingerprint import text_fingerprint
from tp_vgg.files.read import as_path, read_json
from tp_vgg.network.spec import Spec, conv_names
from tp_vgg.pruning.criteria import Kind

MAX_BYTES = 1 << 20
"""Largest plan file that is read, in bytes."""


@dataclass(frozen=True)
class Plan:
    """A plan gives each layer that it names a ratio (structured) or a sparsity (unstructured)."""

    values: Mapping[str, float]
    """Fractions in [0, 1), by torchvision's module names."""
    source: str
    """Name of the plan in messages: its file, or the option that gave one value for all layers."""

    def __repr__(self) -> str:
        values = [f"{_shown(layer)} {value:g}" for layer, value in self.values.items()]
        return f"<Plan {shown(self.source)}: {len(values)} layers: {first_of(values, 4)}>"

    @classmethod
    def of(cls, values: Mapping[str, float], source: str) -> Plan:
        """Make a plan from a mapping of layer names to fractions.

        Scalars of NumPy and torch are numbers too. Raises :class:`BadInput` if a value is not a
        number in [0, 1).
        """
        entries = mapping(f'{source}: must be an object such as {{"features.0": 0.3}}', values)
        for layer in entries:
            if not isinstance(layer, str):
                raise BadInput(
                    f"{source}: {shown(layer)}: {type_name(layer)}, not the name of a layer such "
                    "as 'features.0'"
                )
        return cls(
            {
                layer: fraction(f"{source}: {_shown(layer)}", value)
                for layer, value in entries.items()
            },
            source,
        )

    @classmethod
    def uniform(cls, value: float, layers: tuple[str, ...], source: str) -> Plan:
        """Make a plan with the same ``value`` for each of ``layers``.

        Raises :class:`BadInput` if it is not a number in [0, 1).
        """
        return cls(dict.fromkeys(layers, fraction(f"{source}: every layer", value)), source)


def read_ratios(
    path: str | Path, kind: Kind = "structured", *, plan_dirs: tuple[Path, ...] = ()
) -> Plan:
    """Read and validate a plan file.

    Layer names are checked later, by :func:`check_layers`, :func:`resolve` and
    :func:`resolve_sparsity`. ``kind`` is the kind of pruning that the plan will be used for.
    ``tp_vgg plan`` lists the SHA-256 of its plan files by kind in ``plan.json``. A file is refused
    if the ``plan.json`` beside it (or in one of ``plan_dirs``) lists it for the other kind alone.

    Raises :class:`BadInput`, with a message of one line, for the first fault.
    """
    choice("kind", kind, get_args(Kind))
    directories = sequence(
        "plan_dirs", plan_dirs, "[Path('runs/a')]", partial(as_path, name="plan_dirs")
    )
    path = as_path(path)
    text = _read_text(path)

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise BadInput(f"{path}: {_shown(key)}: named twice; keep one")
            seen[key] = value
        return seen

    def no_constant(name: str) -> float:
        raise BadInput(f"{path}: {name} is not a number; give a value in [0, 1)")

    try:
        data = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        where = (
            f" (line {error.lineno}, column {error.colno})"
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        raise BadInput(
            f'{path}: not JSON{where}; write an object such as {{"features.0": 0.3}}'
        ) from None
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{path}: not JSON (a number too long to read); give values in [0, 1)"
        ) from None
    if not isinstance(data, dict):
        raise BadInput(
            f'{path}: must be an object such as {{"features.0": 0.3}}, got {type_name(data)}'
        )
    plan = Plan.of(data, str(path))
    _check_kind(path, text, kind, directories)
    return plan


def plan_files(directory: Path) -> dict[Kind, list[str]]:
    """Return the SHA-256 of every plan file that ``tp_vgg plan`` wrote, by kind of pruning.

    They are read from ``plan.json`` in the run's ``directory``; the result is empty if that file is
    missing or damaged.
    """
    try:
        files = (read_json(directory / "plan.json") or {}).get("files")
    except BadInput:
        files = None
    digests = files if isinstance(files, dict) else {}
    return {
        kind: [digest for digest in digests[kind] if isinstance(digest, str)]
        for kind in get_args(Kind)
        if isinstance(digests.get(kind), list)
    }


def check_layers(plan: Plan, spec: Spec) -> None:
    """Raise :class:`BadInput` for the first layer that ``spec`` lacks or that can't be pruned."""
    for layer in plan.values:
        if layer in spec.prunable:
            continue
        if layer == spec.rows[-1].name:
            raise BadInput(
                f"{plan.source}: {_shown(layer)}: the last linear layer gives the classes "
                "and can't be pruned; leave it out of the plan"
            )
        near = difflib.get_close_matches(layer[:80], spec.prunable, n=3, cutoff=0.0)
        raise BadInput(
            f"{plan.source}: {_shown(layer)}: no prunable layer of {spec.arch} "
            f"with the {spec.head} head; nearest: {', '.join(near)}"
        )


def resolve(plan: Plan, spec: Spec, round_to: int = 1) -> Spec:
    """Return ``spec`` with the widths that remain after structured pruning by ``plan``.

    ``floor(ratio · width + 0.5)`` channels of each named layer are removed. Then the number of kept
    channels is rounded up to a multiple of ``round_to``, but never above the width.
    Raises :class:`BadInput` for unknown layers and for a ratio that would remove every channel.
    """
    check_layers(plan, spec)
    targets = {}
    for layer, ratio in plan.values.items():
        width = spec.prunable[layer]
        kept = width - math.floor(ratio * width + 0.5)
        if kept == 0:
            raise BadInput(
                f"{plan.source}: {layer}: ratio {ratio:g} would remove all {width} channels; "
                "give a smaller one"
            )
        targets[layer] = min(width, -(-kept // round_to) * round_to)
    return spec.with_widths(targets)


def unremoved_note(plan: Plan, spec: Spec, target: Spec, round_to: int = 1) -> str:
    """Return a sentence on the layers that keep all channels against the plan; empty if none.

    ``target``: the spec that :func:`resolve` returned for the plan and ``round_to``. A plan that
    removes nothing at all is told too.
    """
    kept = [
        layer
        for layer, ratio in plan.values.items()
        if ratio and target.prunable[layer] == spec.prunable[layer]
    ]
    rounded = [layer for layer in kept if plan.values[layer] * spec.prunable[layer] >= 0.5]
    reason = (
        f"the kept channels are rounded up to a multiple of {round_to} (--round-to)"
        if rounded
        else "their ratios are below half a channel"
    )
    if any(target.prunable[layer] < width for layer, width in spec.prunable.items()):
        return f"no channel is removed from {first_of(kept)}: {reason}" if kept else ""
    if not any(plan.values.values()):
        reason = "every ratio is 0" if plan.values else "it names no layer"
    return f"{plan.source}: no channel is removed: {reason}"


def resolve_sparsity(plan: Plan, spec: Spec) -> dict[str, int]:
    """Return the number of weights to zero in each named layer.

    It is ``round(sparsity · numel)``, as ``torch.nn.utils.prune`` counts.
    Raises :class:`BadInput` for unknown layers and for a value that would zero a whole layer.
    """
    check_layers(plan, spec)
    numel = {row.name: row.weights for row in spec.rows}
    zeroed = {layer: round(value * numel[layer]) for layer, value in plan.values.items()}
    for layer, zeros in zeroed.items():
        if zeros == numel[layer]:
            raise BadInput(
                f"{plan.source}: {layer}: sparsity {plan.values[layer]:g} would zero all "
                f"{zeros} weights; give a smaller one"
            )
    return zeroed


def removals(
    kind: Kind, spec: Spec, levels: Sequence[float], layers: Sequence[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the number of channels or weights that a sweep removes from each layer at each level.

    Structured sweeps remove channels; unstructured ones zero weights. The layers come in the
    network's order, each with one number per level. ``layers=None`` means every conv.
    Raises :class:`BadInput` for unknown layers, for levels that are not distinct numbers in [0, 1),
    and for a level that would leave nothing of a layer.
    """
    if not levels or len(set(levels)) < len(levels):
        raise BadInput("--levels: give distinct fractions in [0, 1), such as 0.1,0.5,0.9")
    selected = conv_names(spec) if layers is None else layers
    if not selected:
        raise BadInput("--layers: names none; leave it out for every conv")
    check_layers(Plan(dict.fromkeys(selected, 0.0), "--layers"), spec)
    removed: dict[str, tuple[int, ...]] = {}
    for layer in (name for name in spec.prunable if name in selected):
        plans = [Plan.of({layer: level}, "--levels") for level in levels]
        if kind == "structured":
            removed[layer] = tuple(
                spec.prunable[layer] - resolve(plan, spec).prunable[layer] for plan in plans
            )
        else:
            removed[layer] = tuple(resolve_sparsity(plan, spec)[layer] for plan in plans)
    return removed


def _read_text(path: Path) -> str:
    try:
        if not path.is_file():
            raise BadInput(
                f"{path}: {'not a regular file' if path.exists() else 'no such file'}; "
                "give a plan such as examples/ratios.json"
            )
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: can't be read ({error.strerror})") from None
    if len(raw) > MAX_BYTES:
        raise BadInput(f"{path}: over 1 MiB; a plan has one short line per layer")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not JSON (not UTF-8 text)") from None


def fraction(where: str, value: object) -> float:
    """Return a number in [0, 1) as a float, from Python, NumPy or torch.

    Raises :class:`BadInput` for anything else; the message begins with ``where``.
    """
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{where}: must be a number in [0, 1), got {type_name(value)}")
    if value >= 1:
        raise BadInput(
            f"{where}: {_short(value)} is too large: 1 or more would leave nothing; "
            "give a fraction in [0, 1), such as 0.5"
        )
    if value < 0:
        raise BadInput(f"{where}: {_short(value)} is negative; give a fraction in [0, 1)")
    if not math.isfinite(value):
        raise BadInput(f"{where}: must be finite; give a fraction in [0, 1)")
    return float(value)


def _check_kind(path: Path, text: str, kind: Kind, plan_dirs: tuple[Path, ...]) -> None:
    digest = text_fingerprint(text)
    kinds = {
        written_for
        for directory in (path.parent, *plan_dirs)
        for written_for, digests in plan_files(directory).items()
        if digest in digests
    }
    other: Kind = "unstructured" if kind == "structured" else "structured"
    if kinds == {other}:  # the same ratios may be the best plan of both kinds
        raise BadInput(
            f"{path}: `plan` wrote it for {other} pruning; "
            f"give it to `python -m tp_vgg {other} --ratios`"
        )


def _shown(layer: str) -> str:
    """Return a layer name from a file in a form that fits on one terminal line."""
    return layer if layer.isprintable() and 0 < len(layer) <= 80 else ascii(layer[:80])[:80]


def _short(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e300 else "the value"
