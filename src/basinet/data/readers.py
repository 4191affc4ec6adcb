"""Files of molecules, read one molecule at a time and converted once to eV and Å.

=================  ======================================================================
``.xyz .extxyz``   extended XYZ (ASE); labels ``REF_energy``/``REF_forces`` first
``.sdf``           bonds, charges and SMILES (RDKit); explicit hydrogens
``.npz``           one molecule, many frames: ``z``, ``R``, ``E``, ``F`` as in rMD17
a directory        a :class:`~basinet.data.store.MoleculeStore`
=================  ======================================================================
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from basinet.data.extxyz import read_extxyz, write_extxyz
from basinet.data.report import ReadReport
from basinet.data.sdf import read_sdf
from basinet.data.store import MoleculeStore
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor, length_factor

__all__ = ["ReadReport", "load_store", "open_molecules", "read_molecules", "write_extxyz"]

SUFFIXES = (".xyz", ".extxyz", ".sdf", ".npz")


def open_molecules(
    path: str | os.PathLike[str],
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    is_equilibrium: bool = False,
    energy_key: str | None = None,
    forces_key: str | None = None,
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

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format is unknown, or an argument makes no sense for it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    report = ReadReport(path=str(path), energy_unit=energy_unit or "eV", length_unit=length_unit or "Angstrom")
    report.check_units()
    keys = {"energy_key": energy_key, "forces_key": forces_key}
    match path.suffix.lower():
        case _ if path.is_dir():
            _refuse_for_store(path, energy_unit, length_unit, is_equilibrium or None, energy_key, forces_key)
            molecules = _read_store(path, report)
        case ".xyz" | ".extxyz":
            molecules = read_extxyz(path, report, is_equilibrium=is_equilibrium, **keys)
        case ".sdf":
            if forces_key is not None:
                raise ValueError(f"{path}: forces cannot be read from an SDF; leave forces_key out")
            if energy_key is not None and energy_unit is None:
                raise ValueError(f"{path}: an SDF does not say the unit of {energy_key!r}; give energy_unit")
            molecules = read_sdf(path, report, is_equilibrium=is_equilibrium, energy_key=energy_key)
        case ".npz":
            if energy_unit is None:
                raise ValueError(
                    f'{path}: an .npz does not say its units; give energy_unit ("kcal/mol" for rMD17, or "eV")'
                )
            molecules = _read_npz(path, report, is_equilibrium, energy_key or "E", forces_key or "F", **keys)
        case suffix:
            raise ValueError(f"{path}: cannot read {suffix or 'a file without suffix'}; expected {', '.join(SUFFIXES)}")
    return _counted(molecules, report), report


def read_molecules(
    path: str | os.PathLike[str],
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    is_equilibrium: bool = False,
    energy_key: str | None = None,
    forces_key: str | None = None,
) -> Iterator[Molecule]:
    """Return an iterator over the molecules of a file; the arguments are those of :func:`open_molecules`."""
    molecules, _ = open_molecules(
        path,
        energy_unit=energy_unit,
        length_unit=length_unit,
        is_equilibrium=is_equilibrium,
        energy_key=energy_key,
        forces_key=forces_key,
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
) -> tuple[MoleculeStore, ReadReport]:
    """Return all molecules of a file as a store in memory, or open the store in a directory.

    The arguments are those of :func:`open_molecules`; ``level_of_theory`` is kept in the manifest of the store.

    Raises:
        ValueError: there are no molecules.
    """
    molecules, report = open_molecules(
        path,
        energy_unit=energy_unit,
        length_unit=length_unit,
        is_equilibrium=is_equilibrium,
        energy_key=energy_key,
        forces_key=forces_key,
    )
    if not Path(path).is_dir():
        return MoleculeStore.from_molecules(list(molecules), level_of_theory=level_of_theory, source=str(path)), report
    if level_of_theory:
        raise ValueError(f"{path} is a store and says its level of theory itself; leave level_of_theory out")
    store = MoleculeStore.open(path)
    if len(store) == 0:
        raise ValueError(f"{path}: the store has no molecules")
    _report_store(store, report)
    return store, report


def _counted(molecules: Iterator[Molecule], report: ReadReport) -> Iterator[Molecule]:
    for molecule in molecules:
        report.n_molecules += 1
        yield molecule
    if report.n_molecules == 0:
        raise ValueError(f"{report.path}: no molecules in it")


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


def _refuse_for_store(path: Path, *given: Any) -> None:
    if any(value is not None for value in given):
        raise ValueError(f"{path}: a store has its own units, keys and flags; leave those arguments out")


def _read_npz(
    path: Path,
    report: ReadReport,
    is_equilibrium: bool,
    energy_name: str,
    forces_name: str,
    *,
    energy_key: str | None,
    forces_key: str | None,
) -> Iterator[Molecule]:
    """Read one molecule in many frames; a key that was asked for must be there."""
    arrays = _load_npz(path)
    required = {"z", "R", *(key for key in (energy_key, forces_key) if key is not None)}
    if missing := sorted(required - set(arrays)):
        raise ValueError(
            f"{path}: has no {', '.join(missing)}; expected z [n_atoms], R [frames, n_atoms, 3] and perhaps E, F; "
            f"it has {', '.join(sorted(arrays)) or 'nothing'}"
        )
    z, R = arrays["z"], arrays["R"]
    E, F = arrays.get(energy_name), arrays.get(forces_name)
    if z.ndim != 1 or R.ndim != 3 or R.shape[1:] != (len(z), 3):
        raise ValueError(f"{path}: z {list(z.shape)} and R {list(R.shape)} do not fit; expected [n] and [frames, n, 3]")
    if (E is not None and E.size != len(R)) or (F is not None and F.shape != R.shape):
        shapes = {name: list(a.shape) for name, a in ((energy_name, E), (forces_name, F)) if a is not None}
        raise ValueError(f"{path}: R has {len(R)} frames of {len(z)} atoms, but {shapes} do not fit")
    energy, length = energy_factor(report.energy_unit), length_factor(report.length_unit)
    for frame in range(len(R)):
        labels: dict[str, Any] = {}
        if E is not None:
            labels["energy"] = float(E.reshape(-1)[frame]) * energy
            report.energy_keys[energy_name] += 1
        if F is not None:
            labels["forces"] = F[frame].astype(np.float64) * (energy / length)
            report.forces_keys[forces_name] += 1
        yield Molecule(
            atomic_numbers=z.astype(np.int64),
            positions=R[frame].astype(np.float64) * length,
            labels=labels,
            is_equilibrium=is_equilibrium,
            name=f"{path.name}:{frame}",
        )


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise StructureError(f"{path}: not an .npz of plain arrays, or truncated ({error})") from None
