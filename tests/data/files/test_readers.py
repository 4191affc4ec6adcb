"""Readers give the molecules of a file with the right labels, or one clear error; never something in between."""

import sys

import numpy as np
import pytest
from ase.build import molecule as ase_molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read as ase_read
from ase.io import write as ase_write

from basinet.data.readers import Reading, load_store, open_molecules, read_molecules, write_extxyz
from basinet.data.store.writer import StoreWriter
from basinet.structures import Molecule, StructureError
from basinet.units import BOHR, HARTREE, KCAL_PER_MOL

WATER = """3
Properties=species:S:1:pos:R:3:forces:R:3 energy=-2.5 charge=-1 pbc="F F F"
O 0.0 0.0 0.0 0.1 0.2 0.3
H 0.9 0.0 0.0 -0.1 -0.2 0.0
H 0.0 0.9 0.0 0.0 0.0 -0.3
"""


def write(path, text):
    path.write_text(text)
    return path


def water(**info):
    atoms = ase_molecule("H2O")
    atoms.info.update(info)
    return atoms


# --- extended xyz


def test_labels_in_ase_own_keys_are_read_and_reported(tmp_path):
    molecules, report = open_molecules(write(tmp_path / "water.xyz", WATER * 2))
    first, second = molecules
    assert first.labels["energy"] == -2.5
    assert first.labels["forces"][0].tolist() == [0.1, 0.2, 0.3]
    assert first.charge == -1
    assert (first.name, second.name) == ("water.xyz:0", "water.xyz:1")
    assert report.n_molecules == 2
    assert report.energy_keys == {"energy": 2}
    assert "2 from forces" in str(report)
    assert "eV" in str(report)


def test_reference_keys_win_over_the_calculator_and_the_caller_wins_over_both(tmp_path):
    atoms = water(REF_energy=-1.0, dft_energy=-3.0)
    atoms.new_array("REF_forces", np.full((3, 3), 1.0))
    atoms.new_array("dft_forces", np.full((3, 3), 3.0))
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=np.full((3, 3), 2.0))
    ase_write(tmp_path / "w.extxyz", atoms)

    def labels(**keys):
        molecules, report = open_molecules(tmp_path / "w.extxyz", Reading(**keys))
        (molecule,) = molecules
        return molecule.labels["energy"], molecule.labels["forces"][0, 0], list(report.energy_keys)

    assert labels() == (-1.0, 1.0, ["REF_energy"])
    assert labels(energy_key="energy", forces_key="forces") == (-2.0, 2.0, ["energy"])
    assert labels(energy_key="dft_energy", forces_key="dft_forces") == (-3.0, 3.0, ["dft_energy"])


def test_a_key_that_is_not_there_is_named_with_those_that_are(tmp_path):
    file = write(tmp_path / "water.xyz", WATER)
    with pytest.raises(StructureError, match="water.xyz:0: has no 'dft'; it has .*energy"):
        list(read_molecules(file, Reading(energy_key="dft")))


def test_frames_whose_labels_are_under_different_keys_are_not_mixed(tmp_path):
    file = write(tmp_path / "mixed.xyz", WATER + WATER.replace("energy=", "REF_energy="))
    with pytest.raises(StructureError, match="mixed.xyz:1: 'REF_energy' is used here, but 'energy'"):
        list(read_molecules(file))


def test_frames_without_labels_are_read_without_labels(tmp_path):
    bare = "2\n\nH 0 0 0\nH 0 0 0.74\n"
    molecules, report = open_molecules(write(tmp_path / "some.xyz", WATER + bare))
    assert [sorted(m.labels) for m in molecules] == [["energy", "forces"], []]
    assert report.energy_keys == {"energy": 1}


def test_the_words_of_a_comment_are_not_labels(tmp_path):
    file = write(tmp_path / "h2.xyz", "2\nlowest energy found, no charge\nH 0 0 0\nH 0 0 0.74\n")
    (m,) = read_molecules(file)
    assert (m.labels, m.charge) == ({}, 0)
    with pytest.raises(StructureError, match="has no 'energy'"):
        list(read_molecules(file, Reading(energy_key="energy")))


