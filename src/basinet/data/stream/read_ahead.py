"""The next piece of data is read in a thread while this one is used."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Place = TypeVar("Place")
Data = TypeVar("Data")


class ReadAhead(Generic[Place, Data]):
    """Reads the data of a place in a thread.

    A thread and not a process: what takes time (waiting for the disk, copying rows) lets other threads run, and batches
    from another process would be copied once more. What is given does not depend on it. An error in the thread is
    raised when its data is asked for.
    """

    def __init__(self, read: Callable[[Place], Data]) -> None:
        self._read = read
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[Place, Future[Data]] | None = None

    def begin(self, place: Place) -> None:
        """Begin to read, unless it is begun; what was begun for another place is forgotten."""
        if self._ahead is not None and self._ahead[0] == place:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead = (place, self._thread.submit(self._read, place))

    def take(self, place: Place) -> Data | None:
        """Return the data of a place once, when it is there; ``None`` if that was not what was begun."""
        known, self._ahead = self._ahead, None
        return known[1].result() if known is not None and known[0] == place else None
