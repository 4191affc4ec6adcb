"""The same molecules come out of every format, in eV and Å; what a format cannot say is asked for or refused."""

import sqlite3
import sys

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import Trajectory

from basinet.data.doctor.check import check_consistency
from basinet.data.files.hdf5 import formal_charge
from basinet.data.files.options import PropertyColumn
from basinet.data.readers import Reading, load_store, open_molecules, read_molecules
from basinet.structures import StructureError
from basinet.units import BOHR, DEBYE, HARTREE
from data_files import LABELLED, arrays, conformations, write_file, write_hdf5
from reference import reference_file


def read(path, **options):
    molecules, report = open_molecules(path, Reading(**options))
    return list(molecules), report


def altered(path, **datasets):
    """Replace arrays of the only group of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        group = file[next(iter(file))]
        for name, values in datasets.items():
            del group[name]
            if values is not None:
                group.create_dataset(name, data=values)
    return path


@pytest.fixture
def ani1x(tmp_path):
    return write_file(tmp_path, "ani1x", conformations())[0]


@pytest.fixture
def spice(tmp_path):
    return write_file(tmp_path, "spice", conformations())[0]


@pytest.mark.parametrize("kind", LABELLED)
def test_every_format_gives_the_same_molecules(kind, tmp_path):
    frames = conformations()
    path, options = write_file(tmp_path, kind, frames)
    molecules, report = read(path, **options)
    positions, energies, forces = arrays(frames)
    assert [m.atomic_numbers.tolist() for m in molecules] == [frames[0].numbers.tolist()] * len(frames)
    assert np.array([m.positions for m in molecules]) == pytest.approx(positions, abs=1e-8)
    assert np.array([m.labels["energy"] for m in molecules]) == pytest.approx(energies, rel=1e-9)
    assert np.array([m.labels["forces"] for m in molecules]) == pytest.approx(forces, abs=1e-8)
    assert report.n_molecules == len(frames)
    assert molecules[0].name.startswith("frames.")


# --- ASE


def test_constraints_and_calculators_of_ase_do_not_change_the_forces(tmp_path):
    (atoms,) = conformations(1)
    forces = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0]))
    with Trajectory(tmp_path / "fixed.traj", "w") as file:
        file.write(atoms)
    with connect(tmp_path / "fixed.db") as database:
        database.write(atoms)
    for name in ("fixed.traj", "fixed.db"):
        (molecule,) = read_molecules(tmp_path / name)
        assert molecule.labels["forces"] == pytest.approx(forces)


def test_frames_of_different_molecules_and_charges_are_told_apart(tmp_path):
    ion = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], charges=[-1, 0])
    with Trajectory(tmp_path / "two.traj", "w") as file:
        file.write(conformations(1)[0])
        file.write(ion)
    with connect(tmp_path / "two.db") as database:
        database.write(conformations(1)[0])
        database.write(ion)
    for name in ("two.traj", "two.db"):
        first, second = read_molecules(tmp_path / name)
        assert (first.formula, first.charge, second.formula, second.charge) == ("CH4O", 0, "HO", -1)
        assert second.labels == {}


def test_a_trajectory_of_many_frames_is_read_in_order(tmp_path):
    frames = conformations(100)
    path, _ = write_file(tmp_path, "traj", frames)
    energies = [m.labels["energy"] for m in read_molecules(path)]
    assert energies == arrays(frames)[1].tolist()


def test_a_periodic_frame_is_refused(tmp_path):
    atoms = conformations(1)[0]
    atoms.set_cell([9, 9, 9])
    atoms.pbc = True
    with Trajectory(tmp_path / "p.traj", "w") as file:
        file.write(atoms)
    with pytest.raises(StructureError, match="p.traj:0: the frame is periodic"):
        list(read_molecules(tmp_path / "p.traj"))


def test_data_of_database_rows_are_labels_by_name(tmp_path):
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    forces = np.array([[0, 0, 1.0], [0, 0, -1.0]])
    with connect(tmp_path / "qm9.db") as database:
        database.write(atoms, data={"U0": np.array([-2.0]), "F": forces}, gap=0.5)
    columns = (PropertyColumn(name="gap", key="gap", unit="Ha"), PropertyColumn(name="u", key="U0", unit="D"))
    keys = {"energy_key": "U0", "forces_key": "F", "energy_unit": "Ha"}
    ((molecule,), report) = read(tmp_path / "qm9.db", columns=columns, **keys)
    assert molecule.labels["energy"] == -2 * HARTREE
    assert molecule.labels["forces"] == pytest.approx(forces * HARTREE, rel=1e-15)
    assert molecule.labels["gap"] == 0.5 * HARTREE
    assert molecule.labels["u"] == -2 * DEBYE
    assert report.energy_keys == {"U0": 1}
    with pytest.raises(StructureError, match=r"qm9.db:1: has no 'U1'; it has .*U0"):
        list(read_molecules(tmp_path / "qm9.db", Reading(energy_key="U1")))


def test_a_database_is_paged_through_whatever_its_ids_are(tmp_path):
    frames = conformations(300)
    path, _ = write_file(tmp_path, "db", frames)
    with connect(path) as database:
        database.delete(range(5, 290))
    assert [m.name for m in read_molecules(path)] == [f"frames.db:{i}" for i in (*range(1, 5), *range(290, 301))]


def test_a_foreign_sqlite_file_is_refused_and_not_written_to(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StructureError, match="no table 'systems', so it is not a database of ASE"):
        list(read_molecules(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["x.traj", "x.db", "x.h5", "x.npz", "x.mat", "x.parquet", "x.lmdb"])
def test_files_that_are_something_else_are_refused(tmp_path, name):
    for content in (b"", b"no such format", bytes(10_000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StructureError, match=name):
            list(read_molecules(tmp_path / name))


# --- HDF5


def test_the_ani_2x_file_has_forces_that_are_minus_the_gradient():
    store, report = load_store(reference_file("formats/ani2x_diatomics_1000.h5"))
    check = check_consistency(store)
    assert (len(store), check.verdict, store.manifest.level_of_theory) == (1000, "consistent", "")
    assert check.slope == pytest.approx(1, abs=1e-3)
    assert (report.energy_unit, report.length_unit) == ("Ha", "Angstrom")


def test_the_spice_file_has_gradients_that_are_turned_round():
    path = reference_file("formats/spice_1.1.4_two_entries.hdf5")
    store, report = load_store(path)
    assert check_consistency(store).verdict == "consistent"
    assert store[0].charge == store[54].charge == 1
    assert "55 from minus dft_total_gradient" in str(report)
    with h5py.File(path) as file:
        gradient = file["C#C.[Na+]/dft_total_gradient"][4]
    assert store[54].labels["forces"] == pytest.approx(-gradient * HARTREE / BOHR, rel=1e-6)


def test_the_level_of_ani_1x_is_that_of_the_energies(ani1x):
    with h5py.File(ani1x, "r+") as file:
        file["C1H4O1"].create_dataset("ccsd(t)_cbs.energy", data=np.array([-115.0] + [np.nan] * 5))
    assert load_store(ani1x)[0].manifest.level_of_theory == "wB97X/6-31G(d)"
    store, _ = load_store(ani1x, Reading(energy_key="ccsd(t)_cbs.energy"))
    assert store.manifest.level_of_theory == "CCSD(T)*/CBS"
    assert store.label_counts == {"energy": 1}  # the forces are of another level, the other energies are missing
    assert load_store(ani1x, Reading(level_of_theory="mine"))[0].manifest.level_of_theory == "mine"


def test_nan_is_no_label_and_half_of_one_is_an_error(ani1x):
    _, energies, forces = arrays(conformations())
    energies[1] = forces[2] = np.nan
    altered(ani1x, **{"wb97x_dz.energy": energies, "wb97x_dz.forces": forces})
    molecules, report = read(ani1x)
    assert [sorted(m.labels) for m in molecules[:4]] == [
        ["energy", "forces"],
        ["forces"],
        ["energy"],
        ["energy", "forces"],
    ]
    assert (report.energy_keys.total(), report.forces_keys.total()) == (5, 5)
    forces[3, 1, 2] = np.nan
    with pytest.raises(StructureError, match="frames.h5:C1H4O1/3: label 'forces' is not finite"):
        list(read_molecules(altered(ani1x, **{"wb97x_dz.forces": forces})))
    assert read(ani1x, skip_invalid=True)[1].skipped == {"label 'forces' is not finite": 1}


@pytest.mark.parametrize(
    ("datasets", "fault"),
    [
        ({"coordinates": np.zeros((6, 5, 3))}, r"wb97x_dz.forces is float64 \[6, 6, 3\], expected numbers \[6, 5, 3\]"),
        ({"coordinates": np.zeros((6, 6))}, r"positions are \[6, 6\]"),
        ({"coordinates": np.zeros((6, 6, 3))}, "0 Å apart"),
        ({"coordinates": np.full((6, 6, 3), np.nan)}, "not finite"),
        ({"wb97x_dz.energy": np.zeros(5)}, r"wb97x_dz.energy is float64 \[5\], expected numbers \[6\]"),
        ({"wb97x_dz.energy": np.array([b"low"] * 6)}, r"wb97x_dz.energy is \|S3"),
        ({"wb97x_dz.energy": np.full(6, np.inf)}, "label 'energy' is not finite"),
        ({"wb97x_dz.forces": np.zeros((6, 6, 3), dtype=complex)}, "wb97x_dz.forces is complex128"),
        ({"atomic_numbers": np.ones(6)}, "the elements are float64"),
        ({"atomic_numbers": np.full(6, 200)}, "atomic numbers must be 1 to 99"),
        ({"atomic_numbers": None}, r"first group has coordinates, .*expected one of"),
        ({"coordinates": None}, "expected one of"),
    ],
)
def test_arrays_that_do_not_fit_are_named(ani1x, datasets, fault):
    with pytest.raises(StructureError, match=fault):
        list(read_molecules(altered(ani1x, **datasets)))


def test_a_group_without_the_labels_of_the_first_is_an_error_and_not_silence(ani1x):
    with h5py.File(ani1x, "r+") as file:
        file.copy("C1H4O1", "C9")
        del file["C9/wb97x_dz.energy"]
    with pytest.raises(StructureError, match=r"frames.h5:C9: has no wb97x_dz.energy, as the groups of ANI-1x have"):
        list(read_molecules(ani1x))


def test_an_empty_hdf5_file_and_an_empty_group_are_told(tmp_path):
    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(StructureError, match="first group has nothing"):
        read_molecules(tmp_path / "empty.h5")
    write_hdf5(tmp_path / "e.h5", "ani1x", conformations(1))
    none = {"coordinates": np.zeros((0, 6, 3)), "wb97x_dz.energy": np.zeros(0), "wb97x_dz.forces": np.zeros((0, 6, 3))}
    with pytest.raises(ValueError, match="no molecules"):
        list(read_molecules(altered(tmp_path / "e.h5", **none)))


def test_columns_of_hdf5_are_labels(ani1x):
    with h5py.File(ani1x, "r+") as file:
        file["C1H4O1"].create_dataset("gap", data=np.arange(6.0))
    molecules, _ = read(ani1x, columns=(PropertyColumn(name="gap", key="gap", unit="Ha"),))
    assert molecules[3].labels["gap"] == 3 * HARTREE
    with pytest.raises(StructureError, match="has no mu"):
        list(read_molecules(ani1x, Reading(columns=(PropertyColumn(name="mu", key="mu", unit="D"),))))


def test_units_that_are_given_win_over_those_of_the_layout(spice):
    (first, *_), _ = read(spice, energy_unit="eV", length_unit="Angstrom")
    assert first.labels["energy"] == pytest.approx(-3000.0 / HARTREE)


def test_long_groups_are_read_in_blocks(ani1x, monkeypatch):
    whole = [m.labels["energy"] for m in read_molecules(ani1x)]
    monkeypatch.setattr("basinet.data.files.hdf5.NUMBERS_AT_ONCE", 40)
    assert [m.labels["energy"] for m in read_molecules(ani1x)] == whole


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [
        ("CCO", 0),
        ("[NH4+]", 1),
        ("[O-]C=O", -1),
        ("[Ca++].[Cl-]", 1),
        ("[N+:9]([H:1])[O-2:3]", -1),
        ("C[C@@H:2](F)-Cl", 0),
    ],
)
def test_formal_charges_of_smiles(smiles, charge):
    assert formal_charge(smiles) == charge


def test_without_h5py_the_error_says_what_to_install(ani1x, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "basinet\[hdf5\]"'):
        read_molecules(ani1x)


# --- CSV

TABLE = (
    "SMILES,u0,mu,note\nCO,-115.5,1.7,\nC1CC,1,1,bad ring\nCCO,,1.6,\n[CH3],2,2,\nCO.O,3,3,two\n,4,4,\nN,-56.5,nan,\n"
)


def table(tmp_path, text=TABLE):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_gives_conformers_with_labels_and_says_what_it_skipped(tmp_path):
    columns = (PropertyColumn(name="mu", key="mu", unit="D"),)
    molecules, report = read(table(tmp_path), energy_key="u0", energy_unit="Ha", columns=columns)
    assert [(m.name, m.smiles, m.n_atoms) for m in molecules] == [
        ("t.csv:0", "CO", 6),
        ("t.csv:2", "CCO", 9),
        ("t.csv:6", "N", 4),
    ]
    assert [sorted(m.labels) for m in molecules] == [["energy", "mu"], ["mu"], ["energy"]]
    assert molecules[0].labels == {"energy": -115.5 * HARTREE, "mu": 1.7 * DEBYE}
    assert [tuple(record) for record in report.skipped_records] == [
        ("t.csv:1", "SMILES: does not parse"),
        ("t.csv:3", "SMILES: unpaired electrons"),
        ("t.csv:4", "SMILES: more than one molecule"),
        ("t.csv:5", "SMILES: empty"),
    ]
    assert not any(m.is_equilibrium for m in molecules)


def test_the_conformer_of_a_row_is_always_the_same(tmp_path):
    first, second = ([m.positions for m in read_molecules(table(tmp_path))] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "one column named smiles, got 0; the columns are: none"),
        ("name,x\nCO,1\n", "one column named smiles, got 0; the columns are: name, x"),
        ("smiles,SMILES,u0\nCO,CO,1\n", "one column named smiles, got 2"),
        ("smiles,x\nCO,1\n", "one column named 'u0', got 0"),
        ("smiles,u0,u0\nCO,1,2\n", "one column named 'u0', got 2"),
        ("smiles,u0\nCO,1,2\n", "t.csv:0: has 3 cells, expected 2"),
        ("smiles,u0\nCO,low\n", "t.csv:0: 'u0' must be one number, got 'low'"),
        ("smiles,u0\nCO,inf\n", "t.csv:0: label 'energy' is not finite"),
        ('smiles,u0\n"CO,1\n', "t.csv:0: cannot be read as CSV"),
        ("smiles,u0\nC1,1\n", r"no molecules in it; 1 skipped \(SMILES: does not parse\)"),
    ],
)
def test_a_damaged_table_is_one_error(tmp_path, text, fault):
    with pytest.raises(ValueError, match=fault):
        list(read_molecules(table(tmp_path, text), Reading(energy_key="u0", energy_unit="eV")))


def test_a_huge_smiles_is_skipped_and_does_not_hang(tmp_path):
    path = table(tmp_path, f"smiles\n{'C' * 5000}\nCO\n")
    molecules, report = read(path)
    assert len(molecules) == 1
    assert report.skipped == {"SMILES: more than 200 heavy atoms": 1}


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"energy_key": "u0"}, "does not say the unit of 'u0'"),
        ({"forces_key": "f"}, "positions are made from its SMILES"),
        ({"length_unit": "bohr"}, "positions are made from its SMILES"),
        ({"is_equilibrium": True}, "are not minima"),
    ],
)
def test_what_a_table_cannot_have_is_refused(tmp_path, options, fault):
    with pytest.raises(ValueError, match=fault):
        read_molecules(table(tmp_path), Reading(**options))


def test_a_result_that_is_not_finite_is_an_error(tmp_path):
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    atoms.calc = SinglePointCalculator(atoms, energy=float("nan"))
    with Trajectory(tmp_path / "n.traj", "w") as file:
        file.write(atoms)
    with pytest.raises(StructureError, match="n.traj:0: label 'energy' is not finite"):
        list(read_molecules(tmp_path / "n.traj"))