def test_units_are_converted_once(tmp_path):
    file = write(tmp_path / "water.xyz", WATER)
    (m,) = read_molecules(file, Reading(energy_unit="Ha", length_unit="bohr", is_equilibrium=True))
    assert m.labels["energy"] == pytest.approx(-2.5 * HARTREE, rel=1e-15)
    assert m.positions[1, 0] == pytest.approx(0.9 * BOHR, rel=1e-15)
    assert m.labels["forces"][0, 0] == pytest.approx(0.1 * HARTREE / BOHR, rel=1e-15)
    assert m.is_equilibrium
    with pytest.raises(ValueError, match="unknown energy unit 'kcal'"):
        open_molecules(file, Reading(energy_unit="kcal"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no molecules"),
        ("\n\n", "no molecules"),
        (WATER + WATER[:-40], "x.xyz:1: .*"),
        (WATER + "\n".join(WATER.splitlines()[:3]), "x.xyz:1: .*2 of 3 atoms are missing"),
        (WATER + "3", "x.xyz:1: the file ends inside"),
        ("PK not xyz", "x.xyz:0: expected a number of atoms"),
        ("PK\x03\x04 not xyz", "x.xyz: not an .npz"),
        (WATER.replace("3\n", "2\n", 1) + WATER, "x.xyz:1: expected a number of atoms"),
        (WATER + "\n" + WATER, "x.xyz:1: got a blank line"),
        (WATER.replace("0.9 0.0 0.0", "0.9 0.0 zero", 1), "x.xyz:0: cannot be read"),
        (WATER.replace("H 0.9", "Qq 0.9"), "x.xyz:0: cannot be read"),
        (WATER.replace("-2.5", "nan"), "x.xyz:0: label 'energy' is not finite"),
        (WATER.replace("0.1 0.2 0.3", "0.1 0.2 nan"), "x.xyz:0: label 'forces' is not finite"),
        (WATER.replace("-2.5", "low"), "x.xyz:0: 'energy' must be one number"),
        (WATER.replace("charge=-1", "charge=0.5"), "x.xyz:0: charge must be a whole number"),
        (WATER.replace("forces:R:3", "forces:R:2"), "x.xyz:0: forces must be"),
        (WATER.replace('pbc="F F F"', 'Lattice="9 0 0 0 9 0 0 0 9"'), "x.xyz:0: the frame is periodic"),
        (WATER.replace("H 0.9", "H 0.0"), "x.xyz:0: atoms 0 and 1 are 0 Å apart"),
    ],
)
def test_a_damaged_xyz_raises_one_error_with_its_frame(tmp_path, text, fault):
    file = write(tmp_path / "x.xyz", text)
    with pytest.raises(ValueError, match=fault):
        list(read_molecules(file))


def test_a_binary_file_named_xyz_is_refused(tmp_path):
    (tmp_path / "x.xyz").write_bytes(bytes(range(128, 256)))
    with pytest.raises(StructureError, match="not text"):
        list(read_molecules(tmp_path / "x.xyz"))


def test_a_long_file_is_read_as_it_is_asked_for(tmp_path):
    file = write(tmp_path / "long.xyz", WATER * 50 + "damaged")
    molecules = read_molecules(file)
    assert next(molecules).name == "long.xyz:0"


