"""NumPy archives: one molecule in many frames, or many molecules laid end to end."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basinet.data.columns import PropertyColumn, read_properties, sign_of_forces
from basinet.data.report import ReadReport, valid
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor, length_factor

RMD17_NAMES = {"nuclear_charges": "z", "coords": "R", "energies": "E", "forces": "F"}
"""Names of the arrays in the files of rMD17."""


class Names(NamedTuple):
    """Names of the arrays with energies and forces, and whether they were asked for (and so must be there)."""

    energy: str | None
    forces: str | None
    required: frozenset[str]

    @classmethod
    def of(cls, energy_key: str | None, forces_key: str | None, columns: Sequence[PropertyColumn]) -> "Names":
        """Return ``E`` and ``F`` where nothing was asked for; if properties were, only what was asked for."""
        required = frozenset(key for key in (energy_key, forces_key) if key is not None)
        if columns:
            return cls(energy_key, forces_key, required)
        return cls(energy_key or "E", forces_key or "F", required)


def read_npz(
    path: Path, report: ReadReport, *, is_equilibrium: bool, names: Names, columns: Sequence[PropertyColumn] = ()
) -> Iterator[Molecule]:
    """Read molecules in the layout that the arrays show; ``name`` is ``file.npz:17``, numbered from 0.

    ========================  ==============================================================================
    one molecule, as rMD17    ``z`` [n_atoms], ``R`` [frames, n_atoms, 3], and perhaps ``E``, ``F``
    many, ragged              ``n_atoms`` [n], ``z`` [atoms of all], ``pos`` [atoms of all, 3], perhaps ``smiles``;
                              energies and forces only if they are named
    ========================  ==============================================================================

    Raises:
        ValueError: arrays are missing, or do not fit each other.
    """
    arrays = _load(path)
    ragged = "n_atoms" in arrays and "pos" in arrays
    if missing := sorted(({"z"} | names.required | (set() if ragged else {"R"})) - set(arrays)):
        raise ValueError(
            f"{path}: has no {', '.join(missing)}; expected z [n_atoms], R [frames, n_atoms, 3] and perhaps E, F (or "
            f"n_atoms, z, pos for many molecules); it has {', '.join(sorted(arrays)) or 'nothing'}"
        )
    frames = _ragged(path, arrays, names) if ragged else _frames(path, arrays, names)
    energy, length = energy_factor(report.energy_unit), length_factor(report.length_unit)
    force = energy / length * sign_of_forces(names.forces or "")
    scalars = {
        name: a.reshape(-1) for name, a in arrays.items() if a.size == frames.n_molecules and a.dtype.kind in "fiu"
    }
    for i in range(frames.n_molecules):
        labels: dict[str, Any] = {}
        if frames.energies is not None:
            labels["energy"] = float(frames.energies[i]) * energy
            report.energy_keys[str(names.energy)] += 1
        rows = slice(int(frames.offsets[i]), int(frames.offsets[i + 1]))
        if frames.forces is not None:
            labels["forces"] = frames.forces[rows].astype(np.float64) * force
            report.forces_keys[str(names.forces)] += 1
        name = f"{path.name}:{i}"
        labels |= read_properties({key: a[i] for key, a in scalars.items()}, columns, name, report) if columns else {}
        yield from valid(
            report,
            atomic_numbers=frames.numbers[rows].astype(np.int64),
            positions=frames.positions[rows].astype(np.float64) * length,
            labels=labels,
            is_equilibrium=is_equilibrium,
            smiles="" if frames.smiles is None else str(frames.smiles[i]),
            name=name,
        )


class _Frames(NamedTuple):
    """Molecules laid end to end."""

    offsets: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray | None
    forces: np.ndarray | None
    smiles: np.ndarray | None

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return len(self.offsets) - 1


def _frames(path: Path, arrays: Mapping[str, np.ndarray], names: Names) -> _Frames:
    z, R = arrays["z"], arrays["R"]
    if z.ndim != 1 or R.ndim != 3 or R.shape[1:] != (len(z), 3):
        raise ValueError(f"{path}: z {list(z.shape)} and R {list(R.shape)} do not fit; expected [n] and [frames, n, 3]")
    E, F = arrays.get(names.energy or ""), arrays.get(names.forces or "")
    if (E is not None and E.size != len(R)) or (F is not None and F.shape != R.shape):
        shapes = {name: list(a.shape) for name, a in ((names.energy, E), (names.forces, F)) if a is not None}
        raise ValueError(f"{path}: R has {len(R)} frames of {len(z)} atoms, but {shapes} do not fit")
    return _Frames(
        offsets=np.arange(len(R) + 1) * len(z),
        numbers=np.tile(z, len(R)),
        positions=R.reshape(-1, 3),
        energies=None if E is None else E.reshape(-1),
        forces=None if F is None else F.reshape(-1, 3),
        smiles=None,
    )


def _ragged(path: Path, arrays: Mapping[str, np.ndarray], names: Names) -> _Frames:
    n_atoms, z, pos = arrays["n_atoms"].astype(np.int64), arrays["z"], arrays["pos"]
    E = arrays[names.energy] if names.energy in names.required else None
    F = arrays[names.forces] if names.forces in names.required else None
    total, smiles = int(n_atoms.sum()), arrays.get("smiles")
    expected = {"z": (z, (total,)), "pos": (pos, (total, 3)), "smiles": (smiles, n_atoms.shape)}
    expected |= {str(names.energy): (E, n_atoms.shape), str(names.forces): (F, (total, 3))}
    wrong = [
        f"{k} {list(a.shape)}, expected {list(s)}" for k, (a, s) in expected.items() if a is not None and a.shape != s
    ]
    if wrong or n_atoms.ndim != 1 or (n_atoms < 1).any():
        raise ValueError(f"{path}: n_atoms {list(n_atoms.shape)} adds up to {total} atoms, but: {'; '.join(wrong)}")
    return _Frames(np.concatenate([[0], np.cumsum(n_atoms)]), z, pos, E, F, smiles)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {RMD17_NAMES.get(str(name), str(name)): archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise StructureError(f"{path}: not an .npz of plain arrays, or truncated ({error})") from None
