"""Files of molecules, read one molecule at a time and converted once to eV and Å.

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

What a file is called matters only where its content does not tell (:mod:`basinet.data.files.formats`).
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from basinet.data.files.ase_files import read_ase_db, read_traj
from basinet.data.files.columns import PropertyColumn, property_units
from basinet.data.files.extxyz import read_extxyz, write_extxyz
from basinet.data.files.formats import format_of
from basinet.data.files.hdf5 import find_layout, read_hdf5
from basinet.data.files.lmdb import read_lmdb
from basinet.data.files.npz import Names, find_arrays, read_npz
from basinet.data.files.parquet import has_positions, parquet_cells, read_parquet
from basinet.data.files.report import ReadReport, counted
from basinet.data.files.sdf import read_sdf
from basinet.data.files.smiles_table import csv_cells, read_smiles_rows
from basinet.data.files.temporary_store import store_of
from basinet.data.sources.names import locate
from basinet.data.store.store import MoleculeStore
from basinet.structures import Molecule

__all__ = ["PropertyColumn", "ReadReport", "load_store", "located", "open_molecules", "read_molecules", "write_extxyz"]


def open_molecules(
    path: str | os.PathLike[str],
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    is_equilibrium: bool = False,
    energy_key: str | None = None,
    forces_key: str | None = None,
    columns: Sequence[PropertyColumn] = (),
    skip_invalid: bool = False,
    processes: int = 1,
) -> tuple[Iterator[Molecule], ReadReport]:
    """Return an iterator over the molecules of a file, and a report that fills as they are read.

    Args:
        path: A file (see the module), or the directory of a store.
        energy_unit: Of the energies in the file, and of the forces with ``length_unit``; ``None`` is eV, except that
            an .npz does not say and must be told.
        length_unit: Of the positions in the file; ``None`` is Å.
        is_equilibrium: Whether the geometries are minima of the energy.
        energy_key: Where the energies are; ``None`` looks in the usual places, in the order of the conventions.
        forces_key: Where the forces are; likewise.
        columns: Further properties to read, one number a molecule. An .npz then gives no energies and forces but those
            that are named.
        skip_invalid: Leave out molecules that are not valid (two atoms at one place, a label that is infinite), and
            count them by reason, where otherwise the first one is an error.
        processes: That make conformers from SMILES. A script that asks for more than one calls this under
            ``if __name__ == "__main__":``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format is unknown, or an argument makes no sense for it.
    """
    path = located(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    report = ReadReport(
        path=str(path),
        energy_unit=energy_unit or "eV",
        length_unit=length_unit or "Angstrom",
        skip_invalid=skip_invalid,
    )
    report.check_units()
    given = _Given(energy_unit, length_unit, is_equilibrium, energy_key, forces_key, columns, processes)
    if path.is_dir():
        _refuse_for_store(path, *given[:2], is_equilibrium or None, energy_key, forces_key, columns or None)
        return counted(_read_store(path, report), report)
    return counted(_read(path, report, given), report)


class _Given(NamedTuple):
    """What a caller says about a file."""

    energy_unit: str | None
    length_unit: str | None
    is_equilibrium: bool
    energy_key: str | None
    forces_key: str | None
    columns: Sequence[PropertyColumn]
    processes: int


def _read(path: Path, report: ReadReport, given: _Given) -> Iterator[Molecule]:
    """Return the molecules of a file; what is wrong with the file as a whole is told now, the rest as they come."""
    energy_unit, length_unit, is_equilibrium, energy_key, forces_key, columns, processes = given
    keys = {"energy_key": energy_key, "forces_key": forces_key}
    match format_of(path):
        case "extxyz":
            return read_extxyz(path, report, is_equilibrium=is_equilibrium, columns=columns, **keys)
        case "traj":
            return read_traj(path, report, is_equilibrium=is_equilibrium, columns=columns, **keys)
        case "db":
            return read_ase_db(path, report, is_equilibrium=is_equilibrium, columns=columns, **keys)
        case "lmdb":
            return read_lmdb(path, report, is_equilibrium=is_equilibrium, columns=columns, **keys)
        case "npz" | "mat":
            names = Names.of(energy_key, forces_key, columns)
            found = find_arrays(path, report, names, energy_unit, length_unit)
            return read_npz(found, report, is_equilibrium=is_equilibrium, columns=columns)
        case "hdf5":
            source = find_layout(path, report, energy_key, forces_key)
            if energy_unit is None and not source.layout.energy_unit and (source.energy or source.forces):
                raise ValueError(f'{path}: the file does not say its units; give energy_unit ("kcal/mol", "eV", "Ha")')
            report.energy_unit = energy_unit or source.layout.energy_unit or "eV"
            report.length_unit = length_unit or source.layout.length_unit
            return read_hdf5(source, report, is_equilibrium=is_equilibrium, columns=columns)
        case "parquet" if has_positions(path):
            return read_parquet(path, report, is_equilibrium=is_equilibrium, columns=columns, **keys)
        case "csv" | "parquet" as kind:
            _refuse_for_table(path, energy_key, energy_unit, forces_key, length_unit, is_equilibrium)
            wanted = [*(() if energy_key is None else (energy_key,)), *(c.key for c in columns)]
            rows = csv_cells(path, wanted) if kind == "csv" else parquet_cells(path, wanted)
            return read_smiles_rows(rows, path, report, energy_key=energy_key, columns=columns, processes=processes)
        case "sdf":
            _refuse_for_sdf(path, energy_key, energy_unit, forces_key)
            return read_sdf(path, report, is_equilibrium=is_equilibrium, energy_key=energy_key, columns=columns)


def read_molecules(
    path: str | os.PathLike[str],
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    is_equilibrium: bool = False,
    energy_key: str | None = None,
    forces_key: str | None = None,
    columns: Sequence[PropertyColumn] = (),
    skip_invalid: bool = False,
    processes: int = 1,
) -> Iterator[Molecule]:
    """Return an iterator over the molecules of a file; the arguments are those of :func:`open_molecules`."""
    molecules, _ = open_molecules(
        path,
        energy_unit=energy_unit,
        length_unit=length_unit,
        is_equilibrium=is_equilibrium,
        energy_key=energy_key,
        forces_key=forces_key,
        columns=columns,
        skip_invalid=skip_invalid,
        processes=processes,
    )
    return molecules


def load_store(
    path: str | os.PathLike[str],
    *,
    level_of_theory: str = "",
    energy_unit: str | None = None,
    length_unit: str | None = None,
    is_equilibrium: bool = False,
    energy_key: str | None = None,
    forces_key: str | None = None,
    columns: Sequence[PropertyColumn] = (),
    skip_invalid: bool = False,
    processes: int = 1,
) -> tuple[MoleculeStore, ReadReport]:
    """Return all molecules of a file as a store, or open the store in a directory.

    The arguments are those of :func:`open_molecules`; ``level_of_theory`` is kept in the manifest of the store. Memory
    does not grow with the file (:func:`basinet.data.files.temporary_store.store_of`).

    Raises:
        ValueError: there are no molecules.
    """
    path = located(path)
    molecules, report = open_molecules(
        path,
        energy_unit=energy_unit,
        length_unit=length_unit,
        is_equilibrium=is_equilibrium,
        energy_key=energy_key,
        forces_key=forces_key,
        columns=columns,
        skip_invalid=skip_invalid,
        processes=processes,
    )
    if not path.is_dir():
        level = level_of_theory or report.level_of_theory
        return store_of(molecules, str(path), property_units(columns), level), report
    if level_of_theory:
        raise ValueError(f"{path} is a store and says its level of theory itself; leave level_of_theory out")
    store = MoleculeStore.open(path)
    if len(store) == 0:
        raise ValueError(f"{path}: the store has no molecules")
    _report_store(store, report)
    return store, report


def located(path: str | os.PathLike[str]) -> Path:
    """Return a path as it is, and for the name of a public data set (``qm9:``) the store of it in the cache.

    A data set that is not there is downloaded and built first; ``basinet data fetch`` does the same and shows progress.

    Raises:
        ValueError: there is no data set of that name.
        DownloadError: it is not there and cannot be downloaded; the message says what to do.
    """
    return locate(path, open_molecules)


def _read_store(path: Path, report: ReadReport) -> Iterator[Molecule]:
    store = MoleculeStore.open(path)
    _report_store(store, report)
    report.n_molecules = 0  # counted as they come
    return iter(store)


def _report_store(store: MoleculeStore, report: ReadReport) -> None:
    report.n_molecules = len(store)
    for key, used in (("energy", report.energy_keys), ("forces", report.forces_keys)):
        if key in store.label_counts:
            used[key] = store.label_counts[key]


def _refuse_for_sdf(path: Path, energy_key: str | None, energy_unit: str | None, forces_key: str | None) -> None:
    if forces_key is not None:
        raise ValueError(f"{path}: forces cannot be read from an SDF; leave forces_key out")
    if energy_key is not None and energy_unit is None:
        raise ValueError(f"{path}: an SDF does not say the unit of {energy_key!r}; give energy_unit")


def _refuse_for_table(
    path: Path,
    energy_key: str | None,
    energy_unit: str | None,
    forces_key: str | None,
    length_unit: str | None,
    is_equilibrium: bool,
) -> None:
    if forces_key is not None or length_unit is not None or is_equilibrium:
        raise ValueError(
            f"{path}: positions are made from its SMILES, in Angstrom, and are no minima of the energies of the data; "
            "leave forces_key, length_unit and is_equilibrium out"
        )
    if energy_key is not None and energy_unit is None:
        raise ValueError(f"{path}: a table does not say the unit of {energy_key!r}; give energy_unit")


def _refuse_for_store(path: Path, *given: Any) -> None:
    if any(value is not None for value in given):
        raise ValueError(f"{path}: a store has its own units, keys and flags; leave those arguments out")