def test_predictions_written_to_xyz_come_back_through_ase(tmp_path):
    (m,) = read_molecules(write(tmp_path / "in.xyz", WATER))
    results = {"energy": -2.25, "forces": np.arange(9.0).reshape(3, 3), "uncertainty": 0.5, "atomic": np.ones(3)}
    assert write_extxyz(tmp_path / "out.xyz", iter([(m, results), (m, {})])) == 2
    atoms = ase_read(tmp_path / "out.xyz", index=0)
    assert atoms.get_potential_energy() == -2.25
    assert np.array_equal(atoms.get_forces(), results["forces"])
    assert atoms.info["REF_energy"] == -2.5
    assert atoms.info["uncertainty"] == 0.5
    assert np.array_equal(atoms.arrays["atomic"], np.ones(3))
    again = list(read_molecules(tmp_path / "out.xyz"))
    assert again[0].labels["energy"] == -2.5  # the label wins over the prediction
    assert again[0].charge == -1
    np.testing.assert_allclose(again[0].labels["forces"], m.labels["forces"], atol=1e-8)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (m,) = read_molecules(write(tmp_path / "in.xyz", WATER))

    def failing():
        yield m, {}
        raise RuntimeError("no more memory")

    with pytest.raises(RuntimeError):
        write_extxyz(tmp_path / "in.xyz", failing())
    assert (tmp_path / "in.xyz").read_text() == WATER
    assert [p.name for p in tmp_path.iterdir()] == ["in.xyz"]
    with pytest.raises(ValueError, match="written twice"):
        write_extxyz(tmp_path / "in.xyz", [(m, {"energy": 1.0})], label_prefix="")


# --- sdf

chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")


def block(smiles: str, hydrogens: bool = True) -> str:
    from rdkit.Chem import AllChem

    mol = chem.AddHs(chem.MolFromSmiles(smiles)) if hydrogens else chem.MolFromSmiles(smiles)
    AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.SetProp("energy", "-1.5")
    return chem.MolToMolBlock(mol) + "> <energy>\n-1.5\n\n$$$$\n"


def test_sdf_gives_bonds_charge_and_the_smiles_of_the_compound(tmp_path):
    file = write(tmp_path / "m.sdf", block("c1ccccc1") + block("C[NH3+]"))
    benzene, ammonium = read_molecules(file, Reading(is_equilibrium=True))
    assert sorted(benzene.bond_orders.tolist()) == [1.0] * 6 + [1.5] * 6
    assert benzene.bonds.shape == (12, 2)
    assert benzene.smiles == "c1ccccc1"
    assert benzene.is_equilibrium
    assert (ammonium.charge, ammonium.smiles, ammonium.name) == (1, "C[NH3+]", "m.sdf:1")
    assert ammonium.labels == {}


def test_an_sdf_energy_is_read_if_its_key_and_unit_are_given(tmp_path):
    file = write(tmp_path / "m.sdf", block("CO"))
    (m,) = read_molecules(file, Reading(energy_key="energy", energy_unit="kcal/mol"))
    assert m.labels["energy"] == pytest.approx(-1.5 * KCAL_PER_MOL, rel=1e-15)
    with pytest.raises(ValueError, match="give energy_unit"):
        read_molecules(file, Reading(energy_key="energy"))
    with pytest.raises(StructureError, match="no property 'E'; it has energy"):
        list(read_molecules(file, Reading(energy_key="E", energy_unit="eV")))


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: block("CCO", hydrogens=False), "m.sdf:0: 6 hydrogens are implicit.*AddHs"),
        (lambda: block("CO") + block("CO")[:200], r"m.sdf:1: "),
        (lambda: block("CO") + "garbage\n", r"m.sdf:1: "),
        (lambda: "", "no molecules"),
    ],
)
def test_a_damaged_sdf_raises_one_error_with_its_record(tmp_path, make, fault):
    with pytest.raises(ValueError, match=fault):
        list(read_molecules(write(tmp_path / "m.sdf", make())))


def test_a_drawing_is_not_taken_for_a_geometry(tmp_path):
    mol = chem.AddHs(chem.MolFromSmiles("CC"))
    chem.rdDepictor.Compute2DCoords(mol)
    file = write(tmp_path / "m.sdf", chem.MolToMolBlock(mol) + "$$$$\n")
    with pytest.raises(StructureError, match="drawing"):
        list(read_molecules(file))


def test_without_rdkit_the_error_says_what_to_install(tmp_path, monkeypatch):
    file = write(tmp_path / "m.sdf", block("CO"))
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r'pip install "basinet\[rdkit\]"'):
        list(read_molecules(file))


