"""``import basinet``: names that come when they are asked for, and take what a person has at hand."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import rdDistGeom

import basinet
from basinet import Molecule, Prediction, Predictions
from basinet.errors import StructureError
from basinet.interfaces.molecules import as_molecules
from basinet.models.scope import OutsideScopeError
from basinet.structures.batch import collate
from molecules import WATER
from small_runs import ON_CPU, TINY, frames, make_store, make_xyz, spring_molecule

V0_1 = Path(__file__).parents[1] / "fixtures" / "v0_1"
MODEL = V0_1 / "models" / "energy_forces_noise.safetensors"
ENSEMBLE = V0_1 / "models" / "ensemble.safetensors"
CALIBRATED = V0_1 / "models" / "calibrated_ensemble.safetensors"
PRETRAINED = V0_1 / "models" / "emgp.safetensors"


@pytest.fixture
def water() -> Atoms:
    return ase.build.molecule("H2O")


def rdkit_water() -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles("O"))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


def test_nothing_heavy_is_imported_before_a_name_is_used() -> None:
    code = (
        "import sys, basinet; assert not {'torch', 'numpy', 'ase'} & sys.modules.keys(); "
        "assert set(basinet.__all__) <= set(dir(basinet))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(basinet.__all__) <= 25


def test_a_wrong_name_says_which_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'perdict'; it has .*predict"):
        basinet.perdict  # noqa: B018 (the name is what is tested)


def test_every_public_name_is_documented_and_every_function_says_what_it_returns() -> None:
    for name in set(basinet.__all__) - {"__version__"}:
        value = getattr(basinet, name)
        text = value.__doc__
        assert text and text[0].isupper() and not text.startswith(("Of ", "What ", "Whether ")), name
        if not isinstance(value, type):
            assert "Returns:" in text or name == "torchsim_model", name


def test_a_structure_is_the_same_from_ase_numpy_and_a_molecule(water: Atoms) -> None:
    mine = Molecule.from_ase(water)
    ways: list[Any] = [
        water,
        mine,
        (water.numbers, water.positions),
        (["O", "H", "H"], water.positions.tolist()),
        [mine],
    ]
    for given in ways:
        found, is_one = as_molecules(given)
        assert is_one is not isinstance(given, list)
        np.testing.assert_array_equal(found[0].atomic_numbers, water.numbers)
        np.testing.assert_array_equal(found[0].positions, water.positions)


def test_rdkit_and_smiles_give_bonds_and_the_charge() -> None:
    for given in (rdkit_water(), "O"):
        (found,), is_one = as_molecules(given)
        assert is_one and found.formula == "H2O" and found.smiles == "O"
        assert found.bonds is not None and len(found.bonds) == 2
    assert as_molecules("[NH4+]")[0][0].charge == 1


def test_frames_of_one_molecule_are_one_array(water: Atoms) -> None:
    positions = np.stack([water.positions, water.positions * 1.01])
    found, is_one = as_molecules((water.numbers, positions))
    assert not is_one and len(found) == 2
    np.testing.assert_array_equal(found[1].positions, positions[1])


def test_lists_may_mix_kinds(water: Atoms) -> None:
    found, is_one = as_molecules([water, "O", rdkit_water(), (water.numbers, water.positions), WATER])
    assert not is_one and [m.formula for m in found] == ["H2O"] * 5


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (3, TypeError, "cannot read molecules from int; expected a Molecule, ase.Atoms"),
        ([3], TypeError, "cannot read item 0 of the list, int"),
        ([], ValueError, "the list of molecules is empty"),
        ("water", ValueError, "'water' is no existing file; as a SMILES: .*does not parse; expected one molecule"),
        ("C.C", ValueError, "more than one molecule"),
        ("nothere.xyz", FileNotFoundError, "nothere.xyz does not exist"),
        (["a.xyz", "b.xyz"], TypeError, "item 0 of the list is a file, a.xyz; give one file at a time"),
        (([8, 1, 1], np.zeros((2, 3))), ValueError, r"shape \[2, 3\]; expected \[3, 3\]"),
        (([8.5], np.zeros((1, 3))), ValueError, "whole numbers or symbols"),
        ((["Xx"], np.zeros((1, 3))), ValueError, "atomic numbers must be 1 to 99"),
        (np.zeros((3, 3)), TypeError, "cannot read molecules from ndarray"),
        (Chem.MolFromSmiles("CO"), ValueError, "no 3D positions"),
        (Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]], cell=[5, 5, 5], pbc=True), ValueError, "periodic"),
    ],
)
def test_what_is_no_molecule_says_what_would_be(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_molecules(given)


def test_an_rdkit_molecule_without_its_hydrogens_is_refused() -> None:
    with pytest.raises(StructureError, match="hydrogens without positions.*AddHs"):
        Molecule.from_rdkit(Chem.RemoveHs(rdkit_water()))


def test_ase_and_back_keeps_everything_a_file_would_keep() -> None:
    before = spring_molecule("CH3OH", 0.05, 1)
    after = Molecule.from_ase(before.to_ase())
    np.testing.assert_array_equal(after.positions, before.positions)
    assert after.labels["energy"] == before.labels["energy"] and after.smiles == before.smiles
    np.testing.assert_array_equal(after.labels["forces"], before.labels["forces"])
    ion = Molecule.from_smiles("[NH4+]")
    assert Molecule.from_ase(ion.to_ase()).charge == 1
    assert Molecule.from_ase(before.to_ase(), labels={}, name="x").name == "x"


def test_labels_of_a_calculator_are_taken_only_at_its_positions(water: Atoms) -> None:
    water.calc = basinet.Calculator(MODEL)
    assert Molecule.from_ase(water).labels == {}  # nothing is computed
    energy = water.get_potential_energy()
    assert Molecule.from_ase(water).labels["energy"] == energy
    water.positions[0] += 0.01
    assert Molecule.from_ase(water).labels == {}


def test_a_file_is_read_with_its_units(tmp_path: Path) -> None:
    path = make_xyz(tmp_path / "mols.xyz", frames(["H2O"], 2))
    plain, kcal = basinet.read(path), basinet.read(str(path), energy_unit="kcal/mol")
    assert [m.formula for m in plain] == ["H2O"] * 2
    assert kcal[0].labels["energy"] == pytest.approx(plain[0].labels["energy"] * 0.0433641153)
    with pytest.raises(TypeError, match="energy_units"):
        basinet.read(path, energy_units="eV")


def test_a_prediction_is_what_the_model_says_in_ev(water: Atoms) -> None:
    model = basinet.load(MODEL, precision="float64")
    expected = model(collate([Molecule.from_ase(water)], torch.float64), ["energy", "forces"])
    found = basinet.predict(MODEL, water, precision="float64")
    assert isinstance(found, Prediction)
    assert found.energy == pytest.approx(float(expected["energy"]), abs=1e-9)
    np.testing.assert_allclose(found.forces, expected["forces"].numpy(), atol=1e-9)
    assert found.energy_std is None and found.properties == {} and found.outside_scope == ""
    again = basinet.predict(model, water)  # as it is, in its precision
    assert again.energy == found.energy


def test_many_predictions_are_arrays_in_the_order_of_the_molecules(tmp_path: Path) -> None:
    molecules = frames(["CH4", "H2O", "HCN"], 2)
    found = basinet.predict(MODEL, molecules)
    assert isinstance(found, Predictions) and len(found) == 6
    one_by_one = [basinet.predict(MODEL, m).energy for m in molecules]
    assert found.energy is not None and found.forces is not None
    np.testing.assert_allclose(found.energy, one_by_one, atol=1e-4)
    assert [len(f) for f in found.forces] == [m.n_atoms for m in molecules]
    assert found[1:3].energy == pytest.approx(found.energy[1:3])
    for file in (make_xyz(tmp_path / "mols.xyz", molecules), make_store(tmp_path / "store", molecules)):
        np.testing.assert_allclose(basinet.predict(MODEL, file).energy, found.energy, atol=1e-4)


def test_ensembles_say_their_spread_and_calibrated_ones_an_interval(water: Atoms) -> None:
    found = basinet.predict(ENSEMBLE, water)
    assert found.energy_std > 0 and found.forces_std.shape == (3,)
    many = basinet.predict([ENSEMBLE], [water, water])
    np.testing.assert_allclose(many.energy_std, found.energy_std, rtol=1e-3)
    value = basinet.predict(CALIBRATED, water).properties["size"]
    assert value.unit == "Angstrom^2" and value.lower < value.value < value.upper
    wider = basinet.predict(CALIBRATED, water, coverage=0.95).properties["size"]
    assert wider.upper - wider.lower > value.upper - value.lower
    assert basinet.predict(CALIBRATED, [water]).property("size") == pytest.approx([value.value])
    assert basinet.predict(CALIBRATED, [water]).energy is None


def test_molecules_outside_of_the_scope_are_refused_or_answered_with_the_reason() -> None:
    with pytest.raises(OutsideScopeError, match="elements S"):
        basinet.predict(MODEL, ase.build.molecule("SH2"))
    found = basinet.predict(MODEL, ase.build.molecule("SH2"), outside_scope="warn")
    assert "elements S" in found.outside_scope and np.isfinite(found.energy)
    with pytest.raises(OutsideScopeError):
        basinet.embed(MODEL, ase.build.molecule("SH2"))


def test_a_pretrained_model_embeds_but_has_no_energy_to_predict(water: Atoms) -> None:
    with pytest.raises(ValueError, match=r"no energy in eV and no property; fine-tune it first"):
        basinet.predict(PRETRAINED, water)
    features = basinet.embed(PRETRAINED, water)
    assert features.shape == (8,) and features.dtype == np.float32
    turned = water.copy()
    turned.rotate(40, "x")
    np.testing.assert_allclose(basinet.embed(PRETRAINED, [water, turned]), [features] * 2, atol=1e-5)


def test_embeddings_of_atoms_have_a_row_each(water: Atoms) -> None:
    atoms = basinet.embed(MODEL, water, level="atom")
    assert atoms.shape[0] == 3
    np.testing.assert_allclose(atoms.mean(0), basinet.embed(MODEL, water), atol=1e-5)
    np.testing.assert_allclose(atoms.sum(0), basinet.embed(MODEL, water, pooling="sum"), atol=1e-5)
    assert [len(rows) for rows in basinet.embed(MODEL, [water, "C"], level="atom")] == [3, 5]
    with pytest.raises(ValueError, match=r"has 2 members, asked for member=3; expected a number from 1 to 2"):
        basinet.embed(ENSEMBLE, water, member=3)
    assert not np.allclose(basinet.embed(ENSEMBLE, water), basinet.embed(ENSEMBLE, water, member=2))


def test_errors_are_those_of_the_file_and_of_the_molecules_in_it(tmp_path: Path) -> None:
    molecules = frames(["H2O", "CH4"], 3)
    of_memory = basinet.evaluate(MODEL, molecules)
    of_file = basinet.evaluate(MODEL, make_xyz(tmp_path / "mols.xyz", molecules))
    of_atoms = basinet.evaluate(MODEL, [m.to_ase() for m in molecules])
    assert of_memory.n_forces and of_memory.force_mae == pytest.approx(of_file.force_mae, rel=1e-4)
    assert of_atoms.energy_mae == pytest.approx(of_memory.energy_mae, rel=1e-6)
    with pytest.raises(ValueError, match="has an energy or forces to compare with"):
        basinet.evaluate(MODEL, ase.build.molecule("H2O"))
    with pytest.raises(TypeError, match="energy_unit are for files"):
        basinet.evaluate(MODEL, molecules, energy_unit="eV")


def test_loading_leaves_a_model_as_it_is_and_gives_a_copy() -> None:
    model = basinet.load(MODEL)
    double = basinet.load(model, precision="float64")
    assert next(model.parameters()).dtype == torch.float32 and next(double.parameters()).dtype == torch.float64
    assert not model.training
    with pytest.raises(FileNotFoundError, match="no model file"):
        basinet.load("nothere.safetensors")


SHORT = {"model": TINY, "launch": ON_CPU, "training": {"n_steps": 2, "batch_size": 4, "validate_every": 2}}


def test_a_model_is_pretrained_fine_tuned_and_run_from_python(tmp_path: Path) -> None:
    molecules = frames(["H2O", "CH4", "NH3"], 4)
    first = basinet.pretrain(molecules, tmp_path / "pre", **SHORT, validation_fraction=0.3)
    assert first.model.exists() and first.fit.step == 2
    assert (tmp_path / "pre.data" / "manifest.json").exists()
    tuned = basinet.finetune(
        [m.to_ase() for m in molecules],
        tmp_path / "fine",
        start=first.model,
        launch=ON_CPU,
        n_test=2,
        **{"training.n_steps": 2, "training.validate_every": 1},
    )
    assert tuned.test is not None and np.isfinite(tuned.test.force_mae)
    done = basinet.simulate(
        tuned.model, molecules[0], tmp_path / "run", picoseconds=0.002, replicas=2, record_every=2, temperature=10
    )
    assert done.report.exists() and len(done.replicas) == 2
    again = basinet.pretrain(molecules, tmp_path / "pre", **SHORT, validation_fraction=0.3, resume=True)
    assert again.fit.step == 2


def test_options_that_are_unknown_or_wrong_are_named_before_anything_is_written(tmp_path: Path) -> None:
    data = make_xyz(tmp_path / "mols.xyz", frames(["H2O"], 4))
    with pytest.raises(ValueError, match=r"training.n_stpes"):
        basinet.pretrain(data, tmp_path / "run", **{"training.n_stpes": 2})
    with pytest.raises(ValueError, match="picoseconds"):
        basinet.simulate(MODEL, data, tmp_path / "run", picoseconds=-1)
    assert not (tmp_path / "run").exists()


def test_a_certificate_says_whether_all_checks_pass(tmp_path: Path) -> None:
    found = basinet.certify(MODEL, make_xyz(tmp_path / "water.xyz", frames(["H2O"], 1)), symmetry=1e-30)
    assert not found.passed and found.molecules == ["H2O"]
    with pytest.raises(ValueError, match="symetry"):
        basinet.certify(MODEL, symetry=1e-3)
