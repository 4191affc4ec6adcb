"""Real molecules small enough to think about."""

import dataclasses
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from ase.build import molecule as ase_molecule
from ase.data import covalent_radii
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from scipy.spatial.transform import Rotation

from basinet.structures.batch import Batch
from basinet.structures.molecule import Molecule


def from_ase(name: str, **fields: Any) -> Molecule:
    """Return a molecule of ASE's G2 collection."""
    atoms = ase_molecule(name)
    return molecule(atoms.numbers, atoms.positions, name=name, **fields)


def molecule(atomic_numbers: Any, positions: Any, **fields: Any) -> Molecule:
    """Return a molecule from anything numpy understands."""
    return Molecule(
        atomic_numbers=np.array(atomic_numbers, dtype=np.int64),
        positions=np.array(positions, dtype=np.float64).reshape(-1, 3),
        **fields,
    )


def from_smiles(smiles: str, **fields: Any) -> Molecule:
    """Return one conformation, with bonds and explicit hydrogens."""
    return from_rdkit(embedded(smiles), name=smiles, **fields)


def embedded(smiles: str) -> Chem.Mol:
    """Return one conformation as RDKit sees it, aromatic bonds marked as such."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    return mol


def from_rdkit(mol: Chem.Mol, **fields: Any) -> Molecule:
    """Return the first conformation of an RDKit molecule."""
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    return molecule(
        [a.GetAtomicNum() for a in mol.GetAtoms()],
        mol.GetConformer().GetPositions(),
        bonds=np.array(bonds, dtype=np.int64).reshape(-1, 2),
        bond_orders=np.array([b.GetBondTypeAsDouble() for b in mol.GetBonds()], dtype=np.float64),
        **fields,
    )


def hop_distances(n_atoms: int, bonds: np.ndarray, max_hops: int = 3) -> np.ndarray:
    """Return the number of bonds between each pair of atoms; 0 on the diagonal, beyond ``max_hops``, or unconnected."""
    bonded = np.zeros((n_atoms, n_atoms), dtype=bool)
    bonded[bonds[:, 0], bonds[:, 1]] = True
    bonded |= bonded.T
    hops = np.zeros((n_atoms, n_atoms), dtype=np.int64)
    reached = np.eye(n_atoms, dtype=bool)
    frontier = reached
    for hop in range(1, max_hops + 1):
        frontier = (frontier.astype(np.int64) @ bonded.astype(np.int64) > 0) & ~reached
        hops[frontier] = hop
        reached = reached | frontier
    return hops


HELIUM = molecule([2], [[0, 0, 0]], name="helium")
METHANE = from_ase("CH4")
WATER = from_ase("H2O")
ETHANOL = from_ase("CH3CH2OH")
BENZENE = from_ase("C6H6")
CARBON_MONOXIDE = from_ase("CO")
AMMONIUM = molecule(
    [7, 1, 1, 1, 1],
    np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.59,
    charge=1,
    name="NH4+",
)
SMALL = (ETHANOL, HELIUM, WATER, CARBON_MONOXIDE, AMMONIUM, METHANE, BENZENE)
"""Of 1 to 12 atoms; linear, planar, charged and symmetric ones among them."""


def bonded(of: Molecule) -> Molecule:
    """Return a molecule with the bonds that its distances suggest."""
    radius = covalent_radii[of.atomic_numbers]
    distance = np.linalg.norm(of.positions[:, None] - of.positions, axis=-1)
    first, second = np.nonzero(np.triu(distance < 1.25 * (radius[:, None] + radius), k=1))
    return dataclasses.replace(of, bonds=np.stack([first, second], axis=1))


def permuted(of: Molecule, order: list[int]) -> Molecule:
    """Return a molecule with bonds whose atoms come in another order: atom ``order[i]`` is the new atom ``i``."""
    assert of.bonds is not None
    new, bonds = np.argsort(order), of.bonds
    return dataclasses.replace(
        of, atomic_numbers=of.atomic_numbers[order], positions=of.positions[order], bonds=new[bonds]
    )


def labelled(of: Molecule, seed: int = 0, *, is_equilibrium: bool = False) -> Molecule:
    """Return a molecule with an energy of a realistic size and forces that add up to zero."""
    forces = np.random.default_rng(seed).normal(size=(of.n_atoms, 3))
    labels = {"energy": -1000.0 - seed, "forces": forces - forces.mean(0)}
    return molecule(of.atomic_numbers, of.positions, labels=labels, is_equilibrium=is_equilibrium, name=of.name)


def at_equilibrium(of: Molecule) -> Molecule:
    """Return a molecule flagged as a minimum, without labels."""
    return molecule(of.atomic_numbers, of.positions, is_equilibrium=True, name=of.name)


def apart(first: Molecule, second: Molecule, distance: float) -> Molecule:
    """Return two molecules as one record, the second moved by ``distance`` Å."""
    numbers = np.concatenate([first.atomic_numbers, second.atomic_numbers])
    return molecule(numbers, np.concatenate([first.positions, second.positions + [distance, 0, 0]]))


def random_orthogonal(seed: int, *, reflect: bool) -> torch.Tensor:
    """Return a random rotation [3, 3], float64, with a reflection if asked."""
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    return torch.from_numpy(rotation * (-1 if reflect else 1)).double()


def moved(batch: Batch, rotation: torch.Tensor, shift: torch.Tensor) -> Batch:
    """Return a batch turned and shifted as a whole."""
    return batch.replace(positions=batch.positions @ rotation.T + shift)


def packaged_smiles() -> list[str]:
    """Return the list of SMILES that comes with basinet."""
    lines = files("basinet.data.chemistry").joinpath("molecules.smi").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
