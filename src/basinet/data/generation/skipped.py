"""The list of what a generation lost: one line for each molecule, conformer or run of frames, with its reason."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from basinet.files import replacing

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
        joined.flush()
        os.fsync(joined.fileno())


def _cut(path: Path, first_undone: int) -> None:
    """Keep the header and the whole lines of places before ``first_undone``."""
    with replacing(path) as temporary, open(temporary, "wb") as kept, open(path, "rb") as stream:
        kept.write(",".join(HEADER).encode() + b"\n")
        stream.readline()
        for line in stream:
            place = line.partition(b",")[0]
            if line.endswith(b"\n") and place.isdigit() and int(place) < first_undone:
                kept.write(line)
        kept.flush()
        os.fsync(kept.fileno())
