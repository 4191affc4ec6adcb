"""Turn what a person has at hand into molecules: files, SMILES, objects of ASE and RDKit, arrays."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers as number_of_symbol

from basinet.data.files.readers import SUFFIXES
from basinet.data.readers import Reading, read_molecules
from basinet.data.sources.names import dataset_named
from basinet.data.store.store import MoleculeStore
from basinet.errors import StructureError
from basinet.structures import Molecule

EXPECTED = "a Molecule, ase.Atoms, rdkit.Chem.Mol, SMILES, (atomic_numbers, positions), a file, or a list of them"


def read(file: str | Path, **reading: Any) -> list[Molecule]:
    """Read all molecules of a file, a store, or a public data set.

    Data that does not fit into memory need not be read: every function that takes molecules takes the path too.

    Args:
        file: extended XYZ, SDF, npz, HDF5, LMDB, a trajectory or database of ASE, a table of SMILES, the directory of
            a store, or the name of a data set such as ``"rmd17:aspirin"``.
        **reading: options of :class:`~basinet.data.readers.Reading`, such as ``energy_unit="kcal/mol"``,
            ``energy_key="E"``, ``forces_key="F"``, ``is_equilibrium=True``.

    Returns:
        Molecules with positions in Å, and the labels ``energy`` (eV) and ``forces`` (eV/Å) where the file has them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format is unknown, a molecule is not valid, or an option does not fit the format.
        TypeError: there is no such option.
    """
    return list(read_molecules(file, Reading(**reading)))


def is_file(given: Any) -> bool:
    """Return whether an argument names a file, a store or a public data set; other texts are SMILES."""
    if isinstance(given, Path):
        return True
    if not isinstance(given, str):
        return False
    path = Path(given)
    return path.suffix.lower() in SUFFIXES or path.exists() or _is_dataset(given)


def _is_dataset(text: str) -> bool:
    try:
        return dataset_named(text) is not None
    except ValueError:
        return False


def as_molecules(given: Any, *, seed: int = 0) -> tuple[Sequence[Molecule], bool]:
    """Return molecules, and whether one single structure was given.

    Args:
        given: a Molecule, ``ase.Atoms``, ``rdkit.Chem.Mol`` or SMILES; ``(atomic_numbers, positions)`` with positions
            [n_atoms, 3] in Å, or [n_frames, n_atoms, 3] for several frames; a path; or a list of structures.
        seed: seed for the conformers of SMILES.

    Raises:
        TypeError: it is nothing of this kind.
        ValueError: a structure is not valid, or there is none.
        FileNotFoundError: there is no such file.
    """
    if is_file(given):
        return read(given), False
    if isinstance(given, MoleculeStore):
        return list(given), False
    if _is_arrays(given):
        frames = _frames(*given)
        return frames, np.ndim(given[1]) == 2
    if (one := _structure(given, seed)) is not None:
        return [one], True
    if isinstance(given, np.ndarray) or not isinstance(given, Iterable):
        raise TypeError(f"cannot read molecules from {type(given).__name__}; expected {EXPECTED}")
    found: list[Molecule] = []
    for place, item in enumerate(given):
        if is_file(item):
            raise TypeError(f"item {place} of the list is a file, {item}; give one file at a time, or its molecules")
        molecule = _frames(*item)[0] if _is_arrays(item) and np.ndim(item[1]) == 2 else _structure(item, seed)
        if molecule is None:
            raise TypeError(f"cannot read item {place} of the list, {type(item).__name__}; expected {EXPECTED}")
        found.append(molecule)
    if not found:
        raise ValueError(f"the list of molecules is empty; expected {EXPECTED}")
    return found, False


def _structure(given: Any, seed: int) -> Molecule | None:
    """Return one molecule; ``None`` if the argument is no single structure."""
    chem = sys.modules.get("rdkit.Chem")  # an object of RDKit exists only after its import
    if isinstance(given, Molecule):
        return given
    if isinstance(given, Atoms):
        return Molecule.from_ase(given)
    if isinstance(given, str):
        try:
            return Molecule.from_smiles(given, seed)
        except StructureError as error:
            raise ValueError(f"{given!r} is no existing file; as a SMILES: {error}") from None
    if chem is not None and isinstance(given, chem.Mol):
        return Molecule.from_rdkit(given)
    return None


def _is_arrays(given: Any) -> bool:
    """Return whether an argument is a pair of elements and positions."""
    if not isinstance(given, tuple) or len(given) != 2 or any(isinstance(g, str | Atoms | Molecule) for g in given):
        return False
    return np.ndim(given[0]) == 1


def _frames(elements: Any, positions: Any) -> list[Molecule]:
    numbers = [number_of_symbol.get(e, 0) if isinstance(e, str) else e for e in np.asarray(elements).tolist()]
    places = np.asarray(positions, dtype=np.float64)
    if places.ndim not in (2, 3) or places.shape[-2:] != (len(numbers), 3):
        raise ValueError(
            f"positions have the shape {list(places.shape)}; expected [{len(numbers)}, 3], or [n_frames, "
            f"{len(numbers)}, 3], in Å, for {len(numbers)} atomic numbers"
        )
    if any(number != int(number) for number in numbers):
        raise ValueError(f"atomic numbers must be whole numbers or symbols, got {numbers}")
    atomic_numbers = np.array(numbers, dtype=np.int64)
    return [Molecule(atomic_numbers=atomic_numbers, positions=frame) for frame in places.reshape(-1, len(numbers), 3)]
