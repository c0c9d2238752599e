"""The steps of `run`: a heading for work only, and the time to go."""

from __future__ import annotations

import logging

import pytest

from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.run_steps import Progress, Step


def done(works: list[bool], caplog: pytest.LogCaptureFixture) -> list[str]:
    """Do steps, some of which have work to do; return the notes and the summary."""

    def step(number: int) -> Step:
        def run(settings: Settings) -> None:
            if works[number]:
                settings.begin_work()
                settings.begin_work()

        return Step(f"step {number}", run, lambda _: 10.0)

    progress = Progress([step(number) for number in range(len(works))], 5)
    with caplog.at_level(logging.INFO, "tp_vgg"):
        for number in range(len(works)):
            progress.do(number, Settings())
    return [*caplog.messages, progress.summary()]


@pytest.mark.parametrize(
    ("works", "said"),
    [
        (
            [True, True],
            ["[1/2] step 0: 1 s so far", "[2/2] step 1: 1 s so far, about 1 s to go", ""],
        ),
        ([False, True], ["[2/2] step 1: 1 s so far", "1 of 2 steps were done before"]),
        ([False] * 3, ["all 3 steps were done before; nothing was computed again"]),
    ],
)
def test_a_step_that_has_nothing_to_do_is_not_announced(works, said, caplog) -> None:
    assert done(works, caplog) == said


def test_a_command_by_itself_has_no_steps() -> None:
    Settings().begin_work()
