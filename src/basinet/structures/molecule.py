"""One conformation of one molecule, with its bonds, labels and flags."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float64, Int64

N_ELEMENTS = 100
"""Rows of every table of elements, as in the published networks: atomic numbers below this."""

MIN_DISTANCE = 0.3
"""Å. Two nuclei closer than this are a damaged record: the shortest bond, H-H, is 0.74 Å."""


class StructureError(ValueError):
    """A molecule is not what it should be; the message says what was got and what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Molecule:
    """One conformation: nuclei, positions, and whatever is known about them. Validated when it is made.

    Labels use the package's units (eV, Å, eV/Å). A label is either one number for the molecule (``energy``) or one row
    per atom (``forces``); an absent label is absent from the mapping, never a zero or a NaN.
    """

    atomic_numbers: Int64[np.ndarray, " n_atoms"]
    positions: Float64[np.ndarray, "n_atoms 3"]
    """Å."""
    bonds: Int64[np.ndarray, "n_bonds 2"] | None = None
    """Pairs of atom indices, each bond once; ``None`` if the source has no bonds (not the same as zero bonds)."""
    bond_orders: Float64[np.ndarray, " n_bonds"] | None = None
    """1, 2, 3, or 1.5 for aromatic; NaN where one is unknown, which makes no rotor."""
    charge: int = 0
    """Total charge, e."""
    labels: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """``energy``: float, eV; ``forces``: float64 array [n_atoms, 3], eV/Å; further properties by name."""
    is_equilibrium: bool = False
    """Whether the positions are a minimum of the potential energy."""
    smiles: str = ""
    """Canonical SMILES of the compound if it is known: what the conformations of one compound share."""
    name: str = ""
    """What a person would call this record in an error message: an identifier, a SMILES, ``file.xyz:17``."""

    def __post_init__(self) -> None:
        """Refuse a record no method could treat correctly."""
        n_atoms = len(self.atomic_numbers)
        if n_atoms == 0:
            raise StructureError(f"{self._who}: a molecule needs at least one atom, got none")
        if self.positions.shape != (n_atoms, 3):
            raise StructureError(f"{self._who}: positions must be [{n_atoms}, 3], got {list(self.positions.shape)}")
        self._check_elements()
        self._check_positions()
        self._check_bonds()
        self._check_labels()

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    @property
    def formula(self) -> str:
        """Sum formula, carbon and hydrogen first (Hill order)."""
        counts = dict(zip(*np.unique(self.atomic_numbers, return_counts=True), strict=True))
        symbols = {chemical_symbols[int(z)]: int(n) for z, n in counts.items()}
        first = [s for s in ("C", "H") if s in symbols] if "C" in symbols else []
        order = first + sorted(s for s in symbols if s not in first)
        return "".join(f"{s}{symbols[s] if symbols[s] > 1 else ''}" for s in order)

    @property
    def _who(self) -> str:
        return self.name or "molecule"

    def _check_elements(self) -> None:
        bad = (self.atomic_numbers < 1) | (self.atomic_numbers >= N_ELEMENTS)
        if bad.any():
            atom = int(np.argmax(bad))
            raise StructureError(
                f"{self._who}: atomic numbers must be 1 to {N_ELEMENTS - 1}, "
                f"got {self.atomic_numbers[atom]} for atom {atom}"
            )

    def _check_positions(self) -> None:
        bad = ~np.isfinite(self.positions).all(axis=1)
        if bad.any():
            raise StructureError(f"{self._who}: the position of atom {int(np.argmax(bad))} is not finite")
        close = closest_pair(self.positions)
        if close is not None and close[2] < MIN_DISTANCE:
            raise StructureError(
                f"{self._who}: atoms {close[0]} and {close[1]} are {close[2]:.3g} Å apart (at least {MIN_DISTANCE} Å "
                "expected); are the coordinates in Å?"
            )

    def _check_bonds(self) -> None:
        if self.bonds is None:
            if self.bond_orders is not None:
                raise StructureError(f"{self._who}: bond orders without bonds")
            return
        if self.bond_orders is not None and len(self.bond_orders) != len(self.bonds):
            raise StructureError(f"{self._who}: {len(self.bonds)} bonds but {len(self.bond_orders)} bond orders")
        if len(self.bonds) == 0:
            return
        if self.bonds.min() < 0 or self.bonds.max() >= self.n_atoms:
            raise StructureError(f"{self._who}: a bond names an atom outside 0 to {self.n_atoms - 1}")
        if (self.bonds[:, 0] == self.bonds[:, 1]).any():
            raise StructureError(f"{self._who}: an atom is bonded to itself")
        if len(np.unique(np.sort(self.bonds, axis=1), axis=0)) != len(self.bonds):
            raise StructureError(f"{self._who}: a bond is listed twice")

    def _check_labels(self) -> None:
        for key, value in self.labels.items():
            array = np.asarray(value)
            if array.dtype.kind not in "fiu":
                raise StructureError(f"{self._who}: label {key!r} must be numbers, got {array.dtype}")
            if not np.isfinite(array).all():
                raise StructureError(f"{self._who}: label {key!r} is not finite")
            if array.ndim > 0 and len(array) != self.n_atoms:
                raise StructureError(
                    f"{self._who}: label {key!r} has {len(array)} rows for {self.n_atoms} atoms; "
                    "a label is one number per molecule or one row per atom"
                )
        forces = self.labels.get("forces")
        if forces is not None and np.shape(forces) != (self.n_atoms, 3):
            raise StructureError(f"{self._who}: forces must be [{self.n_atoms}, 3], got {list(np.shape(forces))}")


def closest_pair(positions: Float64[np.ndarray, "n_atoms 3"]) -> tuple[int, int, float] | None:
    """Return the two closest atoms and their distance in Å; ``None`` for fewer than two atoms."""
    if len(positions) < 2:
        return None
    if len(positions) > 512:
        return _closest_pair_of_many(positions)
    first, second = np.triu_indices(len(positions), k=1)
    distance = np.linalg.norm(positions[first] - positions[second], axis=1)
    pair = int(np.argmin(distance))
    return int(first[pair]), int(second[pair]), float(distance[pair])


def _closest_pair_of_many(positions: Float64[np.ndarray, "n_atoms 3"]) -> tuple[int, int, float]:
    """Row by row, so that a large system needs no quadratic memory."""
    best = (0, 1, float("inf"))
    for i in range(len(positions) - 1):
        distance = np.linalg.norm(positions[i + 1 :] - positions[i], axis=1)
        j = int(np.argmin(distance))
        if distance[j] < best[2]:
            best = (i, i + 1 + j, float(distance[j]))
    return best
