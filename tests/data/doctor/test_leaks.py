"""A copy of a conformation is found however it was turned, shifted, mirrored or written; another one is not."""

import numpy as np
import pytest
from ase.build import molecule as g2
from scipy.spatial.transform import Rotation

from basinet.data.doctor.leaks import find_leaks
from basinet.data.store.store import MoleculeStore
from basinet.structures import Molecule

NAMES = ("CH3CH2OH", "CH4", "C6H6", "H2O", "CO", "CH3COOH", "NH3", "C3H8", "cyclobutane", "H2")


def frames(seed: int = 0, sigma: float = 0.05, names=NAMES) -> list[Molecule]:
    """Return a few distorted molecules."""
    rng = np.random.default_rng(seed)
    found = []
    for name in names:
        atoms = g2(name)
        positions = atoms.positions + rng.normal(scale=sigma, size=atoms.positions.shape)
        found.append(Molecule(atomic_numbers=atoms.numbers.astype(np.int64), positions=positions))
    return found


def moved(m: Molecule, seed: int, mirror: bool = False, decimals: int | None = None) -> Molecule:
    """Return a copy turned, shifted, with its atoms in another order, and perhaps mirrored and rounded."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(m.n_atoms)
    positions = Rotation.random(random_state=seed).apply(m.positions[order]) + rng.normal(size=3)
    if mirror:
        positions = positions * [1, 1, -1]
    if decimals is not None:
        positions = positions.round(decimals)
    return Molecule(atomic_numbers=m.atomic_numbers[order], positions=positions)


def store(molecules) -> MoleculeStore:
    return MoleculeStore.from_molecules(list(molecules))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("decimals", [None, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_turned_permuted_and_rounded_copy_is_found(seed, mirror, decimals):
    molecules = frames(seed)
    copies = [moved(m, 10 * seed + i, mirror, decimals) for i, m in enumerate(molecules)]
    found = find_leaks(store(molecules), store(frames(99) + copies[::-1]))
    assert found.rows.tolist() == list(range(10))
    assert found.partners.tolist() == [19 - i for i in range(10)]


def test_a_slightly_different_conformation_is_not_a_copy():
    molecules = frames()
    others = [
        Molecule(
            atomic_numbers=m.atomic_numbers,
            positions=m.positions + 2e-3 * np.random.default_rng(i).normal(size=m.positions.shape),
        )
        for i, m in enumerate(molecules)
    ]
    assert len(find_leaks(store(molecules), store(others)).rows) == 0


def test_a_conformation_with_two_elements_exchanged_is_another():
    co, other = (
        Molecule(atomic_numbers=np.array(z), positions=np.array([[0.0, 0, 0], [0, 0, 1.1], [0, 0, 2.3]]))
        for z in ([6, 8, 7], [8, 6, 7])
    )
    assert len(find_leaks(store([co]), store([other])).rows) == 0


def test_copies_are_found_at_the_edges_of_cells():
    """Oracle: 2,000 copies rounded to four digits, of molecules whose moments fall anywhere in their cells."""
    molecules = [m for seed in range(200) for m in frames(seed)]
    found = find_leaks(store(molecules), store([moved(m, i, decimals=4) for i, m in enumerate(molecules)]))
    assert found.rows.tolist() == list(range(2000))
    larger = np.array([m.n_atoms for m in molecules]) > 3  # the others come close to each other by chance
    assert (found.partners == found.rows)[larger].all()


def test_parts_of_one_store_are_compared():
    molecules = frames() + [moved(m, i) for i, m in enumerate(frames())]
    both = store(molecules)
    found = find_leaks(both, both, np.arange(10), np.arange(12, 20))
    assert found.rows.tolist() == list(range(2, 10)) and found.partners.tolist() == list(range(12, 20))
    assert found.n_compared == 10
    assert len(find_leaks(both, both, np.arange(10), np.zeros(0, dtype=np.int64)).rows) == 0


def test_a_single_atom_is_no_conformation():
    atom = store([Molecule(atomic_numbers=np.array([2]), positions=np.zeros((1, 3)))])
    found = find_leaks(atom, atom)
    assert len(found.rows) == 0 and found.n_compared == 0


def test_many_copies_of_one_conformation_are_no_trouble():
    same = store([moved(g, i) for i, g in enumerate([frames()[0]] * 100)])
    assert find_leaks(same, same).rows.tolist() == list(range(100))


def named(*smiles: str) -> MoleculeStore:
    """Return methanes with the wrong SMILES: of one sum formula, and each somewhere else."""
    rng = np.random.default_rng(len(smiles))
    methane = g2("CH4")
    return store(
        Molecule(
            atomic_numbers=methane.numbers.astype(np.int64),
            positions=methane.positions + 0.3 * rng.normal(size=(5, 3)),
            smiles=s,
        )
        for s in smiles
    )


def test_a_compound_is_found_however_its_smiles_is_written():
    found = find_leaks(named("OCC", "C1=CC=CC=C1", "CCC", ""), named("CCO", "c1ccccc1", "CC=O", "[CH3][CH2]O"))
    assert found.compounds == ("CCO", "c1ccccc1")
    assert found.n_compounds == 3 and found.n_unnamed == (1, 0)
    assert "2 of 3 compounds are in both (CCO, c1ccccc1)" in str(found)


def test_what_is_no_smiles_is_compared_as_written():
    assert find_leaks(named("frame of X", "C"), named("frame of X")).compounds == ("frame of X",)


def test_without_smiles_compounds_are_not_compared():
    found = find_leaks(store(frames()), named("CCO"))
    assert found.n_compounds == 0 and "compounds not compared (no SMILES)" in str(found)
