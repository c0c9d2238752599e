"""This step times repairs of pruned copies of the dense model, beside epochs of fine-tuning."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from repair_speed import measure

from gpu.common import DEVICE, TINY, attempt, dense_model, finish, images, left

CASES = ("channels=0.5",) if TINY else ("channels=0.3", "channels=0.5", "zeros=0.95")
IMAGES, TRIALS, BATCHES = (20, 1, 1) if TINY else (1000, 5, 40)


def repaired(case: str) -> dict[str, Any]:
    """Repair in turns with fine-tuning; the first turn, which chooses kernels, is not counted."""
    found = measure(MODEL, DATA, case, IMAGES, TRIALS + 1, BATCHES)
    cold, *warm = found["seconds"]["repair"]
    return {
        "case": case,
        "images": IMAGES,
        "trials": TRIALS,
        "cold": cold,
        "seconds": statistics.median(warm),
        "epoch": statistics.median(found["seconds"]["epoch"][1:]),
        "peak_bytes": found["peak_bytes"],
        "test": len(DATA.test),
        **{name: found[name] for name in ("dense", "removed", "repaired")},
    }


if __name__ == "__main__":
    MODEL, DATA = dense_model().to(DEVICE), images()
    for pruning in CASES:
        if left() > 8:
            attempt("repair", pruning, partial(repaired, pruning))
    finish()
