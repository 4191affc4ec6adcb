"""Read QM9 as published (``dsgdb9nsd_*.xyz``) and as repackaged by MoleculeNet (``gdb9.sdf`` and a table).

==========================  ================  =======================================================
label                       in the files      what
==========================  ================  =======================================================
A, B, C                     GHz               rotational constants (kept as they are)
mu                          D                 dipole moment
alpha                       bohr^3            isotropic polarisability
homo, lumo, gap             Ha                orbital energies
r2                          bohr^2            electronic spatial extent
zpve                        Ha                zero-point vibrational energy
U0, U, H, G                 Ha                internal energy at 0 K and 298.15 K, enthalpy, free energy
Cv                          cal/mol/K         heat capacity
U0_atom ... G_atom          Ha                the same less the atoms: U0 - sum of reference energies
==========================  ================  =======================================================

``U0`` includes ``zpve``, so it is not a point of the potential energy surface and is not called ``energy``.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ase.data import atomic_numbers as number_of_symbol
from jaxtyping import Int64

from basinet.data.files.report import Opened, ReadReport, counted, valid
from basinet.data.files.sdf import import_rdkit, quiet_rdkit
from basinet.data.sources.archives import damage_named, extract, walk
from basinet.data.sources.collection import Files
from basinet.files import Stream
from basinet.structures import Molecule, StructureError
from basinet.units import property_factor, property_unit

N_UNCHARACTERIZED = 3054
"""Number of molecules whose geometry failed the consistency check of the authors; they are skipped."""
FILE_UNITS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("A", "B", "C"), "1"),
        "mu": "D",
        "alpha": "bohr^3",
        **dict.fromkeys(("homo", "lumo", "gap"), "Ha"),
        "r2": "bohr^2",
        **dict.fromkeys(("zpve", "U0", "U", "H", "G"), "Ha"),
        "Cv": "cal/mol/K",
    }
)
"""Properties in the order of the second line of an xyz file, with their units."""
COLUMNS: Mapping[str, str] = MappingProxyType({"u0": "U0", "u298": "U", "h298": "H", "g298": "G", "cv": "Cv"})
"""Columns of ``gdb9.sdf.csv`` whose names are not those of the labels."""
REFERENCES: Mapping[str, Mapping[int, float]] = MappingProxyType(
    {
        "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
        "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
        "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
        "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
    }
)
"""Energies of the free atoms, Ha: ``atomref.txt`` of QM9."""
LABEL_UNITS = {name: property_unit(unit) for name, unit in FILE_UNITS.items()} | {f"{e}_atom": "eV" for e in REFERENCES}

MISSING: Any = object()
"""Stands for a missing record or row; a record that RDKit cannot read is ``None``."""
_MEMBER = re.compile(r"dsgdb9nsd_(\d+)\.xyz")


def open_xyz_archive(files: Files) -> list[Opened]:
    """Open ``dsgdb9nsd.xyz.tar.bz2`` and the list of molecules to leave out; names are ``gdb9:17``."""
    archive, listed = files.paths
    report = _report(archive)
    return [counted(_of_archive(archive, left_out(listed), report), report)]


def open_sdf_archive(files: Files) -> list[Opened]:
    """Open ``qm9.zip`` with ``gdb9.sdf`` and ``gdb9.sdf.csv``, and the list to leave out; names are ``gdb9:17``."""
    archive, listed = files.paths
    report = _report(archive)
    sdf, table = extract(archive, ("gdb9.sdf", "gdb9.sdf.csv"))
    return [counted(_of_sdf(sdf, table, left_out(listed), report), report)]


def left_out(listed: Path) -> frozenset[int]:
    """Return the numbers in ``uncharacterized.txt``: the first word of each line that begins with one.

    Raises:
        StructureError: there are not 3,054.
    """
    words = (line.split(maxsplit=1) for line in listed.read_text(encoding="utf-8", errors="replace").splitlines())
    numbers = frozenset(int(word[0]) for word in words if word and word[0].isdecimal())
    if len(numbers) != N_UNCHARACTERIZED:
        raise StructureError(f"{listed}: names {len(numbers)} molecules, expected {N_UNCHARACTERIZED}")
    return numbers


def parse_xyz(text: str, name: str) -> dict[str, Any]:
    """Return elements, positions (Å), properties (as in the file) and SMILES of one file.

    Raises:
        StructureError: it is damaged.
    """
    lines = text.split("\n")
    try:
        n_atoms = int(lines[0])
        values = lines[1].split()[2:]
        atoms = [line.split() for line in lines[2 : 2 + n_atoms]]
        properties = dict(zip(FILE_UNITS, map(_number, values), strict=True))
        positions = np.array([[_number(x) for x in atom[1:4]] for atom in atoms], dtype=np.float64).reshape(-1, 3)
        numbers = np.array([number_of_symbol[atom[0]] for atom in atoms], dtype=np.int64)
        smiles = lines[3 + n_atoms].split()[-1]  # of the relaxed geometry; that of GDB-17 stands before it
    except (ValueError, IndexError, KeyError) as error:
        raise StructureError(f"{name}: not a file of QM9, or truncated ({error})") from None
    if len(numbers) != n_atoms:
        raise StructureError(f"{name}: says {n_atoms} atoms and has {len(numbers)}")
    return {"atomic_numbers": numbers, "positions": positions, "properties": properties, "smiles": smiles}


def _number(text: str) -> float:
    """Read a number; some have the exponents of Mathematica, ``1.2*^-6``."""
    return float(text.replace("*^", "e"))


def _of_archive(archive: Path, out: frozenset[int], report: ReadReport) -> Iterator[Molecule]:
    for number, text in _in_order(_numbered(archive)):
        if number in out:
            report.skip(f"gdb9:{number}", "uncharacterized: failed the consistency check of the authors")
            continue
        found = parse_xyz(text, f"gdb9:{number}")
        yield from _molecule(number, report, found.pop("properties"), **found)


def _numbered(archive: Path) -> Iterator[tuple[int, str]]:
    with damage_named(archive):
        for name, stream in walk(archive):
            if match := _MEMBER.search(name):
                yield int(match[1]), _text(stream)


def _text(stream: Stream) -> str:
    return stream.read().decode("utf-8", errors="replace")


def _in_order(items: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield numbered items in order from 1; early ones wait."""
    waiting: dict[int, str] = {}
    following = 1
    for number, text in items:
        waiting[number] = text
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1
    yield from sorted(waiting.items())


