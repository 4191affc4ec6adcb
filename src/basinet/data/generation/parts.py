"""Parts of one large generation, each made on its own, and the lock that keeps two processes out of one store."""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock, Timeout

from basinet.errors import RunError
from basinet.files import replacing

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


SKIPPED_FILE = "skipped.csv"
HEADER = ("place", "smiles", "lost", "n", "reason", "detail")


class Lost(NamedTuple):
    """Something of a molecule that could not be made."""

    kind: Literal["molecule", "conformer", "frame"]
    reason: str
    """Short, and the same for all that are lost for it."""
    n: int = 1
    detail: str = ""
    """What the calculator said, if it said something."""

    @property
    def counted_as(self) -> str:
        """What it is called in the counts of the manifest."""
        return self.reason if self.kind == "molecule" else f"{self.kind}: {self.reason}"


class Row(NamedTuple):
    """A line of the list."""

    place: int
    smiles: str
    lost: Lost


class SkippedList:
    """A file that grows beside a store and, after an interruption, goes back to what the store has."""

    def __init__(self, store: Path, first_undone: int) -> None:
        """Open the list of a store, without the lines of places from ``first_undone`` on."""
        self._path = store / SKIPPED_FILE
        if self._path.exists():
            _cut(self._path, first_undone)

    def add(self, rows: Iterable[Row]) -> None:
        """Append lines; without any, there need not be a file.

        Raises:
            OSError: they could not be written; what was there before is not lost.
        """
        stream: io.TextIOWrapper | None = None
        try:
            for place, smiles, lost in rows:
                if stream is None:
                    is_new = not self._path.exists()
                    stream = open(self._path, "a", encoding="utf-8", newline="")  # noqa: SIM115
                    if is_new:
                        csv.writer(stream, lineterminator="\n").writerow(HEADER)
                detail = " ".join(lost.detail.split())
                line = (place, smiles, lost.kind, lost.n, lost.reason, detail)
                csv.writer(stream, lineterminator="\n").writerow(line)
            if stream is not None:
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            if stream is not None:
                stream.close()


def join_lists(stores: Iterable[Path], out: Path) -> None:
    """Write one list from those of the given stores, in their order; none if none of them has one."""
    lists = [store / SKIPPED_FILE for store in stores if (store / SKIPPED_FILE).exists()]
    if not lists:
        return
    with replacing(out / SKIPPED_FILE) as temporary, open(temporary, "wb") as joined:
        for number, path in enumerate(lists):
            with open(path, "rb") as stream:
                header = stream.readline()
                if number == 0:
                    joined.write(header)
                joined.writelines(stream)


def _cut(path: Path, first_undone: int) -> None:
    """Keep the header and the whole lines of places before ``first_undone``."""
    with replacing(path) as temporary, open(temporary, "wb") as kept, open(path, "rb") as stream:
        kept.write(",".join(HEADER).encode() + b"\n")
        stream.readline()
        for line in stream:
            place = line.partition(b",")[0]
            if line.endswith(b"\n") and place.isdigit() and int(place) < first_undone:
                kept.write(line)