# --- npz, stores, dispatch


def save_npz(path, **changes):
    rng = np.random.default_rng(0)
    z = np.array([8, 1, 1], dtype=np.uint8)
    R = ase_molecule("H2O").positions + rng.normal(0, 0.01, (4, 3, 3))
    arrays = {"z": z, "R": R.astype(np.float32), "E": np.arange(4.0), "F": rng.normal(size=(4, 3, 3)), **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return arrays


def test_npz_frames_are_converted_from_the_unit_that_must_be_given(tmp_path):
    arrays = save_npz(tmp_path / "w.npz", md17_E=np.arange(4.0) + 10)
    with pytest.raises(ValueError, match=r'give energy_unit \("kcal/mol" for rMD17'):
        read_molecules(tmp_path / "w.npz")
    store, report = load_store(tmp_path / "w.npz", Reading(energy_unit="kcal/mol", level_of_theory="PBE"))
    assert len(store) == 4
    assert store.manifest.level_of_theory == "PBE"
    assert store[2].labels["energy"] == pytest.approx(2 * KCAL_PER_MOL, rel=1e-15)
    np.testing.assert_allclose(store[2].labels["forces"], arrays["F"][2] * KCAL_PER_MOL, rtol=1e-6)
    assert report.forces_keys == {"F": 4}
    other = list(read_molecules(tmp_path / "w.npz", Reading(energy_unit="eV", energy_key="md17_E")))
    assert other[3].labels["energy"] == 13.0


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"R": None}, "has no R.*it has E, F, z"),
        ({"E": np.zeros(3)}, "do not fit"),
        ({"F": np.zeros((4, 2, 3))}, "do not fit"),
        ({"z": np.ones(4, dtype=np.uint8)}, "do not fit"),
        ({"E": np.array([0, 1, np.nan, 2])}, r"w.npz:2: label 'energy' is not finite"),
        ({"z": np.array([object()] * 3)}, "plain arrays"),
    ],
)
def test_a_damaged_npz_raises_one_error(tmp_path, changes, fault):
    save_npz(tmp_path / "w.npz", **changes)
    with pytest.raises(ValueError, match=fault):
        list(read_molecules(tmp_path / "w.npz", Reading(energy_unit="eV")))


def test_a_truncated_npz_is_refused(tmp_path):
    save_npz(tmp_path / "w.npz")
    whole = (tmp_path / "w.npz").read_bytes()
    for n in (0, 100, len(whole) - 50):
        (tmp_path / "w.npz").write_bytes(whole[:n])
        with pytest.raises(StructureError, match="w.npz"):
            list(read_molecules(tmp_path / "w.npz", Reading(energy_unit="eV")))


def test_a_store_is_read_like_a_file(tmp_path):
    writer = StoreWriter.open(tmp_path / "store", level_of_theory="xTB", source="", settings={})
    writer.write_shard([Molecule(atomic_numbers=np.array([2]), positions=np.zeros((1, 3)), labels={"energy": 1.0})])
    writer.finish()
    assert [m.labels["energy"] for m in read_molecules(tmp_path / "store")] == [1.0]
    store, report = load_store(tmp_path / "store")
    assert len(store) == report.n_molecules == 1
    assert report.energy_keys == {"energy": 1}
    with pytest.raises(ValueError, match="its own units"):
        load_store(tmp_path / "store", Reading(energy_unit="Ha"))
    with pytest.raises(ValueError, match="its level of theory"):
        load_store(tmp_path / "store", Reading(level_of_theory="DFT"))


def test_an_unknown_or_absent_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .pdf; expected .xyz"):
        read_molecules(write(tmp_path / "paper.pdf", "x"))
    with pytest.raises(FileNotFoundError):
        read_molecules(tmp_path / "nowhere.xyz")
    with pytest.raises(ValueError, match="no molecules"):
        load_store(write(tmp_path / "empty.xyz", ""))
