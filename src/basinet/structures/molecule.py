"""Hold one conformation of one molecule, with its bonds, labels and flags."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float64, Int64

from basinet.errors import StructureError
from basinet.structures.ase_labels import CHARGE_KEY, SMILES_KEY, charge_of, labels_of, smiles_of
from basinet.structures.conformers import GenerationError, embed_smiles, require_rdkit

N_ELEMENTS = 100
"""Rows of every table of elements, as in the published networks: atomic numbers below this."""

MIN_DISTANCE = 0.3
"""Å. Two nuclei closer than this are a damaged record: the shortest bond, H-H, is 0.74 Å."""


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
    labels: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """``energy``: float, eV; ``forces``: float64 array [n_atoms, 3], eV/Å; further properties by name."""
    is_equilibrium: bool = False
    """True if the positions are a minimum of the potential energy."""
    smiles: str = ""
    """Canonical SMILES of the compound if it is known: what the conformations of one compound share."""
    name: str = ""
    """Name of this record in error messages: an identifier, a SMILES, ``file.xyz:17``."""

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

    @classmethod
    def from_ase(cls, atoms: Atoms, **fields: Any) -> "Molecule":
        """Return a molecule of ASE's atoms.

        The charge is ``atoms.info["charge"]``, or the sum of the initial charges. Energy and forces are those of
        ``REF_energy`` and ``REF_forces``, else those the calculator has computed already, else those in ``info`` and
        ``arrays``, as in files; nothing is computed.

        Args:
            atoms: one molecule, not periodic; eV and Å.
            **fields: further fields of the molecule, which replace those of the atoms.

        Raises:
            StructureError: the atoms are periodic, or not a valid molecule.

        Example:
            >>> from ase.build import molecule
            >>> Molecule.from_ase(molecule("H2O")).formula
            'H2O'
        """
        name = fields.get("name") or atoms.get_chemical_formula()
        if atoms.pbc.any():
            raise StructureError(
                f"{name}: the atoms are periodic (pbc), and basinet treats molecules only; set atoms.pbc = False if "
                "this is one molecule in a box"
            )
        found = {
            "atomic_numbers": atoms.numbers.astype(np.int64),
            "positions": np.array(atoms.positions, dtype=np.float64),
            "charge": charge_of(atoms, name),
            "labels": {} if "labels" in fields else labels_of(atoms, name),
            "smiles": smiles_of(atoms),
        }
        return cls(**found | fields)

    @classmethod
    def from_rdkit(cls, mol: Any, conformer: int = -1, **fields: Any) -> "Molecule":
        """Return a molecule of RDKit with explicit hydrogens, its bonds, and the positions of one conformer.

        Args:
            mol: an ``rdkit.Chem.Mol``.
            conformer: identifier of the conformer; -1 is the first.
            **fields: further fields of the molecule, which replace those of ``mol``.

        Raises:
            StructureError: it has no positions in space, or hydrogens that are not explicit.
        """
        chem = require_rdkit()
        smiles = chem.MolToSmiles(chem.RemoveHs(mol))
        if not mol.GetNumConformers() or not mol.GetConformer(conformer).Is3D():
            raise StructureError(
                f"{smiles}: the RDKit molecule has no 3D positions; make them with Molecule.from_smiles({smiles!r})"
            )
        if any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
            raise StructureError(
                f"{smiles}: the RDKit molecule has hydrogens without positions; add them before it is embedded "
                "(Chem.AddHs), or with Chem.AddHs(mol, addCoords=True)"
            )
        bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
        found = {
            "atomic_numbers": np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64),
            "positions": np.array(mol.GetConformer(conformer).GetPositions(), dtype=np.float64),
            "bonds": np.array(bonds, dtype=np.int64).reshape(-1, 2),
            "bond_orders": np.array([bond.GetBondTypeAsDouble() for bond in mol.GetBonds()], dtype=np.float64),
            "charge": chem.GetFormalCharge(mol),
            "smiles": smiles,
            "name": smiles,
        }
        return cls(**found | fields)

    @classmethod
    def from_smiles(cls, smiles: str, seed: int = 0, **fields: Any) -> "Molecule":
        """Return one conformer of a SMILES: distance geometry (ETKDGv3), then a minimum of MMFF94 or UFF.

        Args:
            smiles: one molecule with closed shells; hydrogens are added.
            seed: seed for the conformer, and for stereocentres that the SMILES leaves open.
            **fields: further fields of the molecule, which replace those of the SMILES.

        Raises:
            StructureError: there is no conformer.
            ImportError: RDKit is not installed.

        Example:
            >>> Molecule.from_smiles("CCO").formula
            'C2H6O'
        """
        try:
            mol, conformers = embed_smiles(smiles, seed)
        except GenerationError as error:
            raise StructureError(
                f"SMILES {smiles!r}: {error}; expected one molecule with closed shells, such as 'CCO'"
            ) from None
        return cls.from_rdkit(mol, conformers[0], **fields)

    def to_ase(self) -> Atoms:
        """Return ASE's atoms, with ``charge`` and ``smiles`` in ``info`` and labels under ``REF_<name>``."""
        atoms = Atoms(numbers=self.atomic_numbers, positions=self.positions)
        if self.charge:
            atoms.info[CHARGE_KEY] = self.charge
        if self.smiles:
            atoms.info[SMILES_KEY] = self.smiles
        for name, value in self.labels.items():
            if np.ndim(value):
                atoms.arrays[f"REF_{name}"] = np.array(value)
            else:
                atoms.info[f"REF_{name}"] = value
        return atoms

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
