"""`report`: one page, drawn from the run directory alone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from tp_vgg import __version__, checkpoint, plots
from tp_vgg.errors import BadInput
from tp_vgg.history import Epoch, read_history
from tp_vgg.latencies import Staircase
from tp_vgg.model import VGG
from tp_vgg.records import ModelRecord, Sensitivity
from tp_vgg.report.page import Drawn, Findings, render
from tp_vgg.spec import Kind, VGGSpec
from tp_vgg.stages.compare import Comparison, compared
from tp_vgg.stages.plan import plan_path, read_plans, read_profiles, sweep_path
from tp_vgg.stages.session import load_given, stage
from tp_vgg.stages.settings import MODELS, RunDir, Settings, flags
from tp_vgg.storage import MAX_JSON, file_fingerprint, fingerprint, read_json, read_text, write_text

HISTORIES = {
    "baseline": "history.csv",
    "unstructured": "unstructured_history.csv",
    "structured_finetuned": "structured_history.csv",
}


@stage
def report(settings: Settings, *, anew: bool = True) -> Path:
    """Write ``report.html`` from what is there; unless ``anew``, only where it is not of the files as they are. Returns its path. Raises
    :class:`BadInput` where nothing has run yet."""
    asked, given = settings, load_given(settings)
    if given is not None:
        settings = settings.for_spec(given.spec)
    run = RunDir.of(settings)
    path = run.work / "report.html"
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; move it away")
    found = compared(settings, run)
    key = _key(asked, run, found)
    if not anew and path.is_file() and key in path.read_text("utf-8", "replace"):
        return path
    dense = found.records[MODELS[0]]
    sweeps, commands = {}, [record.command for record in found.records.values()]
    for kind in reversed(get_args(Kind)):
        record = _sweep(run, kind)
        if record is not None and record.get("weights") == dense.sha256 and record["spec"] == dense.spec:
            sweeps[kind] = Sensitivity.from_dict(record)
            commands.append(str(record.get("command", "")))
    prunable = VGGSpec.from_dict(dense.spec).prunable.keys()
    plans = {
        kind: plan
        for kind, plan in read_plans(run).items()
        if plan.sweep.get("weights") == dense.sha256 and plan.ratios.keys() <= prunable
    }
    commands += _planned(run) if plans else []
    profiles = list(read_profiles(run, VGGSpec.from_dict(dense.spec)).values())
    used = (plans["structured"].profile or {}).get("key") if "structured" in plans else None
    profile = next((table for table in profiles if table.key == used), profiles[0] if profiles else None)
    if found.latency is not None:
        commands.append(str(found.latency.conditions.get("command", "")))
    page = render(
        Findings(
            records=found.records,
            sweeps=sweeps,
            plans=plans,
            latency=found.latency if found.quoted() else None,
            quoted=found.quoted(),
            profile=profile,
            foreseen=tuple(one.line() for one in found.foreseen),
            drawn=tuple(
                tqdm(_drawn(run, found, sweeps, profile), "report", unit=" figures", disable=settings.quiet or None)
            ),
            prune_command=shlex.join(
                ["python", "-m", "tp_vgg", "structured", "--ratios", "ratios.json", *flags(asked), "--tag", "mine"]
            ),
            key=key,
            commands=tuple(dict.fromkeys(line for line in commands if line)),
        ),
        quiet=settings.quiet,
    )
    write_text(path, page)
    return path


def _key(asked: Settings, run: RunDir, found: Comparison) -> str:
    """Fingerprint of all that the page is drawn from."""
    work = dict.fromkeys((run.root, run.work))
    files = [
        path
        for directory in work
        for name in ("records", "profiles")
        for path in sorted((directory / name).glob("*.json"))
    ]
    files += [directory / name for directory in work for name in ("plan.json", "latency.json", *HISTORIES.values())]
    there = [[str(path), file_fingerprint(path)] for path in files if path.is_file()]
    return fingerprint(__version__, flags(asked), list(found.records), there)


def _sweep(run: RunDir, kind: Kind) -> dict[str, Any] | None:
    """The record of a finished sweep; ``None`` where there is none, or a damaged one."""
    try:
        record = read_json(sweep_path(run, kind))
        if record is not None:
            Sensitivity.from_dict(record)
    except (BadInput, TypeError, KeyError, ValueError):
        return None
    return record


def _planned(run: RunDir) -> list[str]:
    try:
        data = read_json(plan_path(run)) or {}
    except BadInput:
        return []
    return [str(one.get("command", "")) for one in (data.get("other"), data) if isinstance(one, dict)]


def _drawn(
    run: RunDir, found: Comparison, sweeps: dict[Kind, Sensitivity], profile: Staircase | None
) -> Iterator[Drawn]:
    """All figures that the run directory has the data of."""
    for kind, sweep in sweeps.items():
        yield Drawn.of(f"{kind}-sweep", f"{kind.capitalize()} sensitivity", _READING[kind], plots.sensitivity(sweep))
        yield Drawn.of(f"{kind}-cost", f"{kind.capitalize()} sensitivity by cost", _READING["cost"], plots.sensitivity_cost(sweep))  # fmt: skip
    if found.latency is not None and found.quoted():
        yield Drawn.of("latency", "Speed-up against the MAC ratio", _READING["latency"], plots.latency(found.latency))
    if profile is not None:
        yield Drawn.of(
            "staircase", "Time of each conv over its width", _READING["staircase"], plots.staircase([profile])
        )
    trainings = {name: epochs for name in found.records if (epochs := _history(run, name))}
    if trainings:
        yield Drawn.of("training", "Training curves", _READING["training"], plots.history(trainings))
    yield from _histograms(run, found.records)


_READING = {
    "structured": "One layer pruned at a time, without fine-tuning: each cell is the accuracy lost, in points. A row whose colour leaves that of 0 early is a sensitive layer.",
    "unstructured": "One layer's smallest weights set to zero at a time, without fine-tuning. The layer whose line falls first is the most sensitive.",
    "cost": "The same points against what they take out of the network: a line that stays high far to the right is where pruning is cheap.",
    "latency": "Points on the dashed line give all that their MACs promise; bars are 95 % intervals; below 1 is slower.",
    "staircase": "Flat parts cost the same at every width: removing channels there buys no time.",
    "training": "The dashed line is accuracy on augmented training images, the other on val; the epoch with the best val accuracy is kept.",
    "zeroed": "How many weights have which size, before and after, in the layer that lost the largest share. The bar in the middle is the zeros; the scale is logarithmic.",
    "removed": "The layer that lost the largest share. Left: how many weights have which size, before and after, on one logarithmic axis. Right: its filters by their L1 norm.",
}


def _history(run: RunDir, name: str) -> tuple[Epoch, ...]:
    if name not in HISTORIES:
        return ()
    try:
        path = (run.root if name == "baseline" else run.work) / HISTORIES[name]
        return read_history(read_text(path, MAX_JSON))
    except (OSError, TypeError, ValueError):
        return ()


def _histograms(run: RunDir, records: dict[str, ModelRecord]) -> Iterator[Drawn]:
    """Weights before and after of the layer that lost the largest share, of each kind of pruning."""
    dense = _loaded(run, records[MODELS[0]])
    if "unstructured" in records:
        sparsity = {
            name: share for name, share in records["unstructured"].sparsity.items() if name in dense.spec.prunable
        }
        layer = max(sparsity, key=lambda name: sparsity[name])
        masked = _loaded(run, records["unstructured"])
        figure = plots.masked_weights(_weights(dense, layer), _weights(masked, layer), layer)
        yield Drawn.of("zeroed", f"Weights of {layer}, unstructured", _READING["zeroed"], figure)
    if "structured_pruned" in records:
        pruned = _loaded(run, records["structured_pruned"])
        layer = min(dense.spec.prunable, key=lambda name: pruned.spec.prunable[name] / dense.spec.prunable[name])
        before = _weights(dense, layer)
        kept = pruned.kept.get(layer, list(range(len(before))))
        norms = np.abs(before).reshape(len(before), -1).sum(1)
        figure = plots.removed_filters(before, kept, norms, layer, "L1 norm")
        yield Drawn.of("removed", f"Filters of {layer}, structured", _READING["removed"], figure)


def _loaded(run: RunDir, record: ModelRecord) -> VGG:
    model = checkpoint.load(run.root / record.checkpoint)
    if model.spec.to_dict() != record.spec:
        raise BadInput(f"{run.root / record.checkpoint}: has other widths than its record says; run its stage again")
    return model


def _weights(model: Any, layer: str) -> np.ndarray:
    weights: np.ndarray = model.get_submodule(layer).weight.detach().numpy()
    return weights
