"""What a file states about its molecules is used or refused, by every reader."""

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as ase_molecule
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write as ase_write
from ase.io.trajectory import Trajectory

from basinet.data.files.unit_names import energy_unit_named, force_unit_named, length_unit_named
from basinet.data.readers import Reading, open_molecules, read_molecules
from basinet.structures import Molecule, StructureError
from basinet.units import BOHR, HARTREE, KCAL_PER_MOL

WATER = "O 0 0 0.1\nH 0.76 0 -0.48\nH -0.76 0 -0.48\n"
NAMES = ("charge", "total_charge", "Charge", "q", "formal_charge", "TotalCharge", "net_charge")


def hydronium() -> Atoms:
    return Atoms("OH3", [[0, 0, 0.1], [0.94, 0, -0.2], [-0.47, 0.81, -0.2], [-0.47, -0.81, -0.2]])


def write_fields(directory: Path, kind: str, fields: dict[str, object], atoms: Atoms | None = None) -> Path:
    """Write one frame with further fields."""
    path, atoms = directory / f"m.{kind}", atoms or hydronium()
    if kind == "xyz":
        atoms.info.update(fields)
        ase_write(path, atoms, format="extxyz")
    elif kind == "traj":
        atoms.info.update(fields)
        with Trajectory(path, "w") as file:
            file.write(atoms)
    elif kind == "db":
        with connect(path) as database:
            database.write(atoms, data={key: np.array([value]) for key, value in fields.items()})
    elif kind == "npz":
        np.savez(path, z=atoms.numbers, R=atoms.positions[None], **fields)
    elif kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {"atomic_numbers": [atoms.numbers.tolist()], "positions": [atoms.positions.tolist()]}
        columns |= {key: [np.asarray(value).tolist()] for key, value in fields.items()}
        parquet.write_table(arrow.table(columns), path)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            group = file.create_group("m")
            group["atomic_numbers"], group["positions"] = atoms.numbers, atoms.positions[None]
            for key, value in fields.items():
                group[key] = value
    return path


READERS = ("xyz", "traj", "db", "npz", "parquet", "h5")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", NAMES)
def test_the_total_charge_is_read_under_every_name(kind: str, name: str, tmp_path: Path) -> None:
    (molecule,) = read_molecules(write_fields(tmp_path, kind, {name: 1}))
    assert molecule.charge == 1


@pytest.mark.parametrize("kind", READERS)
def test_two_charges_that_contradict_each_other_are_refused(kind: str, tmp_path: Path) -> None:
    path = write_fields(tmp_path, kind, {"charge": 1, "total_charge": 0})
    with pytest.raises(StructureError, match="the total charge is"):
        list(read_molecules(path))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(("charge", "multiplicity"), [(1, 3), (0, 1)])
def test_a_spin_state_that_is_not_the_lowest_is_refused(
    kind: str, charge: int, multiplicity: int, tmp_path: Path
) -> None:
    path = write_fields(tmp_path, kind, {"charge": charge, "multiplicity": multiplicity})
    with pytest.raises(StructureError, match="lowest spin state"):
        list(read_molecules(path))
    path.unlink()
    (molecule,) = read_molecules(write_fields(tmp_path, kind, {"charge": 1, "multiplicity": 1}))
    assert molecule.charge == 1


@pytest.mark.parametrize("kind", ["npz", "parquet", "h5"])
def test_a_cell_is_refused_unless_it_is_zero_or_not_periodic(kind: str, tmp_path: Path) -> None:
    cell, water = 9.0 * np.eye(3), ase_molecule("H2O")
    for fields in ({"cell": cell}, {"pbc": np.array([True, True, False])}):
        with pytest.raises(StructureError, match="periodic"):
            list(read_molecules(write_fields(tmp_path, kind, dict(fields), water)))
    for fields in ({"cell": 0 * cell}, {"cell": cell, "pbc": np.array([False, False, False])}):
        (molecule,) = read_molecules(write_fields(tmp_path, kind, dict(fields), water))
        assert molecule.formula == "H2O"


@pytest.mark.parametrize("kind", ["xyz", "traj", "db"])
def test_masses_momenta_and_fixed_atoms_are_named_in_the_report(kind: str, tmp_path: Path) -> None:
    atoms = ase_molecule("H2O")
    atoms.set_masses([16, 2.014, 2.014])
    atoms.set_momenta(np.ones((3, 3)))
    atoms.set_constraint(FixAtoms([0]))
    path = tmp_path / f"m.{kind}"
    if kind == "xyz":
        columns = ["symbols", "positions", "masses", "momenta", "move_mask"]
        ase_write(path, atoms, format="extxyz", columns=columns)
    elif kind == "traj":
        with Trajectory(path, "w") as file:
            file.write(atoms)
    else:
        with connect(path) as database:
            database.write(atoms)
    molecules, report = open_molecules(path)
    assert len(list(molecules)) == 1
    assert all(word in str(report) for word in ("masses of isotopes", "momenta", "no atom is fixed")), str(report)