def _of_sdf(sdf: Path, table: Path, out: frozenset[int], report: ReadReport) -> Iterator[Molecule]:
    chem = import_rdkit()
    with open(sdf, "rb") as records, open(table, encoding="utf-8", errors="replace", newline="") as rows:
        supplier = chem.ForwardSDMolSupplier(records, sanitize=False, removeHs=False)
        for place, (mol, row) in enumerate(zip_longest(supplier, _rows(rows, table), fillvalue=MISSING)):
            if mol is MISSING or row is MISSING:
                raise StructureError(
                    f"{table}: there are more molecules in it or in {sdf.name} than the other's {place}"
                )
            number = _number_of(row, table)
            if number in out:
                report.skip(f"gdb9:{number}", "uncharacterized: failed the consistency check of the authors")
                continue
            if mol is None:
                raise StructureError(f"gdb9:{number}: RDKit cannot read this record of {sdf.name}")
            yield from _molecule(number, report, _of_row(row, number), **_of_record(chem, mol, report))


def _rows(lines: Iterable[str], table: Path) -> Iterator[Any]:
    try:
        yield from csv.DictReader(lines)
    except csv.Error as error:
        raise StructureError(f"{table}: cannot be read as CSV ({error})") from None


def _number_of(row: Mapping[str, str], table: Path) -> int:
    match = re.fullmatch(r"gdb_(\d+)", row.get("mol_id") or "")
    if match is None:
        raise StructureError(f"{table}: mol_id must be gdb_1, gdb_2 ..., got {row.get('mol_id')!r}")
    return int(match[1])


def _of_row(row: Mapping[str, str], number: int) -> dict[str, float]:
    names = {label: column for column, label in COLUMNS.items()}
    try:
        return {label: float(row[names.get(label, label)]) for label in FILE_UNITS}
    except (KeyError, TypeError, ValueError) as error:
        raise StructureError(f"gdb9:{number}: the table has no number for it ({error})") from None


def _of_record(chem: Any, mol: Any, report: ReadReport) -> dict[str, Any]:
    """Return the fields of a record; a SMILES only if RDKit accepts its valences, which it does not for all of QM9."""
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    found = {
        "atomic_numbers": np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.int64),
        "positions": mol.GetConformer().GetPositions().astype(np.float64),
        "bonds": np.array(bonds, dtype=np.int64).reshape(-1, 2),
        "bond_orders": np.array([b.GetBondTypeAsDouble() for b in mol.GetBonds()], dtype=np.float64),
        "charge": sum(a.GetFormalCharge() for a in mol.GetAtoms()),
    }
    with quiet_rdkit():
        accepted = chem.SanitizeMol(mol, catchErrors=True) == chem.SanitizeFlags.SANITIZE_NONE
    if not accepted:
        report.n_without["SMILES, for RDKit refuses its valences"] += 1
        return found
    return {**found, "smiles": chem.MolToSmiles(chem.RemoveHs(mol))}


def _molecule(
    number: int,
    report: ReadReport,
    properties: Mapping[str, float],
    atomic_numbers: Int64[np.ndarray, " n"],
    **rest: Any,
) -> Iterator[Molecule]:
    elements = atomic_numbers.tolist()
    if strange := sorted(set(elements) - set(REFERENCES["U0"])):
        raise StructureError(f"gdb9:{number}: has elements {strange}; QM9 is of H, C, N, O and F")
    labels = {name: value * property_factor(FILE_UNITS[name]) for name, value in properties.items()}
    for name, references in REFERENCES.items():
        labels[f"{name}_atom"] = (properties[name] - sum(references[z] for z in elements)) * property_factor("Ha")
    report.properties.update(f"{name} ({FILE_UNITS.get(name, 'Ha')})" for name in labels)
    yield from valid(
        report, atomic_numbers=atomic_numbers, labels=labels, is_equilibrium=True, name=f"gdb9:{number}", **rest
    )


def _report(path: Path) -> ReadReport:
    return ReadReport(path=str(path), energy_unit="Ha")
