"""Files of molecules, read one molecule at a time and converted once to eV and Å.

=================  ======================================================================
``.xyz .extxyz``   extended XYZ (ASE); labels ``REF_energy``/``REF_forces`` first
``.sdf``           bonds, charges and SMILES (RDKit); explicit hydrogens
``.traj .db``      trajectories and databases of ASE (:mod:`basinet.data.ase_files`)
``.h5 .hdf5``      the layouts of ANI-1x, ANI-2x and SPICE, with their units (:mod:`basinet.data.hdf5`)
``.csv``           a column ``smiles``; conformers by RDKit (:mod:`basinet.data.smiles_table`)
``.npz``           one molecule, many frames: ``z``, ``R``, ``E``, ``F`` as in rMD17; or many molecules: ``n_atoms``,
                   ``z``, ``pos`` (:mod:`basinet.data.npz`)
a directory        a :class:`~basinet.data.store.MoleculeStore`
``rmd17:aspirin``  a public data set by name, fetched when it is first asked for (:mod:`basinet.data.sources.names`)
=================  ======================================================================
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from basinet.data.ase_files import read_ase_db, read_traj
from basinet.data.columns import PropertyColumn, property_units
from basinet.data.extxyz import read_extxyz, write_extxyz
from basinet.data.hdf5 import find_layout, read_hdf5
from basinet.data.npz import Names, read_npz
from basinet.data.report import ReadReport, counted
from basinet.data.sdf import read_sdf
from basinet.data.smiles_table import read_smiles_table
from basinet.data.sources.names import locate
from basinet.data.store import MoleculeStore
from basinet.structures import Molecule

__all__ = ["PropertyColumn", "ReadReport", "load_store", "located", "open_molecules", "read_molecules", "write_extxyz"]

SUFFIXES = (".xyz", ".extxyz", ".sdf", ".npz", ".traj", ".db", ".h5", ".hdf5", ".csv")


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
) -> tuple[Iterator[Molecule], ReadReport]:
    """Return an iterator over the molecules of a file, and a report that fills as they are read.

    Args:
        path: A file by its suffix (see the module), or the directory of a store.
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
    keys = {"energy_key": energy_key, "forces_key": forces_key}
    match path.suffix.lower():
        case _ if path.is_dir():
            given = (energy_unit, length_unit, is_equilibrium or None, energy_key, forces_key, columns or None)
            _refuse_for_store(path, *given)
            molecules = _read_store(path, report)
        case ".xyz" | ".extxyz":
            molecules = read_extxyz(path, report, is_equilibrium=is_equilibrium, columns=columns, **keys)
        case ".sdf":
            _refuse_for_sdf(path, energy_key, energy_unit, forces_key)
            given = {"is_equilibrium": is_equilibrium, "energy_key": energy_key}
            molecules = read_sdf(path, report, **given, columns=columns)
        case ".npz":
            names = Names.of(energy_key, forces_key, columns)
            if energy_unit is None and (names.energy or names.forces):
                raise ValueError(
                    f'{path}: an .npz does not say its units; give energy_unit ("kcal/mol" for rMD17, or "eV")'
                )
            molecules = read_npz(path, report, is_equilibrium=is_equilibrium, names=names, columns=columns)
        case ".traj":
            molecules = read_traj(path, report, is_equilibrium=is_equilibrium, columns=columns, **keys)
        case ".db":
            molecules = read_ase_db(path, report, is_equilibrium=is_equilibrium, columns=columns, **keys)
        case ".h5" | ".hdf5":
            source = find_layout(path, report, energy_key, forces_key)
            report.energy_unit = energy_unit or source.layout.energy_unit
            report.length_unit = length_unit or source.layout.length_unit
            molecules = read_hdf5(source, report, is_equilibrium=is_equilibrium, columns=columns)
        case ".csv":
            _refuse_for_table(path, energy_key, energy_unit, forces_key, length_unit, is_equilibrium)
            molecules = read_smiles_table(path, report, energy_key=energy_key, columns=columns)
        case ".parquet":
            raise ValueError(f"{path}: parquet is not read; write the table as CSV (pandas: to_csv(index=False))")
        case suffix:
            raise ValueError(f"{path}: cannot read {suffix or 'a file without suffix'}; expected {', '.join(SUFFIXES)}")
    return counted(molecules, report)


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
) -> tuple[MoleculeStore, ReadReport]:
    """Return all molecules of a file as a store in memory, or open the store in a directory.

    The arguments are those of :func:`open_molecules`; ``level_of_theory`` is kept in the manifest of the store.

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
    )
    if not path.is_dir():
        store = MoleculeStore.from_molecules(
            list(molecules),
            level_of_theory=level_of_theory or report.level_of_theory,
            source=str(path),
            units=property_units(columns),
        )
        return store, report
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
