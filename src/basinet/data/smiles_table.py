"""CSV tables with a column of SMILES: one conformer a row by distance geometry and a force field (RDKit)."""

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from basinet.data.columns import PropertyColumn, read_properties
from basinet.data.conformers import GenerationError, embed, parse_smiles, require_rdkit
from basinet.data.report import ReadReport, valid
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor

SMILES_COLUMN = "smiles"
MAX_HEAVY_ATOMS = 200
"""Of a molecule to embed: distance geometry takes minutes beyond, and seldom ends well."""


def read_smiles_table(
    path: Path, report: ReadReport, *, energy_key: str | None, columns: Sequence[PropertyColumn] = ()
) -> Iterator[Molecule]:
    """Read a table row by row; ``name`` is ``file.csv:17``, the rows after the header numbered from 0.

    The conformer of a row depends on its SMILES and number alone. A SMILES that gives no conformer is skipped, and the
    report says which and why. An empty cell is no label.

    Args:
        path: The file; comma-separated, the first row names the columns, one of them ``smiles`` in any case.
        report: Counts what is read.
        energy_key: Column of the energies; ``None`` reads none.
        columns: Columns to read as labels.

    Raises:
        StructureError: the table is damaged, or a label is not a number.
    """
    require_rdkit()
    wanted = [*(() if energy_key is None else (energy_key,)), *(c.key for c in columns)]
    for row, cells in enumerate(_cells(path, wanted)):
        name = f"{path.name}:{row}"
        smiles = cells[SMILES_COLUMN].strip()
        try:
            molecule = _conformer(smiles, row)
        except GenerationError as error:
            report.skip(name, f"SMILES: {error}")
            continue
        labels = read_properties(cells, columns, name, report) if columns else {}
        if energy_key is not None and cells[energy_key] != "nan":
            labels["energy"] = _number(cells[energy_key], energy_key, name) * energy_factor(report.energy_unit)
            report.energy_keys[energy_key] += 1
        fields = {field.name: getattr(molecule, field.name) for field in dataclasses.fields(molecule)}
        yield from valid(report, **{**fields, "labels": labels, "name": name})


def _conformer(smiles: str, seed: int) -> Molecule:
    if not smiles:
        raise GenerationError("empty")
    if parse_smiles(smiles).GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
        raise GenerationError(f"more than {MAX_HEAVY_ATOMS} heavy atoms")
    return embed(smiles, seed)[0]


def _cells(path: Path, wanted: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """Yield the SMILES and the wanted cells of each row by the name of their columns; empty cells as ``nan``."""
    row = -1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, strict=True)
            header = [name.strip() for name in next(table, [])]
            places = _places(path, header, wanted)
            for row, cells in enumerate(line for line in table if line):
                if len(cells) != len(header):
                    raise StructureError(
                        f"{path.name}:{row}: has {len(cells)} cells, expected {len(header)} as the header; a comma "
                        "inside a cell needs quotes"
                    )
                yield {name: cells[place].strip() or "nan" for name, place in places.items()} | {
                    SMILES_COLUMN: cells[places[SMILES_COLUMN]]
                }
    except (csv.Error, UnicodeDecodeError) as error:
        raise StructureError(f"{path.name}:{row + 1}: cannot be read as CSV ({error})") from None


def _places(path: Path, header: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
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


def _number(text: str, key: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise StructureError(f"{name}: {key!r} must be one number, got {text!r}") from None
