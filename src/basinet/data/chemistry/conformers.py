"""Make conformers of a SMILES, and differentiate the energy of its force field (RDKit)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from basinet.structures import Molecule
from basinet.structures.conformers import (
    FORCE_FIELDS,
    ForceField,
    GenerationError,
    embed_smiles,
    force_field,
    parse_smiles,
    require_rdkit,
    with_hydrogens,
)
from basinet.units import KCAL_PER_MOL

__all__ = [
    "FORCE_FIELDS",
    "MAX_HEAVY_ATOMS",
    "ForceField",
    "GenerationError",
    "embed",
    "force_field_hessian",
    "parse_smiles",
    "require_rdkit",
]

MAX_HEAVY_ATOMS = 200
"""Largest molecule to embed: distance geometry takes minutes beyond and rarely succeeds."""
HESSIAN_STEP = 5e-3
"""Step of the second differences of the force-field energy, Å; they are accurate to a per cent."""


def embed(
    smiles: str, seed: int, n_conformers: int = 1, force_fields: Sequence[ForceField] = FORCE_FIELDS
) -> list[Molecule]:
    """Return up to ``n_conformers`` conformers, each at a minimum of the first force field that has parameters.

    Unspecified stereocentres get a configuration by the seed. The molecules have explicit hydrogens, bonds and the
    formal charge; ``smiles`` is canonical, and atoms are in its order with hydrogens last.

    Raises:
        GenerationError: embedding fails; the message is a short reason.
    """
    mol, conformers = embed_smiles(smiles, seed, n_conformers, force_fields)
    return [Molecule.from_rdkit(mol, conformer) for conformer in conformers]


def force_field_hessian(
    molecule: Molecule, force_fields: Sequence[ForceField] = FORCE_FIELDS
) -> Float64[np.ndarray, "n_coordinates n_coordinates"]:
    """Return the second derivatives of the force-field energy, eV/Å², at the positions of an embedded molecule.

    Computed from energies, because the gradient of RDKit at positions other than the conformer's own (``CalcGrad`` with
    an argument) does not match its energies.

    Raises:
        GenerationError: no force field has parameters for the molecule.
    """
    from rdkit.Geometry import Point3D

    mol = with_hydrogens(molecule.smiles)
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    if numbers != molecule.atomic_numbers.tolist():
        raise ValueError(f"the atoms are not those of {molecule.smiles}, in its order; expected a molecule from embed")
    n_coordinates = 3 * molecule.n_atoms
    if n_coordinates == 3:
        return np.zeros((3, 3))
    conformer = require_rdkit().Conformer(molecule.n_atoms)
    for atom, position in enumerate(molecule.positions.tolist()):
        conformer.SetAtomPosition(atom, Point3D(*position))
    field = force_field(mol, force_fields, mol.AddConformer(conformer, assignId=True))
    return _second_differences(field.CalcEnergy, molecule.positions.ravel().tolist()) * KCAL_PER_MOL


def _second_differences(energy: Any, x: list[float]) -> Float64[np.ndarray, "n n"]:
    """Differentiate twice, with one evaluation per pair of coordinates."""
    n, h = len(x), HESSIAN_STEP
    hessian = np.empty((n, n))
    centre = energy(x)
    moved = np.empty(n)
    for i in range(n):
        start = x[i]
        x[i] = start - h
        back = energy(x)
        x[i] = start + h
        moved[i] = energy(x)
        hessian[i, i] = moved[i] - 2 * centre + back
        for j in range(i):
            other = x[j]
            x[j] = other + h
            hessian[i, j] = hessian[j, i] = energy(x) - moved[i] - moved[j] + centre
            x[j] = other
        x[i] = start
    return hessian / h**2
