import subprocess
import sys
from pathlib import Path

import pytest

from basinet.data.chemistry.compounds import canonical, compound, compounds
from basinet.data.chemistry.conformers import GenerationError
from molecules import packaged_smiles

Chem = pytest.importorskip("rdkit.Chem")
SCRIPT = Path(__file__).parents[3] / "scripts" / "enumerate_molecules.py"
LIST = Path(__file__).parents[3] / "src" / "basinet" / "data" / "chemistry" / "molecules.smi"


@pytest.fixture(scope="module")
def packaged():
    smiles = packaged_smiles()
    return {s: Chem.MolFromSmiles(s) for s in smiles} if len(set(smiles)) == len(smiles) else pytest.fail("duplicates")


def test_the_list_is_long_and_every_line_parses(packaged):
    assert len(packaged) >= 1500
    assert all(packaged.values())


def test_every_line_is_canonical(packaged):
    assert [s for s in packaged if canonical(s) != s] == []


def test_the_molecules_are_small_neutral_connected_and_of_the_stated_elements(packaged):
    elements = {atom.GetSymbol() for molecule in packaged.values() for atom in molecule.GetAtoms()}
    assert elements <= {"H", "C", "N", "O", "F", "S", "Cl"}
    assert max(molecule.GetNumHeavyAtoms() for molecule in packaged.values()) <= 10
    assert {Chem.GetFormalCharge(molecule) for molecule in packaged.values()} == {0}
    assert {len(Chem.GetMolFrags(molecule)) for molecule in packaged.values()} == {1}
    assert not any(atom.GetNumRadicalElectrons() for molecule in packaged.values() for atom in molecule.GetAtoms())


def test_the_first_hundred_molecules_are_already_diverse(packaged):
    first = list(packaged.values())[:100]
    rings = sum(molecule.GetRingInfo().NumRings() > 0 for molecule in first)
    aromatic = sum(any(atom.GetIsAromatic() for atom in molecule.GetAtoms()) for molecule in first)
    elements = {atom.GetSymbol() for molecule in first for atom in molecule.GetAtoms()}
    assert 30 < rings < 80
    assert 15 < aromatic < 60
    assert elements == {"C", "N", "O", "F", "S", "Cl"}


@pytest.mark.parametrize("smiles", ["O", "N", "C", "CCO", "c1ccccc1", "O=C(O)c1ccccc1O", "[H][H]", "[C-]#[O+]"])
def test_well_known_molecules_are_in_the_list(packaged, smiles):
    assert smiles in packaged


@pytest.mark.slow
def test_the_shipped_list_is_what_the_script_prints():
    printed = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True).stdout
    assert printed == LIST.read_text(encoding="utf-8")


def test_stereoisomers_and_isotopologues_are_one_compound_but_tautomers_are_not():
    assert len(compounds(["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O", "[2H]OC(=O)C(C)N"])) == 1
    assert compound("F/C=C/F") == compound("F/C=C\\F")
    assert compound("CC(=O)C") != compound("CC(O)=C")


def test_what_cannot_be_excluded_is_an_error():
    with pytest.raises(ValueError, match=r"cannot exclude 'ethanol': it does not parse; expected a SMILES"):
        compounds(["CCO", "ethanol"])
    with pytest.raises(GenerationError, match="does not parse"):
        canonical("")
