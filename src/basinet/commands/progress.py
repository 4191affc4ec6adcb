"""Callbacks with which a command reports what it does."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Called with lines about what is being done."""
Show = Callable[[int, int | None, str], None]
"""Called with what is done, of how much (``None``: unknown), and a note."""


def silent(line: str) -> None:
    """Say nothing."""


def hidden(done: int, total: int | None, note: str) -> None:
    """Show nothing."""
