"""What takes long and is not the point of a test is made short: drawing, samples of time, wide networks."""

from __future__ import annotations

import base64
import functools
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""A whole PNG."""
_LOADED = [0]


def settle() -> None:
    """What libraries are made of is not looked through at each collection of garbage, as it is at the start and end of every stage."""
    if len(sys.modules) > _LOADED[0] + 30:
        gc.collect()
        gc.freeze()
        _LOADED[0] = len(sys.modules)


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures are made, but take no time to be drawn."""
    from markupsafe import Markup

    from tp_vgg.files.atomic import write_atomic

    def save(_: object, path: Path) -> None:
        write_atomic(path, lambda file: file.write(PIXEL))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tp_vgg.report.page.inline_svg", lambda *_: Markup("<svg></svg>"))
        patch.setattr("tp_vgg.stages.outputs.save_png", save)
        yield


@contextmanager
def brief() -> Iterator[None]:
    """What is timed is timed too briefly to be judged."""
    from tp_vgg.latency.clock import CpuClock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tp_vgg.latency.timing_device.CpuClock", lambda threads, *_: CpuClock(threads, 1e-4)
        )
        yield


@contextmanager
def thin() -> Iterator[None]:
    """Networks that no checkpoint gives are a tenth as wide or less."""
    from tp_vgg.network.vgg.spec import VGGSpec

    preset = VGGSpec.preset

    def narrow(*args: object, **options: object) -> VGGSpec:
        spec = preset(*args, **options)
        return replace(spec, hidden=(96,) * len(spec.hidden))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tp_vgg.network.vgg.spec.STAGE_WIDTHS", (16, 24, 32, 40, 48))
        patch.setattr(VGGSpec, "preset", narrow)
        yield


@contextmanager
def digits_once() -> Iterator[None]:
    """The digits are read once."""
    from tp_vgg.data import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_digits", functools.cache(datasets._digits))
        yield
