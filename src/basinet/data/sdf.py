"""SDF: molecules with explicit hydrogens, bonds and charges, through RDKit."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from basinet.data.columns import PropertyColumn, read_properties
from basinet.data.report import ReadReport, valid
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor, length_factor


def read_sdf(
    path: Path,
    report: ReadReport,
    *,
    is_equilibrium: bool,
    energy_key: str | None,
    columns: Sequence[PropertyColumn] = (),
) -> Iterator[Molecule]:
    """Read molecules record by record; ``name`` is ``file.sdf:17``, numbered from 0.

    Args:
        path: The file.
        report: Counts what is read.
        is_equilibrium: Whether the geometries are minima.
        energy_key: Property of each record that holds the energy; ``None`` reads no energies.
        columns: Properties of each record to read as labels.

    Raises:
        StructureError: a record cannot be read, lacks hydrogens, or is a drawing (2D).
    """
    chem = import_rdkit()
    n_records = 0

    def counted(mols: Iterable[Any]) -> Iterator[Any]:
        nonlocal n_records
        for mol in mols:
            n_records += 1
            yield mol

    with open(path, "rb") as file:
        mols = counted(chem.ForwardSDMolSupplier(file, removeHs=False))
        yield from read_records(mols, path.name, report, is_equilibrium, energy_key, columns)
    _require_whole_records(path, n_records)


def read_records(
    mols: Iterable[Any],
    where: str,
    report: ReadReport,
    is_equilibrium: bool,
    energy_key: str | None = None,
    columns: Sequence[PropertyColumn] = (),
) -> Iterator[Molecule]:
    """Yield the molecules of RDKit's records, ``None`` where it could not read one; ``name`` is ``where:17``.

    Raises:
        StructureError: as :func:`read_sdf`.
    """
    chem = import_rdkit()
    for record, mol in enumerate(mols):
        name = f"{where}:{record}"
        if mol is None and report.skip_invalid:
            report.skip(name, "RDKit cannot read this record")
            continue
        if mol is None:
            raise StructureError(f"{name}: RDKit cannot read this record (its own message is above)")
        try:
            yield from _read_record(chem, mol, name, report, is_equilibrium, energy_key, columns)
        except UnicodeDecodeError:
            raise StructureError(f"{name}: its properties are not text in UTF-8") from None


def import_rdkit() -> Any:
    """Return ``rdkit.Chem``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        from rdkit import Chem
    except ImportError:
        raise ImportError('reading SDF files needs RDKit: pip install "basinet[rdkit]"') from None
    return Chem


def quiet_rdkit() -> Any:
    """Return a context in which RDKit does not print what it refuses."""
    from rdkit import rdBase

    return rdBase.BlockLogs()


def _read_record(
    chem: Any,
    mol: Any,
    name: str,
    report: ReadReport,
    is_equilibrium: bool,
    energy_key: str | None,
    columns: Sequence[PropertyColumn],
) -> Iterator[Molecule]:
    _require_3d_with_hydrogens(mol, name)
    labels: dict[str, Any] = {}
    if energy_key is not None:
        labels["energy"] = _energy(mol, name, energy_key) * energy_factor(report.energy_unit)
        report.energy_keys[energy_key] += 1
    if columns:
        labels |= read_properties(mol.GetPropsAsDict(), columns, name, report)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    yield from valid(
        report,
        atomic_numbers=np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.int64),
        positions=mol.GetConformer().GetPositions().astype(np.float64) * length_factor(report.length_unit),
        bonds=np.array(bonds, dtype=np.int64).reshape(-1, 2),
        bond_orders=np.array([b.GetBondTypeAsDouble() for b in mol.GetBonds()], dtype=np.float64),
        charge=chem.GetFormalCharge(mol),
        labels=labels,
        is_equilibrium=is_equilibrium,
        smiles=chem.MolToSmiles(chem.RemoveHs(mol)),
        name=name,
    )


def _require_3d_with_hydrogens(mol: Any, name: str) -> None:
    if mol.GetNumAtoms() == 0:
        raise StructureError(f"{name}: the record has no atoms")
    missing = sum(a.GetTotalNumHs() for a in mol.GetAtoms())
    if missing:
        raise StructureError(
            f"{name}: {missing} hydrogens are implicit, and a geometry needs every atom; add them with positions "
            "(RDKit: Chem.AddHs(mol, addCoords=True)) and relax the molecule"
        )
    if mol.GetNumAtoms() > 1 and not mol.GetConformer().Is3D():
        raise StructureError(
            f"{name}: the coordinates are a drawing (2D), a geometry is needed; if the molecule is flat, write 3D in "
            "the second line of the record"
        )


def _energy(mol: Any, name: str, key: str) -> float:
    if not mol.HasProp(key):
        there = ", ".join(mol.GetPropNames()) or "no properties"
        raise StructureError(f"{name}: has no property {key!r}; it has {there}")
    try:
        return float(mol.GetProp(key))
    except ValueError:
        raise StructureError(f"{name}: property {key!r} must be one number, got {mol.GetProp(key)!r}") from None


def _require_whole_records(path: Path, n_records: int) -> None:
    """RDKit drops a record whose end is cut off or damaged, so the records are counted by their ends."""
    n_ends, n_blocks, n_counts, is_open = 0, 0, 0, False
    with open(path, "rb") as file:
        for line in file:
            ends = line.startswith(b"$$$$")
            n_ends += ends
            n_blocks += line.startswith(b"M  END")
            n_counts += line.rstrip().endswith((b"V2000", b"V3000"))
            is_open = not ends and (is_open or bool(line.strip()))
    if n_ends + is_open != n_records:
        raise StructureError(f"{path.name}:{n_records}: the file ends inside the record; it is truncated")
    if max(n_blocks, n_counts) > n_records:
        raise StructureError(
            f"{path.name}: has {max(n_blocks, n_counts)} molecules in {n_records} records; a line $$$$ is damaged"
        )
