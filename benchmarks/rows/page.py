"""The table as text and in the documentation, and what it was measured on."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from rows.stock import versions
from rows.timing import Line

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "LD_PRELOAD")
"""Variables that decide whether large blocks go back to the kernel."""
HEADER = ("what", "ours", "against", "theirs", "ours takes", "ratio (quartiles)", "reach (aim)", "remarks")


def machine(load_before: float, rounds: int) -> str:
    """Return a sentence that says where and how everything was measured."""
    given = [f"{name}={os.environ[name]}" for name in MALLOC if os.environ.get(name)]
    peers = ", ".join(f"{name} {number}" for name, number in versions().items())
    malloc = " ".join(given) or f"as the system has it ({'-'.join(platform.libc_ver())})"
    load = f"load {load_before:.1f} before and {os.getloadavg()[0]:.1f} after"
    return (
        f"{_processor()}, {os.cpu_count()} cores, one thread; {load}; malloc: {malloc}, the same "
        f"on both sides; Python {platform.python_version()}, torch {torch.__version__}, {peers} (-: not installed). "
        f"Contenders take turns in one process, {rounds} rounds after two that do not count; times are medians, ratios "
        "medians of the ratio within a round."
    )


def table(lines: Sequence[Line]) -> str:
    """Return lines as a table in Markdown."""
    rows = [HEADER, tuple("---" for _ in HEADER), *(_cells(line) for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write(name: str, text: str) -> None:
    """Put text between the markers of this name in the page."""
    begin, end = f"<!-- {name}: begin, written by a program -->", f"<!-- {name}: end -->"
    old = PAGE.read_text()
    if old.count(begin) != 1 or old.count(end) != 1:
        raise ValueError(f"{PAGE} must have these two lines once, to write between them: {begin} and {end}")
    head, rest = old.split(begin)
    PAGE.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


def _cells(line: Line) -> tuple[str, ...]:
    if line.ratio is None or line.our_cost is None or line.peer_cost is None:
        return line.what, line.ours, line.peer, "", "", "", line.reach, line.note
    spread = f" ({line.spread[0]:.2f} to {line.spread[1]:.2f})" if line.spread else ""
    costs = [
        f"{cost:.3g} {line.unit}" if cost < 1000 else f"{cost:.0f} {line.unit}"
        for cost in (line.peer_cost, line.our_cost)
    ]
    return line.what, line.ours, line.peer, *costs, f"**{line.ratio:.2f}**{spread}", line.reach, line.note


def _processor() -> str:
    """Return the name of the processor."""
    for text in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if text.startswith("model name"):
            return text.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
