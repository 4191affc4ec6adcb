"""Molecules of files, stores and public data sets, read one at a time and converted once to eV and Å.

=====================  ==================================================================
``.xyz .extxyz``       extended XYZ (ASE); labels ``REF_energy``/``REF_forces`` first
``.sdf``               bonds, charges and SMILES (RDKit); explicit hydrogens
``.traj .db``          trajectories and databases of ASE (:mod:`basinet.data.files.ase_files`)
``.lmdb .aselmdb``     databases of ASE-LMDB (:mod:`basinet.data.files.lmdb`)
``.h5 .hdf5``          the layouts of ANI, COMP6 and SPICE, with their units (:mod:`basinet.data.files.hdf5`)
``.csv .parquet``      a column ``smiles``; conformers by RDKit (:mod:`basinet.data.files.smiles_table`)
``.parquet``           lists of elements and positions (:mod:`basinet.data.files.parquet`)
``.npz .mat``          one molecule, many frames, as rMD17; or many molecules (:mod:`basinet.data.files.npz`)
a directory            a :class:`~basinet.data.store.store.MoleculeStore`
``rmd17:aspirin``      a public data set by name (:mod:`basinet.data.sources.names`)
=====================  ==================================================================

The name of a file decides only where its content does not (:mod:`basinet.data.files.readers`).
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from basinet.data.files.extxyz import write_extxyz
from basinet.data.files.options import AS_WRITTEN, PropertyColumn, Reading, property_units
from basinet.data.files.readers import open_file
from basinet.data.files.report import Opened, ReadReport, counted
from basinet.data.sources.names import locate
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.structures import Molecule

__all__ = [
    "AS_WRITTEN",
    "PropertyColumn",
    "ReadReport",
    "Reading",
    "load_store",
    "locate",
    "open_molecules",
    "open_unlabelled",
    "read_molecules",
    "write_extxyz",
]

IN_MEMORY = 2**19
"""Atoms that are kept in memory, about 100 MB; :func:`load_store` writes more to temporary files."""


def open_molecules(path: str | os.PathLike[str], reading: Reading = AS_WRITTEN) -> Opened:
    """Return an iterator over molecules, and a report that fills as they are read.

    Args:
        path: A file (see the module), the directory of a store, or the name of a public data set.
        reading: Units, keys and columns of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format is unknown, or an option makes no sense for it.
    """
    path = locate(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_dir():
        return open_file(path, reading)
    store, report = _open_store(path, reading)
    report.n_molecules = 0  # counted as they come
    return counted(iter(store), report)


def open_unlabelled(path: Path, reading: Reading = AS_WRITTEN) -> Opened:
    """Open molecules whose labels do not matter: array files need no energy unit."""
    energy_unit = reading.energy_unit or ("eV" if path.suffix in (".npz", ".mat") else None)
    return open_molecules(path, dataclasses.replace(reading, energy_unit=energy_unit))


def read_molecules(path: str | os.PathLike[str], reading: Reading = AS_WRITTEN) -> Iterator[Molecule]:
    """Return an iterator over molecules; see :func:`open_molecules`."""
    return open_molecules(path, reading)[0]


def load_store(path: str | os.PathLike[str], reading: Reading = AS_WRITTEN) -> tuple[MoleculeStore, ReadReport]:
    """Return all molecules of a file as a store, or open the store in a directory.

    Molecules beyond ``IN_MEMORY`` atoms go to the directory for temporary files (``TMPDIR``), in files that are mapped
    and then deleted: their space is free when the store is gone, however this process ends.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are no molecules, or as :func:`open_molecules`.
    """
    path = locate(path)
    if path.is_dir():
        store, report = _open_store(path, reading)
        if len(store) == 0:
            raise ValueError(f"{path}: the store has no molecules")
        return store, report
    molecules, report = open_molecules(path, reading)
    return _store_of(molecules, str(path), reading, report), report


def _open_store(path: Path, reading: Reading) -> tuple[MoleculeStore, ReadReport]:
    if reading != Reading(skip_invalid=reading.skip_invalid, processes=reading.processes):
        raise ValueError(
            f"{path}: a store has its own units, keys and flags, and its level of theory; leave those options out"
        )
    store = MoleculeStore.open(path)
    report = ReadReport(path=str(path), n_molecules=len(store))
    for label, used in (("energy", report.energy_keys), ("forces", report.forces_keys)):
        if label in store.label_counts:
            used[label] = store.label_counts[label]
    return store, report


def _store_of(molecules: Iterator[Molecule], source: str, reading: Reading, report: ReadReport) -> MoleculeStore:
    units = property_units(reading.columns)
    block, n_atoms = _block(molecules)
    level = reading.level_of_theory or report.level_of_theory
    if n_atoms < IN_MEMORY:
        return MoleculeStore.from_molecules(block, level_of_theory=level, source=source, units=units)
    directory = Path(tempfile.mkdtemp(prefix="basinet-"))
    try:
        writer = StoreWriter.open(directory / "store", level_of_theory=level, source=source, settings={}, units=units)
        while block:
            writer.write_shard(block)
            block, _ = _block(molecules)
        return writer.finish()
    finally:
        if os.name == "posix":  # elsewhere a mapped file cannot be deleted
            shutil.rmtree(directory, ignore_errors=True)


def _block(molecules: Iterator[Molecule]) -> tuple[list[Molecule], int]:
    """Return molecules of about ``IN_MEMORY`` atoms, and the number of their atoms."""
    block: list[Molecule] = []
    n_atoms = 0
    for molecule in molecules:
        block.append(molecule)
        n_atoms += molecule.n_atoms
        if n_atoms >= IN_MEMORY:
            break
    return block, n_atoms
