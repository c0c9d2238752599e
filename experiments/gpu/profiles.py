"""This step makes staircase profiles: the time of every conv over a coarse grid of widths."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gpu.common import DEVICE, SETTING, TINY, attempt, finish, left, say
from tp_vgg.latency.staircase import Grid
from tp_vgg.latency.table import cases_of
from tp_vgg.report.latency_tables import render_profile
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import BenchmarkOptions
from tp_vgg.stages.profile import profile

GRID = Grid(16, 2) if TINY else Grid(8, 4)
SIZES = (2,) if TINY else (64, 1024)
DTYPE = "bf16" if DEVICE.type == "cuda" else "fp32"


def profiled(size: int) -> dict[str, Any]:
    """Profile one batch size; return each conv's times at its full input.

    The times are pairs of output width and median microseconds, by layer.
    """
    settings = Settings(
        dataset=SETTING.dataset,
        data_dir=SETTING.images,
        out=Path(SETTING.work) / "runs" / "profile",
        checkpoint=SETTING.dense,
        device=SETTING.device,
        quiet=True,
    )
    (table,) = profile(settings, BenchmarkOptions(cases_of(("folded",), (DTYPE,), (size,))), GRID)
    say(render_profile(table))
    layers = {
        layer: [
            (point.out_width, round(point.median_us, 3)) for point in table.at_full_input(layer)
        ]
        for layer in table.layers
    }
    return {"dtype": DTYPE, "batch": size, "points": len(table.points), "at_full_input_us": layers}


if __name__ == "__main__":
    for batch in SIZES:
        if left() > 8:
            attempt("profile", f"{DTYPE}, batch {batch}", partial(profiled, batch))
    finish()
