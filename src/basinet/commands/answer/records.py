"""Read a file as records: one for each row or molecule, invalid ones included."""

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import islice, tee
from pathlib import Path
from typing import NamedTuple

from basinet.data.chemistry.compounds import ConformerTask, Fragments, conformer_sets
from basinet.data.chemistry.perception import Perceiver
from basinet.data.files.table import is_table, read_rows, smiles_column
from basinet.data.readers import AS_WRITTEN, Reading, open_unlabelled
from basinet.structures import Molecule


class Record(NamedTuple):
    """A row of a table, or a molecule of a file."""

    number: int
    """From 0."""
    name: str
    smiles: str
    """As in the file; empty if unknown."""
    cells: Mapping[str, str]
    """Cells of a row, by column."""
    conformers: list[Molecule]
    """One, or several made from a SMILES; empty if it failed."""
    reason: str
    """Why there are none."""


class TableOptions(NamedTuple):
    """Options for making molecules from the rows of a table."""

    smiles: str | None = None
    """Column of the SMILES; ``None``: ``smiles``."""
    n_conformers: int = 1
    seed: int = 0
    fragments: Fragments = "refuse"
    processes: int | None = 1


def read_records(
    path: Path, options: TableOptions, first: int, needs_bonds: bool, reading: Reading = AS_WRITTEN
) -> Iterator[Record]:
    """Yield the records of a file from number ``first`` on, one at a time.

    Args:
        path: a table, or any file or store of molecules.
        options: options for a table.
        first: number of the first record; no conformers are made for those before.
        needs_bonds: perceive bonds that are missing.
        reading: units and names of a file of molecules.
    """
    if is_table(path):
        yield from _of_table(path, options, first)
    else:
        yield from islice(_of_molecules(path, needs_bonds, reading), first, None)


def _of_table(path: Path, options: TableOptions, first: int) -> Iterator[Record]:
    column = smiles_column(path, options.smiles)
    rows, ahead = tee(islice(read_rows(path), first, None))
    tasks = (ConformerTask(r[column], options.n_conformers, options.seed, options.fragments) for r in ahead)
    for number, (row, found) in enumerate(zip(rows, conformer_sets(tasks, options.processes), strict=True), first):
        made, reason = ([], f"SMILES: {found}") if isinstance(found, str) else (found, "")
        yield Record(number, f"{path.name}:{number}", row[column], row, made, reason)


def _of_molecules(path: Path, needs_bonds: bool, reading: Reading) -> Iterator[Record]:
    molecules, report = open_unlabelled(path, dataclasses.replace(reading, skip_invalid=True))
    perceiver = Perceiver() if needs_bonds else None
    n_skipped = 0
    number = 0
    for molecule in molecules:
        for skipped in report.skipped_records[n_skipped:]:
            yield Record(number, skipped.name, "", {}, [], skipped.reason)
            number += 1
        n_skipped = len(report.skipped_records)
        yield _record(number, molecule, perceiver)
        number += 1
    for skipped in report.skipped_records[n_skipped:]:
        yield Record(number, skipped.name, "", {}, [], skipped.reason)
        number += 1


def _record(number: int, molecule: Molecule, perceiver: Perceiver | None) -> Record:
    """Return the record of a molecule, with perceived bonds if they are needed."""
    if perceiver is not None and molecule.bonds is None:
        graph = perceiver(molecule)
        if graph is None:
            reason = f"no bonds on record, and none can be perceived ({next(iter(perceiver.report.failures))})"
            return Record(number, molecule.name, molecule.smiles, {}, [], reason)
        molecule = dataclasses.replace(molecule, bonds=graph.bonds, bond_orders=graph.orders)
    return Record(number, molecule.name, molecule.smiles, {}, [molecule], "")


def count_records(path: Path) -> int | None:
    """Return the number of records of a table; ``None`` for other files, which would have to be read."""
    return sum(1 for _ in read_rows(path)) if is_table(path) else None
