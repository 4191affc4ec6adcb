"""Read the blocks of code in the pages."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "methods").glob("*.md"),
    ]
)
COMMANDS = ("bash", "python")
"""Languages of blocks that are run, unless a comment before them says ``<!-- not run: reason -->``."""


class Block(NamedTuple):
    """A block of a page."""

    language: str
    text: str
    reason: str | None
    """Why it is not run; ``None`` if it is."""


def blocks_of(page: Path) -> list[Block]:
    """Return all fenced blocks of a page, in order."""
    found, lines = [], iter(page.read_text().splitlines())
    before = ""
    for line in lines:
        opened = re.fullmatch(r"(`{3,}|:{3,})(\{?[\w-]*\}?).*", line)
        if opened and line.startswith("`"):
            text = []
            for inner in lines:
                if inner.startswith(opened[1]):
                    break
                text.append(inner)
            reason = re.fullmatch(r"<!-- not run: (.+) -->", before.strip())
            found.append(Block(opened[2], "\n".join(text), reason[1] if reason else None))
        if line.strip():
            before = line
    return found


def commands_in(text: str) -> list[list[str]]:
    """Return the commands of a shell block, split into words, without comments."""
    lines = [line.split(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]
