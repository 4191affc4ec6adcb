"""Parts of one large generation, each made on its own, and the lock that keeps two processes out of one store."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from basinet.errors import RunError

LOCK_FILE = ".lock"
SHARD = "shard"
"""Setting of a store that is a part of a generation: which, as ``i/n``."""


@dataclass(frozen=True)
class Part:
    """The number ``number`` of ``of`` parts, counted from 1.

    >>> [Part.parse(text).range(10) for text in ("1/3", "2/3", "3/3")]
    [range(0, 3), range(3, 6), range(6, 10)]
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read ``i/n``.

        Raises:
            ValueError: it is not that, or ``i`` is not one of 1 to ``n``.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, flags=re.ASCII)
        part = cls(int(match[1]), int(match[2])) if match else None
        if part is None or not 1 <= part.number <= part.of:
            raise ValueError(f"shard {text!r} is not i/n with i from 1 to n, such as 1/8 to 8/8")
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def range(self, total: int) -> range:
        """Return the indices of this part of ``total``: contiguous, and all parts alike but for one."""
        return range((self.number - 1) * total // self.of, self.number * total // self.of)


WHOLE = Part(1, 1)
"""Not divided."""


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep other processes from writing to the store in a directory, which is made if it is not there.

    The lock is the operating system's: it goes with the process, however that ends.

    Raises:
        RunError: another process has it.
        FileExistsError: the path is a file.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose another path for the store")
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{path} is being written by another process; wait until it has ended, or choose another path"
        ) from None
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows deletes no open file
            (path / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
        if not any(path.iterdir()):
            path.rmdir()
