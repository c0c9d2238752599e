"""States of a run directory ``o``, and the files around it that command lines may name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from helpers.networks import SMALL, lively

SWEEP = ["--levels", "0.25,0.5,0.9"]
"""Options of a sweep that does not say its levels."""


@dataclass(frozen=True)
class State:
    """A state is a run directory ``o`` that command lines made from that of another state."""

    parent: str | None = None
    lines: tuple[str, ...] = ()
    spoil: Callable[[Path], object] = lambda _: None
    """Change the run directory by hand after the lines."""
    unfinished: bool = False
    """The lines leave their unfinished work too, as if they were killed at the end."""


def damage_record(out: Path) -> None:
    path = out / "records/structured_pruned.json"
    path.write_bytes(path.read_bytes()[:200])


def own_plan(out: Path) -> None:
    (out / "ratios.json").write_text('{"features.4": 0.25}\n')


def half_written(out: Path) -> None:
    (out / "report.html.a1b2c3d4.partial").write_text("<html>")


WHOLE = (
    "sensitivity --kind structured", "sensitivity --kind unstructured",
    "plan --budget macs=0.5 --round-to 1", "plan --kind unstructured --budget macs=0.5",
    "unstructured --ratios o/sparsity.json",
    "structured --ratios o/ratios.json --finetune-epochs 1",
    "benchmark --modes folded --dtypes fp32 --batch-sizes 1 --trials 9",
    "compare", "report",
)  # fmt: skip
STATES = {
    "whole": State("trained", WHOLE),
    "tagged": State("whole", (
        "structured --ratio 0.25 --finetune-epochs 1 --tag t",
        "sensitivity --kind structured --tag t --layers features.4,features.8 --levels 0.5",
        "plan --budget macs=0.95 --round-to 1 --tag t",
        "benchmark --modes folded --dtypes fp32 --batch-sizes 1 --trials 9 --tag t",
    )),
    "empty": State(),
    "unfinished": State("whole", (
        "structured --ratio 0.5 --finetune-epochs 1 --tag t",
        "sensitivity --kind structured --layers features.4 --levels 0.5 --tag t",
        "unstructured --sparsity 0.5 --finetune-epochs 1 --tag t",
    ), half_written, unfinished=True),
    "own plan": State("whole", spoil=own_plan),
    "foreign": State("trained", (
        "structured --ratio 0.5 --finetune-epochs 1 --checkpoint foreign.pth",
        "sensitivity --kind structured --levels 0.5 --checkpoint foreign.pth",
    )),
    "trained": State("empty", ("train --epochs 1",)),
    "damaged": State("whole", spoil=damage_record),
    "pruned": State("trained", ("structured --ratio 0.5 --finetune-epochs 1",)),
}  # fmt: skip
"""The states, those that find most first."""


def lay_inputs() -> None:
    """Write the files that lines name: plans, checkpoints and pictures, good and bad."""
    import torch
    from PIL import Image

    from tp_vgg.network.checkpoint import save

    for name, text in {
        "good": '{"features.4": 0.5, "features.8": 0.25}',
        "mild": '{"features.0": 0.1}',
        "zeros": '{"features.11": 0.0}',
        "nan": '{"features.0": NaN}',
        "unknown": '{"features.1": 0.5}',
        "list": "[0.5]",
        "all": '{"features.0": 0.9999}',
    }.items():
        path = Path("plans", f"{name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    Path("empty").write_bytes(b"")
    Path("notes.txt").write_text("my notes\n")
    spec = replace(SMALL, hidden=())
    torch.save(lively(spec).state_dict(), "foreign.pth")
    save(lively(spec, seed=1), "other.pth")
    Path("torn.pth").write_bytes(Path("other.pth").read_bytes()[:5000])
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for label in ("dark", "light"):
            folder = Path("pictures", split, label)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels + np.uint8(130 * (label == "light"))).save(
                    folder / f"{i}.png"
                )
