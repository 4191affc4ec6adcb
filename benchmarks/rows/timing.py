"""Times of programs that take turns in one process, and lines of a table made of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

SHORTEST_SAMPLE = 0.05
"""s. What takes less is called several times a round."""


class NotMeasured(Exception):  # noqa: N818 (it is no error: the line of the table says why there is no number)
    """A line of the table has no number, and this is why."""


class Line(NamedTuple):
    """One comparison."""

    what: str
    ours: str
    """Which form of ours."""
    peer: str
    reach: str
    """What was asked for."""
    our_cost: float | None = None
    """Median, in ``unit``; ``None``: not measured, and ``note`` says why."""
    peer_cost: float | None = None
    ratio: float | None = None
    """How many times less ours costs: median over rounds of the ratio within a round."""
    spread: tuple[float, float] | None = None
    """Quartiles of that ratio."""
    unit: str = "ms"
    note: str = ""
    """How far the outputs agree, or what else a reader must know."""


def race(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, round by round; the contenders take turns, and who begins changes every round.

    Everybody has two rounds before the clock counts: caches fill, code is compiled.
    """
    repeats: dict[str, int] = {}
    for name, run in contenders.items():
        run()
        repeats[name] = max(1, round(SHORTEST_SAMPLE / _seconds(run, 1)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        names = list(contenders)
        for name in names if turn % 2 else reversed(names):
            times[name].append(_seconds(contenders[name], repeats[name]))
    return times


def _seconds(run: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) / repeats


def compared(line: Line, ours: list[float], theirs: list[float]) -> Line:
    """Return a line with the numbers of two contenders that took turns, in ms."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return line._replace(
        our_cost=1e3 * statistics.median(ours),
        peer_cost=1e3 * statistics.median(theirs),
        ratio=middle,
        spread=(low, high),
    )


def not_measured(what: str, ours: str, peer: str, reach: str, why: object) -> Line:
    """Return a line without numbers."""
    return Line(what, ours, peer, reach, note=f"not measured: {' '.join(str(why).split())}")
