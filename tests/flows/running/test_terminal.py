"""The terminal: nothing printed steers it; counts of a run, and the time that is left."""

import io

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.running.terminal import SafeConsole, Terminal, clock
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
    assert terminal.tally.seconds_left(2) is None  # no speed yet
    terminal.changed(steps[0], "running")
    terminal.changed(steps[0], "done", 5.0)
    assert terminal.tally.seconds_left(2) == pytest.approx(0.5 * 50 / 2)
    terminal.changed(steps[1], "cached")
    assert terminal.tally.seconds_left(2) == pytest.approx(0.5 * 30 / 2)


def test_a_stage_without_a_pace_hides_the_time_left(terminal: Terminal):
    terminal.planned([step(0), step(1, stage="kernel")])
    terminal.changed(step(0), "done", 5.0)
    assert terminal.tally.seconds_left(2) is None


def test_every_step_is_settled_once(terminal: Terminal, output: io.StringIO):
    steps = [step(n) for n in range(4)]
    terminal.planned(steps)
    terminal.changed(steps[0], "running")
    terminal.changed(steps[0], "done", 1.0)
    terminal.changed(steps[1], "cached")
    terminal.changed(steps[2], "running")
    terminal.changed(steps[2], "failed", text="killed")
    terminal.changed(steps[3], "skipped")
    tally = terminal.tally
    assert (tally.settled, tally.planned, tally.running) == (4, {}, {})
    counts = (tally.done, tally.cached, tally.failed, tally.skipped)
    assert [c.total() for c in counts] == [1, 1, 1, 1]
    assert "[1/4] finetune 0 (1.0 s)" in output.getvalue()
    assert "failed: finetune 2: killed" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00"), (75.4, "1:15"), (3599.6, "1:00:00"), (3700, "1:01:40")]
)
def test_clock(seconds: float, said: str):
    assert said == clock(seconds)


def shown(*what: object) -> str:
    stream = io.StringIO()
    SafeConsole(file=stream, width=80, force_terminal=True, color_system="truecolor").print(*what)
    return stream.getvalue()


def test_control_characters_of_texts_are_shown_and_styles_still_work() -> None:
    hostile = "a\x1b]0;title\x07b\x9b31mc\u202ed\re"
    table = Table()
    table.add_column("name")
    table.add_row(Text(hostile, style="bold"))
    for said in (shown(hostile), shown(Text(hostile)), shown(table)):
        assert "\x1b]" not in said
        assert not {"\x07", "\x9b", "\u202e", "\r"} & {*said}
    assert "\x1b[1m" in shown(table)
    assert shown("tab\tand\nline").split() == ["tab", "and", "line"]


def test_secrets_are_masked() -> None:
    said = shown("at http://me:pass@host")
    assert "http://***@host" in said
    assert "pass" not in said
