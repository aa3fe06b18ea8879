"""The terminal's tally: counts, and the time that is left."""

import io

import pytest
from rich.console import Console

from flows.running.progress import Terminal, clock
from lensllm.store.artifacts import Recipe
from tasks.base.step import Step


def step(number: int, weight: float = 1.0, stage: str = "finetune") -> Step:
    return Step(f"{stage} {number}", Recipe(stage, 1, {"n": number}), weight=weight)


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def terminal(output: io.StringIO) -> Terminal:
    return Terminal(Console(file=output, width=80), slots=2)


def test_time_left_follows_the_pace_of_the_stage(terminal: Terminal):
    steps = [step(0, 10.0), step(1, 20.0), step(2, 30.0)]
    terminal.planned(steps)
    assert terminal.tally.seconds_left(2) is None  # no pace yet
    terminal.started(steps[0])
    terminal.finished(steps[0], 5.0, cached=False)
    assert terminal.tally.seconds_left(2) == pytest.approx(0.5 * 50 / 2)
    terminal.finished(steps[1], 0.0, cached=True)
    assert terminal.tally.seconds_left(2) == pytest.approx(0.5 * 30 / 2)


def test_a_stage_without_a_pace_hides_the_time_left(terminal: Terminal):
    terminal.planned([step(0), step(1, stage="kernel")])
    terminal.finished(step(0), 5.0, cached=False)
    assert terminal.tally.seconds_left(2) is None


def test_every_step_is_settled_once(terminal: Terminal, output: io.StringIO):
    steps = [step(n) for n in range(4)]
    terminal.planned(steps)
    terminal.started(steps[0])
    terminal.finished(steps[0], 1.0, cached=False)
    terminal.finished(steps[1], 0.0, cached=True)
    terminal.started(steps[2])
    terminal.failed(steps[2], "killed")
    terminal.skipped(steps[3])
    tally = terminal.tally
    assert (tally.settled, tally.planned, tally.running) == (4, {}, {})
    counts = (tally.computed, tally.cached, tally.failed, tally.skipped)
    assert [c.total() for c in counts] == [1, 1, 1, 1]
    assert "[1/4] finetune 0 (1.0 s)" in output.getvalue()
    assert "failed: finetune 2: killed" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00"), (75.4, "1:15"), (3599.6, "1:00:00"), (3700, "1:01:40")]
)
def test_clock(seconds: float, said: str):
    assert said == clock(seconds)
