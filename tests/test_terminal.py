"""Progress in a terminal and in a file, with a clock that stands still until it is moved."""

import io
import sys

import pytest
from rich.console import Console

from basinet import terminal
from basinet.cli.entry import replace_characters
from basinet.terminal import ProgressLine, duration, progress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def written_to(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=file, force_terminal=is_terminal, width=80, highlight=False))
    return file


def test_a_line_has_step_total_rate_time_left_and_note(clock: Clock) -> None:
    line = ProgressLine("training", "steps", clock)
    line.update(0, 5000, "")
    clock.seconds += 50
    line.update(1205, 5000, "force MAE 45.1 meV/Å")
    assert str(line) == "training  1,205/5,000  24.1 steps/s  2 min 37 s left  force MAE 45.1 meV/Å"
    assert len(str(line)) <= 80


def test_the_rate_of_a_resumed_task_counts_only_what_is_done_now(clock: Clock) -> None:
    line = ProgressLine("training", "steps", clock)
    line.update(900, 1000, "")
    clock.seconds += 10
    line.update(910, 1000, "")
    assert str(line) == "training  910/1,000  1 steps/s  1 min 30 s left"


def test_the_rate_is_that_of_the_last_minutes(clock: Clock) -> None:
    line = ProgressLine("training", "steps", clock)
    for done in range(10):  # slow: compiling
        line.update(done, 10_000, "")
        clock.seconds += 60
    for done in range(10, 3010):
        line.update(done, 10_000, "")
        clock.seconds += 0.1
    assert line.rate == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize(
    ("done", "seconds", "rate"), [(90, 60, "1.5 molecules/s"), (30, 60, "30 molecules/min"), (2, 7200, "1 molecules/h")]
)
def test_slow_rates_are_in_minutes_and_hours(done: int, seconds: float, rate: str, clock: Clock) -> None:
    line = ProgressLine("generating", "molecules", clock)
    line.update(0, 1000, "")
    clock.seconds += seconds
    line.update(done, 1000, "")
    assert f"  {rate}  " in str(line)


def test_without_a_total_there_is_no_time_left(clock: Clock) -> None:
    line = ProgressLine("predicting", "molecules", clock)
    line.update(0, None, "")
    clock.seconds += 10
    line.update(12_345, None, "3 failed")
    assert str(line) == "predicting  12,345 molecules  1,234 molecules/s  3 failed"


def test_a_file_gets_a_line_a_minute_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    file = written_to(monkeypatch, is_terminal=False)
    with progress("training", "steps", clock) as show:
        for step in range(1, 301):
            clock.seconds += 1
            show(step, 300, "loss 1")
    lines = file.getvalue().splitlines()
    assert lines[0] == "training"
    assert lines[1] == "training  60/300  1 steps/s  4 min 0 s left  loss 1"
    assert lines[-1] == "training  300/300  5 min 0 s  loss 1"
    assert len(lines) == 7


def test_a_file_gets_a_line_a_minute_however_slow_the_task_is(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    file = written_to(monkeypatch, is_terminal=False)
    with progress("generating", "molecules", clock) as show:
        for done in range(1, 11):
            clock.seconds += 42
            show(done, 1000)
    assert len(file.getvalue().splitlines()) == 1 + 5 + 1


def test_a_task_that_fails_has_no_line_at_the_end(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    file = written_to(monkeypatch, is_terminal=False)
    with pytest.raises(ValueError, match="stop"), progress("training", "steps", clock) as show:
        show(1, 2)
        raise ValueError("stop")
    assert file.getvalue() == "training\n"


def test_a_terminal_shows_one_line_of_80_columns(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    file = written_to(monkeypatch, is_terminal=True)
    with progress("training", "steps", clock) as show:
        show(0, 5000)
        clock.seconds += 100
        show(5000, 5000, "a note of more characters than there are columns, so that its end is not shown")
    shown = file.getvalue()
    assert "training  5,000/5,000  1 min 40 s  a note" in shown and "not shown" not in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (158.2, "2 min 38 s"), (3599.7, "1 h 0 min"), (9000, "2 h 30 min"), (200_000, "2 d 7 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(float(seconds)) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_an_output_cannot_hold_are_replaced(encoding, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    replace_characters()
    print("force 1 meV/Å → 2 σ ≤")
    output.flush()
    assert b"force 1 meV/" in output.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
