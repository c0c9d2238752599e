"""These classes are the steps of `run` and their progress: what begins, and the time to go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import duration

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A step is one part of the pipeline."""

    name: str
    run: Callable[[Settings], object]
    """Does the step with the settings of `run`. It calls their ``begin`` if there is work to do."""
    images: Callable[[Mapping[str, int]], float] = lambda _: 0.0
    """Rough number of forward passes of single images through the dense network, from the sizes of
    the splits; the remaining time is estimated from it."""


class Progress:
    """Progress counts the steps that had work to do, and says when one begins.

    The remaining time is estimated after ``min_images`` images.
    """

    def __init__(self, steps: Sequence[Step], min_images: int) -> None:
        self.steps, self.min_images, self.start = steps, min_images, time.monotonic()
        self.seconds = self.images = 0.0
        self.sizes: Mapping[str, int] = {}
        self.worked: set[int] = set()

    def do(self, number: int, settings: Settings) -> None:
        """Do one step; ``number`` counts from 0."""
        step, start = self.steps[number], time.monotonic()
        result = step.run(replace(settings, begin=lambda: self.begin(number)))
        if isinstance(result, ModelRecord):
            self.sizes = result.data
        if number in self.worked:
            self.seconds += time.monotonic() - start
            self.images += step.images(self.sizes)

    def begin(self, number: int) -> None:
        """Log that a step begins, with the time so far and an estimate of the time to go."""
        if number in self.worked:
            return
        self.worked.add(number)
        so_far, to_go = duration(time.monotonic() - self.start), ""
        enough = self.images >= self.min_images
        if images := sum(step.images(self.sizes) for step in self.steps[number:] if enough):
            to_go = f", about {duration(images * self.seconds / self.images)} to go"
        name = self.steps[number].name
        log.info(f"[{number + 1}/{len(self.steps)}] {name}: {so_far} so far{to_go}")

    def summary(self) -> str:
        """Return a note on the steps that were done before; empty if there were none."""
        total, before = len(self.steps), len(self.steps) - len(self.worked)
        if before == total:
            return f"all {total} steps were done before; nothing was computed again"
        return f"{before} of {total} steps were done before" if before else ""
