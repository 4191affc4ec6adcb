"""Show progress, tables and messages of the commands."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table
from rich.text import Text

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

LINE_EVERY = 60.0
"""Seconds between two progress lines in a file or a pipe."""
RATE_OVER = 120.0
"""Seconds over which the rate is measured, at least."""


Show = Callable[..., None]
"""Updates progress: ``show(done, total, note="")``; a total of ``None`` is not known."""


@contextmanager
def progress(title: str, unit: str = "", clock: Callable[[], float] = monotonic) -> Iterator[Show]:
    """Show what is done, the rate and the time left: on one line of a terminal, or a line a minute in a file or pipe.

    Args:
        title: of what is in progress.
        unit: of what is counted, in the plural.
        clock: returns seconds.
    """
    line = ProgressLine(title, unit, clock)
    if not console.is_terminal:
        yield from _printed(line, clock)
        return
    text = TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    with Progress(SpinnerColumn(finished_text=" "), text, console=console) as display:
        task = display.add_task(title, total=1, line=title)

        def show(done: int, total: int | None, note: str = "") -> None:
            line.update(done, total, note)
            display.update(task, line=str(line))

        yield show
        display.update(task, completed=1, line=line.finished())


def _printed(line: "ProgressLine", clock: Callable[[], float]) -> Iterator[Show]:
    say(line.title)
    printed = clock()

    def show(done: int, total: int | None, note: str = "") -> None:
        nonlocal printed
        line.update(done, total, note)
        if clock() - printed >= LINE_EVERY:
            printed = clock()
            say(str(line))

    yield show
    say(line.finished())


class ProgressLine:
    """One line about a task: ``training  1,200/5,000  24.1 steps/s  2 min 38 s left  force MAE 45.1 meV/Å``."""

    def __init__(self, title: str, unit: str, clock: Callable[[], float]) -> None:
        self.title, self.unit, self.clock = title, unit, clock
        self.begin = clock()
        self.done: int | None = None
        self.total: int | None = None
        self.note = ""
        # What was done at earlier times. The rate of a resumed task does not count what was done before it.
        self.marks: deque[tuple[float, int]] = deque()

    def update(self, done: int, total: int | None, note: str) -> None:
        """Take what is done by now."""
        if self.done is not None and done < self.done:
            self.marks.clear()  # the next part of the task counts from the start
        now = self.clock()
        self.done, self.total, self.note = done, total, note
        if not self.marks or now - self.marks[-1][0] >= 1:
            self.marks.append((now, done))
        while len(self.marks) > 2 and now - self.marks[1][0] > RATE_OVER:
            self.marks.popleft()

    @property
    def rate(self) -> float:
        """What is done in a second; 0 if it is not known yet."""
        if self.done is None or not self.marks:
            return 0.0
        time, done = self.marks[0]
        seconds = self.clock() - time
        return (self.done - done) / seconds if seconds > 0 else 0.0

    def __str__(self) -> str:
        """Return the line."""
        parts = [self.title, self._count()]
        if (rate := self.rate) > 0 and self.done is not None:
            parts.append(_rate(rate, self.unit))
            if self.total is not None and self.total > self.done:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        return "  ".join(filter(None, [*parts, self.note]))

    def finished(self) -> str:
        """Return the line at the end, with the time it took."""
        return "  ".join(filter(None, [self.title, self._count(), duration(self.clock() - self.begin), self.note]))

    def _count(self) -> str:
        if self.done is None:
            return ""
        return f"{self.done:,} {self.unit}".rstrip() if self.total is None else f"{self.done:,}/{self.total:,}"


def _rate(per_second: float, unit: str) -> str:
    for factor, time in ((1, "s"), (60, "min")):
        if per_second * factor >= 1:
            return f"{per_second * factor:,.3g} {unit}/{time}" if per_second < 1000 else f"{per_second:,.0f} {unit}/s"
    return f"{per_second * 3600:.3g} {unit}/h"


def duration(seconds: float) -> str:
    """Return a time in the two largest units.

    >>> duration(9000.0), duration(158.2), duration(4.4)
    ('2 h 30 min', '2 min 38 s', '4 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def say(line: str) -> None:
    """Print one line of text."""
    console.print(line, markup=False, soft_wrap=True)


def columns(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of numbers under a header."""
    grid = Table(title=title, title_justify="left")
    for name in header:
        grid.add_column(name, justify="right")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def table(title: str, rows: Mapping[str, str]) -> None:
    """Print names and values."""
    grid = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        grid.add_row(name, value)
    console.print(grid)


VERDICT_STYLE = {"ok": "green", "warning": "yellow", "fault": "bold red", "not checked": "dim"}


def findings(title: str, rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Print checks with verdict, evidence and, on a line of its own, the remedy."""
    grid = Table(title=title, title_justify="left")
    grid.add_column("check")
    grid.add_column("verdict", no_wrap=True)
    grid.add_column("evidence")
    for check, verdict, evidence, fix in rows:
        text = Text(evidence)
        if fix:
            text.append(f"\n→ {fix}", style="bold")
        grid.add_row(Text(check), Text(verdict, style=VERDICT_STYLE[verdict]), text)
    console.print(grid)
