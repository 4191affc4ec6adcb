"""Work through a file of any length, a chunk at a time: in constant memory, and gone on with where it stopped."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from basinet.commands.answer.halving import Halving, OutOfMemoryError
from basinet.commands.answer.journal import Journal
from basinet.commands.answer.records import Record
from basinet.commands.progress import Say, Show, hidden, silent
from basinet.data.sources.names import locate
from basinet.models.model import Model
from basinet.models.scope import Scope
from basinet.structures import Batch
from basinet.structures.batch import collate

CHUNK_RECORDS = 64
"""Records that are computed at once, and written before the next ones are read."""

Result = TypeVar("Result")
OutsidePolicy = Literal["error", "warn"]
"""What to do with molecules unlike those in training: refuse them, or answer and say in what."""


class Done(NamedTuple):
    """What became of a file."""

    n_records: int
    n_failed: int
    n_before: int
    """Records that an interrupted run had done already."""
    n_outside: int = 0
    """Answered though they are unlike those in training."""


def work_through(
    records: Iterator[Record],
    compute: Callable[[Sequence[Record]], list[Result]],
    model: Model,
    journal: Journal,
    write: Callable[[Sequence[tuple[Record, Result | None, str]]], dict[str, bytes]],
    *,
    total: int | None,
    outside_scope: OutsidePolicy = "error",
    show: Show = hidden,
    say: Say = silent,
) -> Done:
    """Compute and write the records that a journal does not have yet.

    Args:
        records: those that follow what the journal has.
        compute: gives a result for each record.
        model: whose scope the molecules should be in.
        journal: where the results go.
        write: makes pieces of files of records with their result, and the reason why there is none or why not to
            trust it.
        total: records, if it is known.
        outside_scope: whether records outside of the scope of the model fail, or are computed with a reason.
        show: moves a progress bar.
        say: told when batches are cut in half.
    """
    before = journal.done
    n_failed, n_outside = (int(journal.notes.get(key, 0)) for key in ("failed", "outside"))
    halved = Halving(compute, CHUNK_RECORDS, say)
    while chunk := list(islice(records, CHUNK_RECORDS)):
        unlike = [outside(model.scope, record) for record in chunk]
        refused = unlike if outside_scope == "error" else [""] * len(chunk)
        found = _results(chunk, halved, [r.reason or why for r, why in zip(chunk, refused, strict=True)])
        rows = [(r, result, reason or why) for (r, result, reason), why in zip(found, unlike, strict=True)]
        n_failed += sum(result is None for _, result, _ in rows)
        n_outside += sum(result is not None and bool(reason) for _, result, reason in rows)
        journal.append(write(rows), len(chunk), {"failed": n_failed, "outside": n_outside})
        show(journal.done, total, f"{n_failed} failed" if n_failed else "")
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
        # One of them is too large: each for itself, to know which. The others may go on as before.
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
    """Return in what a record is unlike those in training; empty if it is not."""
    reasons = [scope.outside(m.atomic_numbers, m.charge) for m in record.conformers[:1]]
    return f"unlike the molecules in training: {'; '.join(reasons[0])}" if any(reasons) else ""


def batch_of(records: Sequence[Record]) -> tuple[Batch, Int64[Tensor, " n_conformers"]]:
    """Return the conformers of some records, and the record that each belongs to."""
    molecules = [dataclasses.replace(m, labels={}) for record in records for m in record.conformers]
    owner = [i for i, record in enumerate(records) for _ in record.conformers]
    return collate(molecules), torch.tensor(owner, dtype=torch.int64)


def place_of(data: Path, *places: Path) -> Path:
    """Return where data is (of a public data set that is named, its store), apart from the places of results.

    Raises:
        ValueError: a result would replace what it is computed from.
    """
    data = locate(data)
    if not data.exists():
        raise FileNotFoundError(f"{data} does not exist")
    for place in places:
        if place.exists() and place.samefile(data):
            raise ValueError(f"{place} is the input too; choose another place for the results")
        if not place.parent.is_dir():
            raise FileNotFoundError(f"there is no directory {place.parent} to write {place.name} to")
    return data
