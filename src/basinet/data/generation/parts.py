"""Divide a generation into parts, lock its store against a second writer, and list its failures."""

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
"""Setting of a store that is a part of a generation: ``i/n``."""


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``of``, counted from 1.

    >>> [Part.parse(text).range(10) for text in ("1/3", "2/3", "3/3")]
    [range(0, 3), range(3, 6), range(6, 10)]
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read ``i/n``.

        Raises:
            ValueError: it is not ``i/n`` with ``i`` from 1 to ``n``.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, flags=re.ASCII)
        part = cls(int(match[1]), int(match[2])) if match else None
        if part is None or not 1 <= part.number <= part.of:
            raise ValueError(f"shard {text!r} is not i/n with i from 1 to n, such as 1/8 to 8/8")
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def range(self, total: int) -> range:
        """Return the indices of this part of ``total``: contiguous; sizes of parts differ by at most one."""
        return range((self.number - 1) * total // self.of, self.number * total // self.of)


UNDIVIDED = Part(1, 1)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Lock the store in a directory, which is created if missing, against other writers.

    The operating system releases the lock when the process ends, however it ends.

    Raises:
        RunError: another process has the lock.
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
            f"{path} is being written by another process; wait until it ends, or choose another path"
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
    """A molecule, conformer or frames that could not be made."""

    kind: Literal["molecule", "conformer", "frame"]
    reason: str
    """Short reason, the same for all failures of its kind."""
    n: int = 1
    detail: str = ""
    """Error message of the calculator, if any."""

    @property
    def counted_as(self) -> str:
        """Name in the counts of the manifest."""
        return self.reason if self.kind == "molecule" else f"{self.kind}: {self.reason}"


class Row(NamedTuple):
    """A row of the list."""

    place: int
    smiles: str
    lost: Lost


class SkippedList:
    """CSV file beside a store; after an interruption it is cut back to the molecules of the store."""

    def __init__(self, store: Path, first_undone: int) -> None:
        """Open the list of a store; drop rows of places from ``first_undone`` on."""
        self._path = store / SKIPPED_FILE
        if self._path.exists():
            _cut(self._path, first_undone)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; the file is created with the first one."""
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
    """Write one list from those of the given stores, in their order, if any has one."""
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
    """Keep the header and the complete rows of places before ``first_undone``."""
    with replacing(path) as temporary, open(temporary, "wb") as kept, open(path, "rb") as stream:
        kept.write(",".join(HEADER).encode() + b"\n")
        stream.readline()
        for line in stream:
            place = line.partition(b",")[0]
            if line.endswith(b"\n") and place.isdigit() and int(place) < first_undone:
                kept.write(line)
