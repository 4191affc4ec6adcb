"""The molecules that everything is timed on: those that come with the package, moved off their minima."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from basinet.data.chemistry.conformers import GenerationError, embed
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
JITTER = 0.05
"""Å. A molecule of high symmetry has vectors that vanish, where no two programs agree on a gradient."""


@cache
def aspirin() -> Molecule:
    """Return one conformer of aspirin, 21 atoms."""
    return _moved(embed(ASPIRIN, seed=0)[0], 0)


@cache
def chain(n_carbons: int) -> Molecule:
    """Return an unbranched alkane, 3 n + 2 atoms."""
    return _moved(embed("C" * n_carbons, seed=0)[0], 0)


@cache
def of_size(n_atoms: int, n_molecules: int) -> Sequence[Molecule]:
    """Return molecules of the list that comes with the package, hydrogens counted, with this number of atoms each.

    Where the list has fewer, further conformations of the same are taken.
    """
    found = [molecule for _, molecule in zip(range(n_molecules), _embedded(n_atoms), strict=False)]
    return [_moved(found[i % len(found)], i) for i in range(n_molecules)]


@cache
def qm9_sized(n_molecules: int) -> Sequence[Molecule]:
    """Return different molecules of 13 to 23 atoms, 18 on average, as in QM9."""
    sizes = [13 + i % 11 for i in range(n_molecules)]
    return [of_size(size, sizes.count(size))[sizes[: i + 1].count(size) - 1] for i, size in enumerate(sizes)]


def batch_of(molecules: Sequence[Molecule]) -> Batch:
    """Return a batch without labels."""
    return collate(molecules)


def _embedded(n_atoms: int) -> Iterator[Molecule]:
    from rdkit import Chem

    for line in files("basinet.data.chemistry").joinpath("molecules.smi").read_text().splitlines():
        smiles = line.split()[0] if line.strip() else ""
        parsed = Chem.MolFromSmiles(smiles) if smiles and not smiles.startswith("#") else None
        if parsed is None or Chem.AddHs(parsed).GetNumAtoms() != n_atoms:
            continue
        try:
            yield embed(smiles, seed=0)[0]
        except GenerationError:
            continue


def _moved(molecule: Molecule, seed: int) -> Molecule:
    shift = np.random.default_rng(seed).normal(scale=JITTER, size=molecule.positions.shape)
    return dataclasses.replace(molecule, positions=molecule.positions + shift)
