import sys

import numpy as np
import pytest

from basinet.data.chemistry.conformers import GenerationError, embed, force_field_hessian
from basinet.structures.topology import rotors

pytest.importorskip("rdkit")


def test_ethanol_has_its_hydrogens_bonds_and_canonical_smiles():
    [ethanol] = embed("OCC", seed=1)
    assert ethanol.formula == "C2H6O"
    assert ethanol.smiles == "CCO"
    assert ethanol.bonds.shape == (8, 2)
    assert set(ethanol.bond_orders) == {1.0}
    assert len(rotors(ethanol)) == 2


def test_aromatic_bonds_have_order_one_and_a_half():
    [benzene] = embed("C1=CC=CC=C1", seed=1)
    assert sorted(benzene.bond_orders.tolist()) == [1.0] * 6 + [1.5] * 6


def test_bond_lengths_are_those_of_a_chemist():
    [water] = embed("O", seed=3)
    first, second = water.bonds.T
    lengths = np.linalg.norm(water.positions[first] - water.positions[second], axis=1)
    np.testing.assert_allclose(lengths, 0.97, atol=0.02)  # Å


@pytest.mark.parametrize(
    ("smiles", "n_atoms", "charge"),
    [("[He]", 1, 0), ("[Na+]", 1, 1), ("[NH4+]", 5, 1), ("[C-]#[O+]", 2, 0), ("[H][H]", 2, 0), ("CC(=O)[O-]", 7, -1)],
)
def test_single_atoms_ions_and_molecules_without_hydrogen_embed(smiles, n_atoms, charge):
    [molecule] = embed(smiles, seed=0)
    assert (molecule.n_atoms, molecule.charge) == (n_atoms, charge)
    assert force_field_hessian(molecule).shape == (3 * n_atoms, 3 * n_atoms)


def test_one_seed_gives_one_conformer_and_another_seed_another():
    [first], [same], [other] = embed("CCCCO", seed=5), embed("CCCCO", seed=5), embed("CCCCO", seed=6)
    np.testing.assert_array_equal(first.positions, same.positions)
    assert not np.allclose(first.positions, other.positions)


def test_several_conformers_differ():
    conformers = embed("CCCCO", seed=5, n_conformers=4)
    assert 2 <= len(conformers) <= 4
    distances = [np.linalg.norm(c.positions[0] - c.positions[4]) for c in conformers]
    assert np.ptp(distances) > 0.1


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("not a molecule", "does not parse"),
        ("", "does not parse"),
        ("C1CC", "does not parse"),
        ("O.O", "more than one molecule"),
        ("[CH3]", "unpaired electrons"),
        ("*C", "atom without an element"),
    ],
)
def test_what_cannot_be_embedded_has_a_reason(smiles, reason, capfd):
    with pytest.raises(GenerationError, match=f"^{reason}$"):
        embed(smiles, seed=0)
    assert capfd.readouterr().err == ""


def test_the_force_field_is_the_first_that_has_parameters():
    with pytest.raises(GenerationError, match="^no force-field parameters$"):
        embed("[C-]#[O+]", seed=0, force_fields=("mmff94",))
    [mmff], [uff] = embed("CCO", seed=0), embed("CCO", seed=0, force_fields=("uff",))
    assert not np.allclose(mmff.positions, uff.positions)


def test_the_hessian_is_that_of_a_minimum():
    [molecule] = embed("CC(=O)N", seed=2)
    curvature = np.linalg.eigvalsh(force_field_hessian(molecule))
    scale = curvature.max()
    np.testing.assert_allclose(curvature[:6], 0.0, atol=2e-3 * scale)  # translations and rotations
    assert curvature[6] > -1e-3 * scale
    assert 30 < scale < 200  # eV/Å²: stretching of a double bond


def test_the_hessian_needs_the_atoms_in_the_order_of_the_smiles():
    [ethanol], [ether] = embed("CCO", seed=0), embed("COC", seed=0)
    import dataclasses

    with pytest.raises(ValueError, match="expected a molecule from embed"):
        force_field_hessian(dataclasses.replace(ethanol, smiles=ether.smiles))


def test_without_rdkit_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r'pip install "basinet\[rdkit\]"'):
        embed("C", seed=0)
