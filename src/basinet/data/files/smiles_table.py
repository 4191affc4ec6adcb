"""Make a conformer of each row of a table of SMILES, by distance geometry and a force field (RDKit)."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from math import isnan, nan
from pathlib import Path
from typing import Any

from basinet.data.chemistry.conformers import MAX_HEAVY_ATOMS, GenerationError, embed, parse_smiles, require_rdkit
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, number_of, read_properties, valid
from basinet.data.files.table import csv_lines
from basinet.data.workers import map_in_order
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor

SMILES_COLUMN = "smiles"
ROWS_AT_ONCE = 32
"""Rows given to a process at once."""
FEW = 200
"""Rows that one process embeds in the time that others need to start."""

Cells = Mapping[str, Any]
"""The SMILES and the wanted cells of a row by column; empty ones are NaN."""


Row = tuple[int, Cells]
"""The number of a row, from 0, and its cells."""


def read_csv(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read a CSV file with a column of SMILES; see :func:`read_smiles_rows`."""
    return read_smiles_rows(_cells(path, wanted_columns(path, reading)), path, report, reading)


def wanted_columns(path: Path, reading: Reading) -> list[str]:
    """Return the columns of labels to read from a table of SMILES.

    Raises:
        ValueError: an option makes no sense for SMILES, or the energies have no unit.
    """
    if reading.forces_key is not None or reading.length_unit is not None or reading.is_equilibrium:
        raise ValueError(
            f"{path}: positions are made from its SMILES, in Angstrom, and are not minima of the energies of the data; "
            "leave forces_key, length_unit and is_equilibrium out"
        )
    if reading.energy_key is not None and reading.energy_unit is None:
        raise ValueError(f"{path}: a table does not say the unit of {reading.energy_key!r}; give energy_unit")
    return [*(() if reading.energy_key is None else (reading.energy_key,)), *(c.key for c in reading.columns)]


def read_smiles_rows(table: Iterable[Cells], path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Make a molecule of each row of a table; ``name`` is ``file.csv:17``, the rows numbered from 0.

    The conformer of a row depends on its SMILES and number alone, and rows stay in their order, whatever the number of
    processes; several are started for more than ``FEW`` rows. A SMILES that gives no conformer is skipped, and the
    report says which and why. An empty cell is a missing label.

    Raises:
        StructureError: the table is damaged, or a label is not a number.
        RunError: a process died.
    """
    require_rdkit()
    energy_key = reading.energy_key
    for (number, cells), made in _conformers(enumerate(table), reading.processes):
        name = f"{path.name}:{number}"
        if isinstance(made, str):
            report.skip(name, f"SMILES: {made}")
            continue
        labels = read_properties(cells, reading.columns, name, report)
        energy = nan if energy_key is None else number_of(cells[energy_key], energy_key, name)
        if energy_key is not None and not isnan(energy):
            labels["energy"] = energy * energy_factor(report.energy_unit)
            report.energy_keys[energy_key] += 1
        fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
        yield from valid(report, **{**fields, "labels": labels, "name": name})


def _conformers(rows: Iterator[Row], processes: int) -> Iterator[tuple[Row, Molecule | str]]:
    """Yield each row with its conformer, or the reason why there is none."""
    first = list(islice(rows, FEW + 1)) if processes > 1 else []
    if len(first) <= FEW:
        yield from ((row, _conformer(row)) for row in chain(first, rows))
        return
    rows = chain(first, rows)
    tasks = iter(lambda: list(islice(rows, ROWS_AT_ONCE)), [])
    with closing(map_in_order(_conformers_of, tasks, processes)) as results:
        yield from chain.from_iterable(results)


def _conformers_of(rows: list[Row]) -> list[tuple[Row, Molecule | str]]:
    return [(row, _conformer(row)) for row in rows]


def _conformer(row: Row) -> Molecule | str:
    number, cells = row
    smiles = str(cells[SMILES_COLUMN]).strip()
    try:
        if not smiles:
            return "empty"
        if parse_smiles(smiles).GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
            return f"more than {MAX_HEAVY_ATOMS} heavy atoms"
        return embed(smiles, number)[0]
    except GenerationError as error:
        return str(error)


def _cells(path: Path, wanted: Sequence[str]) -> Iterator[Cells]:
    """Yield the SMILES and the wanted cells of each row of a CSV file; the first row names the columns."""
    lines = csv_lines(path)
    places = column_places(path, [name.strip() for name in next(lines, [])], wanted)
    for cells in lines:
        values = {name: cells[place].strip() or "nan" for name, place in places.items()}
        yield values | {SMILES_COLUMN: cells[places[SMILES_COLUMN]]}


def column_places(path: Path, header: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Return the places of the wanted columns and of ``smiles`` (in any case), by name.

    Raises:
        StructureError: one is not there, or twice.
    """
    smiles = [i for i, name in enumerate(header) if name.lower() == SMILES_COLUMN]
    there = ", ".join(header)[:300] or "none"
    if len(smiles) != 1:
        raise StructureError(f"{path}: expected one column named smiles, got {len(smiles)}; the columns are: {there}")
    for name in wanted:
        if header.count(name) != 1:
            raise StructureError(
                f"{path}: expected one column named {name!r}, got {header.count(name)}; the columns are: {there}"
            )
    return {name: header.index(name) for name in wanted} | {SMILES_COLUMN: smiles[0]}
