"""Read SDF with RDKit: molecules with explicit hydrogens, bonds and charges."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, number_of, read_properties, valid
from basinet.errors import optional_module
from basinet.files import Stream
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor, length_factor


def read_sdf(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read molecules record by record; ``name`` is ``file.sdf:17``, numbered from 0.

    Energies are read only if their property is named.

    Raises:
        ValueError: forces are asked for, or energies without their unit.
        StructureError: a record cannot be read, lacks hydrogens, or is a drawing (2D).
    """
    if reading.forces_key is not None:
        raise ValueError(f"{path}: forces cannot be read from an SDF; leave forces_key out")
    if reading.energy_key is not None and reading.energy_unit is None:
        raise ValueError(f"{path}: an SDF does not say the unit of {reading.energy_key!r}; give energy_unit")
    return _read_file(path, report, reading)


def _read_file(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    with open(path, "rb") as file:
        yield from read_records(file, path.name, report, reading)


def read_records(file: Stream, where: str, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Yield the molecules of an open file; ``name`` is ``where:17``.

    Raises:
        StructureError: as :func:`read_sdf`.
    """
    chem = import_rdkit()
    n_records, is_last_read, records = 0, True, RecordStream(file)
    for record, mol in enumerate(chem.ForwardSDMolSupplier(records, removeHs=False)):
        n_records, is_last_read = record + 1, mol is not None
        name = f"{where}:{record}"
        if mol is None and report.skip_invalid:
            report.skip(name, "RDKit cannot read this record")
            continue
        if mol is None:
            raise StructureError(f"{name}: RDKit cannot read this record (its own message is above)")
        try:
            yield from _read_record(chem, mol, name, report, reading)
        except UnicodeDecodeError:
            raise StructureError(f"{name}: its properties are not text in UTF-8") from None
    records.require_whole(where, n_records, is_last_read)


def import_rdkit() -> Any:
    """Return ``rdkit.Chem``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    return optional_module("rdkit.Chem", "rdkit", "reading SDF files")


def quiet_rdkit() -> Any:
    """Return a context in which RDKit prints no messages."""
    from rdkit import rdBase

    return rdBase.BlockLogs()


def _read_record(chem: Any, mol: Any, name: str, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    _require_3d_with_hydrogens(mol, name)
    labels: dict[str, Any] = {}
    if reading.energy_key is not None:
        labels["energy"] = _energy(mol, name, reading.energy_key) * energy_factor(report.energy_unit)
        report.energy_keys[reading.energy_key] += 1
    if reading.columns:
        labels |= read_properties(mol.GetPropsAsDict(), reading.columns, name, report)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    yield from valid(
        report,
        atomic_numbers=np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.int64),
        positions=mol.GetConformer().GetPositions().astype(np.float64) * length_factor(report.length_unit),
        bonds=np.array(bonds, dtype=np.int64).reshape(-1, 2),
        bond_orders=np.array([b.GetBondTypeAsDouble() for b in mol.GetBonds()], dtype=np.float64),
        charge=chem.GetFormalCharge(mol),
        labels=labels,
        is_equilibrium=reading.is_equilibrium,
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
    return number_of(mol.GetProp(key), key, name)


class RecordStream:
    """A stream for RDKit that counts the ends of records, and keeps errors of the file below.

    RDKit drops a record whose end is cut off or damaged, and cannot pass on errors of its stream.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = b""
        self._error: Exception | None = None
        self._n_ends, self._n_blocks, self._n_counts, self._is_open = 0, 0, 0, False

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, or all; none after an error."""
        try:
            content = b"" if self._error is not None else self._stream.read(size)
        except Exception as error:
            self._error, content = error, b""
        *lines, self._rest = (self._rest + content).split(b"\n")
        self._count(lines)
        return content

    def _count(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            ends = line.startswith(b"$$$$")
            self._n_ends += ends
            self._n_blocks += line.startswith(b"M  END")
            self._n_counts += line.rstrip().endswith((b"V2000", b"V3000"))
            self._is_open = not ends and (self._is_open or bool(line.strip()))

    def require_whole(self, where: str, n_records: int, is_last_read: bool) -> None:
        """Raise the error of the file, or a ``StructureError`` if RDKit gave fewer records than there are."""
        while self.read(2**20):
            pass
        self._count([self._rest])
        self._rest = b""
        if self._error is not None:
            raise self._error
        if self._n_ends + self._is_open != n_records or (self._is_open and not is_last_read):
            raise StructureError(f"{where}:{n_records}: the file ends inside the record; it is truncated")
        if max(self._n_blocks, self._n_counts) > n_records:
            raise StructureError(
                f"{where}: has {max(self._n_blocks, self._n_counts)} molecules in {n_records} records; a line $$$$ is "
                "damaged"
            )
