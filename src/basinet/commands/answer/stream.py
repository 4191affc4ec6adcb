"""Answer about a file of any length, a chunk at a time, in constant memory; an interrupted file is resumed."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from basinet.commands.answer.halving import Halving, OutOfMemoryError
from basinet.commands.answer.records import Record, TableOptions, count_records, read_records
from basinet.commands.progress import Say, Show, hidden, silent
from basinet.data.readers import AS_WRITTEN, Reading
from basinet.data.sources.names import locate
from basinet.files import move, place_of, room_for, write_text
from basinet.models.scope import Scope
from basinet.structures import Batch
from basinet.structures.batch import collate

CHUNK_RECORDS = 64
"""Records that are computed at once, and written before the next ones are read."""
STATE_FILE = "state.json"
HASHED_BYTES = 1 << 20
"""Bytes of a file that are hashed at once."""

Result = TypeVar("Result")
OutsidePolicy = Literal["error", "warn"]
"""Molecules unlike those in training: refuse them, or answer with a warning."""


class Done(NamedTuple):
    """Counts of the records of a file."""

    n_records: int
    n_failed: int
    n_before: int
    """Records that an interrupted run had finished already."""
    n_outside: int = 0
    """Answered though they are unlike those in training."""


class Journal:
    """Unfinished files in a directory ``<out>.partial`` beside the place of the finished one.

    A piece is written to all files, synced, and only then counted. Whatever follows the last count, because the process
    was killed, is cut off when the journal is opened again. A journal of something else (another input, model or
    setting) is deleted.

    Args:
        out: the finished file.
        names: of the files in the journal.
        fingerprint: of all that decides what is written (:func:`fingerprint_of`).
    """

    def __init__(self, out: Path, names: Sequence[str], fingerprint: str) -> None:
        place = place_of(out)
        self.directory = place.with_name(f"{place.name}.partial")
        self._fingerprint = fingerprint
        state = self._read(names)
        if state is None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(parents=True)
            state = {"done": 0, "sizes": dict.fromkeys(names, 0), "notes": {}}
        self.done: int = state["done"]
        """Records that need not be computed again."""
        self.notes: dict[str, Any] = state["notes"]
        """Counts to resume from."""
        self._sizes: dict[str, int] = state["sizes"]
        for name, size in self._sizes.items():
            (self.directory / name).touch()
            os.truncate(self.directory / name, size)

    def _read(self, names: Sequence[str]) -> dict[str, Any] | None:
        """Return the state of the same work; ``None`` if there is none to resume."""
        try:
            state = json.loads((self.directory / STATE_FILE).read_text(encoding="utf-8"))
            sizes: dict[str, int] = state["sizes"]
            whole = all((self.directory / name).stat().st_size >= size for name, size in sizes.items())
            same = state["fingerprint"] == self._fingerprint and set(sizes) == set(names)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return state if whole and same else None

    def path(self, name: str) -> Path:
        """Return the path of one of the files."""
        return self.directory / name

    def append(self, pieces: Mapping[str, bytes], n_records: int, notes: Mapping[str, Any] | None = None) -> None:
        """Add a piece to each file, and count the records in them."""
        for name, piece in pieces.items():
            with room_for(self.directory / name), open(self.directory / name, "ab") as file:
                file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            self._sizes[name] += len(piece)
        self.done += n_records
        self.notes |= notes or {}
        state = {"fingerprint": self._fingerprint, "done": self.done, "sizes": self._sizes, "notes": self.notes}
        write_text(self.directory / STATE_FILE, json.dumps(state))

    def require_records(self, data: Path) -> None:
        """Raise a ``ValueError`` if the input had no records."""
        if not self.done:
            self.discard()
            raise ValueError(f"{data} holds no molecules")

    def finish(self, places: Mapping[str, Path]) -> None:
        """Move the files to their places and remove the journal; the last one named appears last."""
        for name, place in places.items():
            move(self.directory / name, place)
        self.discard()

    def discard(self) -> None:
        """Remove all files of the journal."""
        shutil.rmtree(self.directory, ignore_errors=True)


def fingerprint_of(paths: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Return a hash of files (of a store, its manifest) and of settings."""
    digest = sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in paths:
        with open(path / "manifest.json" if path.is_dir() else path, "rb") as file:
            while piece := file.read(HASHED_BYTES):
                digest.update(piece)
        digest.update(b"|")
    return digest.hexdigest()


