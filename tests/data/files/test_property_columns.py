"""Properties in files: found by their column, converted once, and refused with the columns there are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ase import units as ase_units
from rdkit import Chem

from basinet.data.readers import PropertyColumn, Reading, load_store
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.units import PROPERTY, REPORTED, property_factor, property_unit
from molecules import HELIUM, METHANE, WATER, embedded, from_smiles
from reference import reference_file

HOMO = PropertyColumn(name="homo", key="homo_Ha", unit="Ha")
HARTREE = property_factor("Ha")


def write_xyz(path: Path, *comments: str) -> Path:
    path.write_text("".join(f"2\n{comment}\nC 0 0 0\nO 0 0 1.13\n" for comment in comments))
    return path


def values(store: MoleculeStore, label: str) -> list[float | None]:
    return [m.labels.get(label) for m in store]


def test_factors_are_those_of_ase() -> None:
    assert property_factor("D") == pytest.approx(ase_units.Debye, rel=1e-6)
    assert property_factor("bohr^3") == pytest.approx(ase_units.Bohr**3, rel=1e-6)
    assert property_factor("cal/mol/K") == pytest.approx(ase_units.kcal / 1000 / ase_units.mol, rel=1e-6)
    assert property_factor("J/mol/K") == pytest.approx(ase_units.kJ / 1000 / ase_units.mol, rel=1e-6)
    assert property_unit("bohr^2") == "Angstrom^2"
    assert {unit for unit, _ in PROPERTY.values()} == set(REPORTED)
    assert all(property_unit(REPORTED[unit]) == unit and property_factor(unit) == 1 for unit in REPORTED)


def test_an_extxyz_has_it_in_the_comment_line(tmp_path: Path) -> None:
    path = write_xyz(tmp_path / "m.xyz", "homo_Ha=-0.25 logP=2", "homo_Ha=nan logP=-1")
    store, report = load_store(path, Reading(columns=(HOMO, PropertyColumn(name="logP", key="logP", unit="1"))))
    assert values(store, "homo") == [pytest.approx(-0.25 * HARTREE), None]
    assert values(store, "logP") == [2.0, -1.0]
    assert store.manifest.units["homo"] == "eV"
    assert store.label_counts == {"homo": 1, "logP": 2}
    assert "; 1 homo (Ha) from homo_Ha; 2 logP (1) from logP; 1 without homo" in str(report)


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("lumo=1 gap=2", r"m.xyz:0: no column 'homo_Ha' for the property 'homo'; the columns there are: gap, lumo"),
        ("", r"no column 'homo_Ha' .*: none"),
        ("homo_Ha=high", r"'homo_Ha' must be one number, got 'high'"),
        ("homo_Ha=inf", r"label 'homo' is not finite"),
    ],
)
def test_what_is_not_there_or_no_number_is_said(tmp_path: Path, comment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_store(write_xyz(tmp_path / "m.xyz", comment), Reading(columns=(HOMO,)))


def test_a_unit_nobody_knows_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="unknown unit 'hartree' of a property; choose one of eV, meV, Ha"):
        PropertyColumn(name="homo", key="homo", unit="hartree")


def test_an_sdf_has_it_as_a_property_of_the_record(tmp_path: Path) -> None:
    mol = embedded("CCO")
    mol.SetProp("homo_Ha", "-0.25")
    with Chem.SDWriter(str(tmp_path / "m.sdf")) as writer:
        writer.write(mol)
    store, _ = load_store(tmp_path / "m.sdf", Reading(columns=(HOMO,)))
    assert values(store, "homo") == [pytest.approx(-0.25 * HARTREE)]
    with pytest.raises(ValueError, match=r"no column 'gap' .*: homo_Ha$"):
        load_store(tmp_path / "m.sdf", Reading(columns=(dataclasses.replace(HOMO, key="gap"),)))


def test_an_npz_of_one_molecule_has_it_frame_by_frame(tmp_path: Path) -> None:
    R = np.stack([WATER.positions, WATER.positions * 1.01])
    np.savez(tmp_path / "w.npz", z=WATER.atomic_numbers, R=R, E=[1.0, 2.0], homo_Ha=[-0.2, -0.3])
    store, _ = load_store(tmp_path / "w.npz", Reading(columns=(HOMO,)))
    assert values(store, "homo") == [pytest.approx(-0.2 * HARTREE), pytest.approx(-0.3 * HARTREE)]
    assert values(store, "energy") == [None, None]
    named, _ = load_store(tmp_path / "w.npz", Reading(columns=(HOMO,), energy_key="E", energy_unit="eV"))
    assert values(named, "energy") == [1.0, 2.0]


def ragged(path: Path, **changes: object) -> Path:
    of = (WATER, HELIUM, METHANE)
    arrays = {
        "n_atoms": np.array([m.n_atoms for m in of], dtype=np.int16),
        "z": np.concatenate([m.atomic_numbers for m in of]).astype(np.uint8),
        "pos": np.concatenate([m.positions for m in of]),
        "smiles": np.array(["O", "[He]", "C"]),
        "homo_Ha": np.array([-0.2, np.nan, -0.3]),
    }
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return path


def test_an_npz_of_many_molecules_is_read_end_to_end(tmp_path: Path) -> None:
    store, report = load_store(ragged(tmp_path / "m.npz"), Reading(columns=(HOMO,)))
    assert store.atoms_per_molecule.tolist() == [3, 1, 5]
    assert store.smiles == ["O", "[He]", "C"]
    assert values(store, "homo") == [pytest.approx(-0.2 * HARTREE), None, pytest.approx(-0.3 * HARTREE)]
    assert report.n_molecules == 3
    assert np.allclose(store[2].positions - store[2].positions.mean(0), METHANE.positions, atol=1e-6)
    total = ragged(tmp_path / "e.npz", U=np.array([1.0, 2.0, 3.0]), F=np.ones((9, 3)))
    labelled, _ = load_store(total, Reading(energy_key="U", forces_key="F", energy_unit="Ha"))
    assert values(labelled, "energy") == [pytest.approx(i * HARTREE) for i in (1, 2, 3)]
    assert labelled.label_counts == {"energy": 3, "forces": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z": np.ones(8)}, r"adds up to 9 atoms, but: z \[8\], expected \[9\]"),
        ({"pos": np.ones((9, 2))}, r"pos \[9, 2\], expected \[9, 3\]"),
        ({"z": None}, r"has no z; expected"),
        ({"homo_Ha": None}, r"no column 'homo_Ha' .*: n_atoms"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_store(ragged(tmp_path / "m.npz", **changes), Reading(columns=(HOMO,)))


def test_qm9_is_read_with_its_units() -> None:
    path = reference_file("qm9/qm9_upto14atoms_subset.npz")
    columns = tuple(PropertyColumn(name=n, key=f"{n}_eV", unit="eV") for n in ("U0_atomization", "homo"))
    store, _ = load_store(path, Reading(columns=columns))
    assert store.label_counts == {"U0_atomization": 2567, "homo": 1184}
    methane = store.smiles.index("C")
    atomization = dict(zip(store.smiles, values(store, "U0_atomization"), strict=True))
    assert atomization["C"] is not None
    assert abs(atomization["C"]) == pytest.approx(17.172, abs=2e-3)  # 396.0 kcal/mol, B3LYP/6-31G(2df,p)
    assert store[methane].formula == "CH4"


class TestUnitsOfAStore:
    """A store says the unit of every label, and it is one of the package."""

    molecule = from_smiles("CCO", labels={"mu": 0.3})

    def test_it_is_kept_on_disk(self, tmp_path: Path) -> None:
        writer = StoreWriter.open(
            tmp_path / "s", level_of_theory="", source="", settings={}, units={"mu": "e*Angstrom"}
        )
        writer.write_shard([self.molecule])
        assert writer.finish().manifest.units["mu"] == "e*Angstrom"
        assert MoleculeStore.open(tmp_path / "s").manifest.units["mu"] == "e*Angstrom"

    def test_another_unit_is_refused_with_the_factor(self) -> None:
        with pytest.raises(ValueError, match=r"'mu' must be in e\*Angstrom, got D; multiply it by"):
            MoleculeStore.from_molecules([self.molecule], units={"mu": "D"})
        with pytest.raises(ValueError, match="the unit of 'energy' in a store is eV"):
            MoleculeStore.from_molecules([self.molecule], units={"energy": "eV"})

    def test_it_cannot_change_on_resuming(self, tmp_path: Path) -> None:
        origin = {"level_of_theory": "", "source": "", "settings": {}}
        StoreWriter.open(tmp_path / "s", **origin, units={"mu": "e*Angstrom"})
        with pytest.raises(ValueError, match=r"units.mu was 'e\*Angstrom', now '1'"):
            StoreWriter.open(tmp_path / "s", **origin, units={"mu": "1"})

    def test_columns_are_not_read_from_a_store(self, tmp_path: Path) -> None:
        writer = StoreWriter.open(tmp_path / "s", level_of_theory="", source="", settings={})
        writer.write_shard([self.molecule])
        writer.finish()
        with pytest.raises(ValueError, match="a store has its own units, keys and flags"):
            load_store(tmp_path / "s", Reading(columns=(HOMO,)))