def test_calculator_and_reader_have_one_rule_for_charges() -> None:
    atoms = hydronium()
    for charge in (1, 1.0, "1", "+1", "1+", np.array([1])):
        atoms.info = {"charge": charge}
        assert Molecule.from_ase(atoms).charge == 1
    atoms.info = {"charge": 1}
    atoms.set_initial_charges([-1, 0, 0, 0])
    with pytest.raises(StructureError, match="initial charges"):
        Molecule.from_ase(atoms)


@pytest.mark.parametrize("text", ["bohr", "Bohr", "a0", "au", "a.u."])
def test_units_of_an_archive_are_known_in_other_spellings(text: str, tmp_path: Path) -> None:
    atoms = ase_molecule("H2O")
    np.savez(tmp_path / "m.npz", z=atoms.numbers, R=atoms.positions[None] / BOHR, E=[-2.0], r_unit=text, e_unit="Eh")
    (molecule,) = read_molecules(tmp_path / "m.npz")
    assert molecule.positions == pytest.approx(atoms.positions)
    assert molecule.labels["energy"] == pytest.approx(-2 * HARTREE)


def test_a_unit_nobody_knows_is_refused_unless_the_user_gives_it(tmp_path: Path) -> None:
    atoms = ase_molecule("H2O")
    np.savez(tmp_path / "m.npz", z=atoms.numbers, R=atoms.positions[None], r_unit="furlong")
    with pytest.raises(StructureError, match="r_unit is 'furlong'"):
        list(read_molecules(tmp_path / "m.npz"))
    assert (energy_unit_named("Ry"), length_unit_named("pm"), force_unit_named("Ha/pm")) == (None, None, None)


@pytest.mark.parametrize("unit", ["kcal/mol", "Hartree"])
def test_units_in_the_metadata_of_schnetpack_are_used(unit: str, tmp_path: Path) -> None:
    atoms = ase_molecule("H2O")
    with connect(tmp_path / "m.db") as database:
        database.write(atoms, data={"energy": np.array([-2.0]), "forces": np.ones((3, 3))})
        database.metadata = {
            "_distance_unit": "Ang",
            "_property_unit_dict": {"energy": unit, "forces": f"{unit}/Ang"},
        }
    (molecule,) = read_molecules(tmp_path / "m.db")
    factor = {"kcal/mol": KCAL_PER_MOL, "Hartree": HARTREE}[unit]
    assert molecule.labels["energy"] == pytest.approx(-2 * factor)
    assert molecule.labels["forces"] == pytest.approx(np.full((3, 3), factor))
    (molecule,) = read_molecules(tmp_path / "m.db", Reading(energy_unit="eV"))
    assert molecule.labels["energy"] == -2


@pytest.mark.parametrize("symbol", ["D", "T", "2H", "1", "h"])
def test_hydrogen_is_read_however_it_is_written(symbol: str, tmp_path: Path) -> None:
    path = tmp_path / "m.xyz"
    path.write_text("3\nc\n" + WATER.replace("H", symbol))
    molecules, report = open_molecules(path)
    assert [m.formula for m in molecules] == ["H2O"]
    assert ("read as H" in str(report)) == (symbol in ("D", "T", "2H"))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("3\nc\n" + WATER.replace("H", "H1"), "atom 1 is 'H1', .* write 'H'"),
        ("3\nc\n" + WATER.replace("H", "Bq"), "ghost"),
        ("3\ngdb 3\t799.6\n" + WATER, "raw file of QM9"),
        ("3\nMolécule\n" + WATER, "byte 0xe9"),
    ],
)
def test_what_cannot_be_read_is_explained(content: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "m.xyz"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(StructureError, match=fault):
        list(read_molecules(path))


def test_numbers_of_fortran_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.xyz"
    path.write_text("3\nc\n" + WATER.replace("0.1", "1.0D-01").replace("-0.48", "-4.8*^-1"), encoding="utf-8-sig")
    (molecule,) = read_molecules(path)
    assert molecule.positions[:, 2].tolist() == [0.1, -0.48, -0.48]


def test_labels_under_other_names_are_named_with_their_option(tmp_path: Path) -> None:
    path = tmp_path / "m.xyz"
    rows = WATER.replace("\n", " 0 0 0\n")
    path.write_text(f"3\nProperties=species:S:1:pos:R:3:dft_forces:R:3 dft_energy=-2.0\n{rows}")
    molecules, report = open_molecules(path)
    assert [m.labels for m in molecules] == [{}]
    assert "units.energy_key=dft_energy units.forces_key=dft_forces" in str(report)


def test_compressed_files_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "m.xyz.gz").write_bytes(b"\x1f\x8b\x08 and so on")
    with pytest.raises(ValueError, match="gunzip"):
        open_molecules(tmp_path / "m.xyz.gz")
    os.mkfifo(tmp_path / "pipe.xyz")
    for path in (tmp_path / "pipe.xyz", Path("-")):
        with pytest.raises(ValueError, match="expected a file"):
            open_molecules(path)