def answer_records(
    data: Path,
    compute: Callable[[Sequence[Record]], list[Result]],
    scope: Scope,
    journal: Journal,
    write: Callable[[Sequence[tuple[Record, Result | None, str]]], dict[str, bytes]],
    *,
    table: TableOptions,
    needs_bonds: bool,
    reading: Reading = AS_WRITTEN,
    outside_scope: OutsidePolicy = "error",
    show: Show = hidden,
    say: Say = silent,
) -> Done:
    """Compute and write the records of a file that a journal does not have yet.

    Args:
        data: a table of SMILES, or a file of molecules.
        compute: gives a result for each record.
        scope: of the model.
        journal: takes the results.
        write: turns records, each with its result and the reason why there is none or why not to trust it, into a piece
            of each file.
        table: how molecules are made from the rows of a table.
        needs_bonds: perceive bonds that are missing.
        reading: units and keys of a file of molecules.
        outside_scope: records outside of the scope fail, or are computed with a reason.
        show: moves a progress bar.
        say: called about resuming, and when batches are cut in half.
    """
    before = journal.done
    if before:
        say(f"resuming after {before} records")
    total = count_records(data)
    records = read_records(data, table, before, needs_bonds, reading)
    n_failed, n_outside = (int(journal.notes.get(key, 0)) for key in ("failed", "outside"))
    halved = Halving(compute, CHUNK_RECORDS, say)
    while chunk := list(islice(records, CHUNK_RECORDS)):
        unlike = [outside(scope, record) for record in chunk]
        refused = unlike if outside_scope == "error" else [""] * len(chunk)
        found = _results(chunk, halved, [r.reason or why for r, why in zip(chunk, refused, strict=True)])
        rows = [(r, result, reason or why) for (r, result, reason), why in zip(found, unlike, strict=True)]
        n_failed += sum(result is None for _, result, _ in rows)
        n_outside += sum(result is not None and bool(reason) for _, result, reason in rows)
        journal.append(write(rows), len(chunk), {"failed": n_failed, "outside": n_outside})
        show(journal.done, total, f"{n_failed} failed" if n_failed else "")
    journal.require_records(data)
    return Done(journal.done, n_failed, before, n_outside)


def _results(
    chunk: Sequence[Record], halved: Halving[Record, Result], reasons: Sequence[str]
) -> list[tuple[Record, Result | None, str]]:
    """Return each record with its result or a reason; those that have a reason already are not computed."""
    good = [record for record, reason in zip(chunk, reasons, strict=True) if not reason]
    size = halved.size
    try:
        found: Iterable[Result | None] = halved(good)
        too_large = ""
    except OutOfMemoryError as error:
        # One of them is too large: compute each alone, to find out which. The next chunk is computed at once again.
        found, too_large = [], str(error)
    results = iter(found)
    rows: list[tuple[Record, Result | None, str]] = []
    for record, reason in zip(chunk, reasons, strict=True):
        if reason:
            rows.append((record, None, reason))
        elif too_large:
            rows.append(_alone(record, halved, too_large))
        else:
            rows.append((record, next(results), ""))
    if too_large:
        halved.size = size
    return rows


def _alone(record: Record, halved: Halving[Record, Result], message: str) -> tuple[Record, Result | None, str]:
    try:
        return record, halved([record])[0], ""
    except OutOfMemoryError:
        return record, None, message


def outside(scope: Scope, record: Record) -> str:
    """Return how a record differs from the molecules in training; empty if it does not."""
    reasons = [scope.outside(m.atomic_numbers, m.charge) for m in record.conformers[:1]]
    return f"unlike the molecules in training: {'; '.join(reasons[0])}" if any(reasons) else ""


def batch_of(records: Sequence[Record]) -> tuple[Batch, Int64[Tensor, " n_conformers"]]:
    """Return the conformers of some records, and the record that each belongs to."""
    molecules = [dataclasses.replace(m, labels={}) for record in records for m in record.conformers]
    owner = [i for i, record in enumerate(records) for _ in record.conformers]
    return collate(molecules), torch.tensor(owner, dtype=torch.int64)


def locate_input(data: Path, *outputs: Path) -> Path:
    """Return the path of data (of a named public data set, its store), which no output may replace.

    Raises:
        FileNotFoundError: the data or the directory of an output does not exist.
        ValueError: an output is the input.
    """
    data = locate(data)
    if not data.exists():
        raise FileNotFoundError(f"{data} does not exist")
    for place in outputs:
        place_of(place)
        if place.exists() and place.samefile(data):
            raise ValueError(f"{place} is the input too; choose another place for the results")
        if not place.parent.is_dir():
            raise FileNotFoundError(f"there is no directory {place.parent} to write {place.name} to")
    return data
