"""Turn Ctrl-C and SIGTERM into a request to stop after the current step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from basinet.errors import RunError


class InterruptedRunError(RunError):
    """The run was stopped by a signal, and its state is saved."""


class StopRequest:
    """Flag that is set by the first signal."""

    def __init__(self) -> None:
        self.is_set = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one acts as usual.

    Outside the main thread, where Python allows no signal handlers, the request is never set.
    """
    request = StopRequest()
    previous: dict[signal.Signals, signal.Handlers | int | None] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        request.is_set = True
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            previous[signum] = signal.getsignal(signum)  # pyright: ignore[reportArgumentType]
            signal.signal(signum, ask)
    except ValueError:
        previous.clear()
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
