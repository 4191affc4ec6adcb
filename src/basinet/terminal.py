"""What the commands show: progress bars, tables, one-line errors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


class Show(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Show that ``done`` of ``total`` is done; ``None`` if nobody knows how much there is to do."""
        ...


@contextmanager
def progress(title: str) -> Iterator[Show]:
    """Show one bar with rate and remaining time, moving to and fro until it knows how much there is to do.

    Where the output is not a screen, print a line now and then.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, note="", rate="")
        lines = _Lines(title)
        if not console.is_terminal:
            console.print(title, markup=False, soft_wrap=True)

        def show(done: int, total: int | None, note: str = "") -> None:
            speed = next(t.speed for t in bar.tasks if t.id == task)
            bar.update(task, completed=done, total=total, note=note, rate=f"{speed:.1f}/s" if speed else "")
            if not console.is_terminal:
                lines.show(done, total, note)

        yield show


SHOWN_EVERY = 600.0
"""Seconds, at most, between two lines in a log file, if there is anything to say."""


class _Lines:
    """Progress for a log file: a line at every tenth and every ten minutes, with the time that is left.

    If the end is not known, a line whenever twice as much is done.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.tenth = -1
        self.next = 1000
        self.shown = monotonic()
        self.first: tuple[float, float] | None = None

    def show(self, done: int, total: int | None, note: str) -> None:
        if total is None:
            if done >= self.next:
                self.next = 2 * done
                console.print(f"{self.title} {done:g} {note}", soft_wrap=True)
            return
        now = monotonic()
        self.first = self.first or (now, done)
        tenth = int(10 * done / total) if total else 10
        if tenth != self.tenth or now - self.shown >= SHOWN_EVERY:
            self.tenth, self.shown = tenth, now
            left = remaining(now - self.first[0], done - self.first[1], total - done)
            console.print(f"{self.title} {done:g}/{total:g} {note}{left}", soft_wrap=True)


def remaining(elapsed: float, done: float | int, left: float | int) -> str:
    """Say how long the rest takes at the rate so far, or nothing if that is not known or under a minute.

    >>> remaining(3600.0, 100, 250)
    ', 2 h 30 min left'
    """
    if done <= 0 or (seconds := elapsed / done * left) < 60:
        return ""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f", {hours} h {minutes} min left" if hours else f", {minutes} min left"


def say(line: str) -> None:
    """Print one line of text as it is."""
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
    """Print checks with verdict, evidence and, on a line of its own, what to do."""
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
