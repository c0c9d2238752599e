"""Only models of one dense model, measured on the same test images, stand in one table.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.network.families import spec_from_dict
from tp_vgg.rundir.layout import MODELS


def comparable_models(
    dense: Sequence[ModelRecord],
    pruned: Mapping[str, ModelRecord],
    file_fault: Callable[[ModelRecord], str],
    root: Path,
) -> tuple[dict[str, ModelRecord], dict[str, str]]:
    """Return the records that stand in one table, the baseline first, and what is left out.

    ``dense``: the candidates for the baseline. ``pruned``: the other records by model.
    ``file_fault``: tells why a record does not describe its file; empty if it does. ``root``: the
    run directory, for messages. What is left out has a reason for each model; it may be the
    baseline itself.
    """
    baseline = _baseline(dense, list(pruned.values()), file_fault)
    records = {MODELS[0]: baseline, **pruned}
    faults = {
        name: fault
        for name, record in records.items()
        if (fault := file_fault(record) or _fault(name, records, dense, root))
    }
    return {name: record for name, record in records.items() if name not in faults}, faults


def _baseline(
    dense: Sequence[ModelRecord],
    pruned: Sequence[ModelRecord],
    file_fault: Callable[[ModelRecord], str],
) -> ModelRecord:
    """Return the dense model of the table.

    Dense models of which there is a pruned one come first, then those with the most test images; of
    equals, that of the pruned model that is last in the order of the tables, and then the run
    directory's own.
    """
    order = {record.comparable: position for position, record in enumerate(pruned)}
    current = [record for record in dense if not file_fault(record)] or dense
    return max(
        current,
        key=lambda record: (
            record.comparable in order,
            record.test.n,
            order.get(record.comparable, 0),
        ),
    )


def _fault(
    name: str, records: Mapping[str, ModelRecord], dense: Sequence[ModelRecord], root: Path
) -> str:
    """Return the reason why a record can't stand beside the baseline's; empty if it can."""
    record, baseline = records[name], records[MODELS[0]]
    if record is baseline:
        return ""
    if spec_from_dict(record.spec).prunable.keys() != spec_from_dict(baseline.spec).prunable.keys():
        return "is of another architecture than the baseline: left out; run its stage again"
    if record.baseline != baseline.sha256:
        other = next((one for one in dense if one.sha256 == record.baseline), None)
        return "was pruned from another baseline: left out; " + (
            "run its stage again"
            if other is None
            else f"`compare --checkpoint {root / other.checkpoint}` shows it"
        )
    if record.test_images != baseline.test_images:
        return (
            f"was measured on other test images than the baseline (n = {record.test.n}, not"
            f" {baseline.test.n}): left out; `compare --limit-test {record.test.n}` shows it"
            if record.test.n != baseline.test.n
            else "was measured on other test images than the baseline: left out;"
            " run its stage again"
        )
    if record.comparable != baseline.comparable:
        return (
            "was measured with another normalisation than the baseline: left out;"
            " run its stage again"
        )
    pruned = records.get("structured_pruned")
    if name == "structured_finetuned" and pruned is not None and pruned.key != record.key:
        return "was made with other settings than structured_pruned: left out"
    return ""
