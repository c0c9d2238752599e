"""Shorten slow work that a test is not about: drawing, time samples, wide networks."""

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
"""A valid PNG file."""
_LOADED = [0]


def settle() -> None:
    """Exclude the objects of imported libraries from garbage collection, which each stage runs."""
    if len(sys.modules) > _LOADED[0] + 30:
        gc.collect()
        gc.freeze()
        _LOADED[0] = len(sys.modules)


@contextmanager
def undrawn() -> Iterator[None]:
    """Make figures without drawing them."""
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
    """Time so briefly that the times mean nothing."""
    from tp_vgg.latency.clock import CpuClock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tp_vgg.latency.timing_device.CpuClock", lambda threads, *_: CpuClock(threads, 1e-4)
        )
        yield


@contextmanager
def thin() -> Iterator[None]:
    """Build preset networks a quarter as wide or less, instead of at full width."""
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
    """Read the digits only once."""
    from tp_vgg.data import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_digits", functools.cache(datasets._digits))
        yield
