"""The data doctor finds wrong signs and units, in made-up molecules and in published data, and nothing else."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as ase_molecule
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from scipy.spatial.transform import Rotation

from basinet.data.doctor.check import bond_ratio, check_consistency, require_consistent
from basinet.data.readers import Reading, read_molecules
from basinet.data.store.store import MoleculeStore
from basinet.structures import Molecule
from basinet.units import BOHR, HARTREE, KCAL_PER_MOL, KJ_PER_MOL
from reference import reference_file


def frames(calculator: Calculator, spread: float = 0.02, n: int = 60) -> list[Molecule]:
    """Frames of ethanol shaken, turned and shifted, with the labels of a pair potential."""
    rng = np.random.default_rng(0)
    atoms = ase_molecule("CH3CH2OH")
    numbers, clean = atoms.numbers, atoms.positions
    made = []
    for turn in Rotation.random(n, rng=rng):
        shaken = (clean + rng.normal(0, spread, clean.shape)) @ turn.as_matrix().T + rng.normal(0, 5, 3)
        atoms = Atoms(numbers, shaken, calculator=calculator)
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        made.append(Molecule(atomic_numbers=numbers.astype(np.int64), positions=shaken, labels=labels))
    return made


def lennard_jones() -> LennardJones:
    return LennardJones(sigma=1.2, epsilon=0.3, rc=20.0)


def morse() -> MorsePotential:
    return MorsePotential(epsilon=1.0, r0=1.3, rho0=4.0, rcut1=19.0, rcut2=20.0)


def faulty(molecules: list[Molecule], energy: float = 1.0, forces: float = 1.0, length: float = 1.0) -> list[Molecule]:
    return [
        dataclasses.replace(
            m,
            positions=m.positions * length,
            labels={"energy": m.labels["energy"] * energy, "forces": m.labels["forces"] * forces},
        )
        for m in molecules
    ]


@pytest.mark.parametrize("potential", [lennard_jones, morse])
def test_the_labels_of_a_potential_are_consistent(potential):
    report = check_consistency(frames(potential()))
    assert report.verdict == "consistent", report
    assert report.slope == pytest.approx(1.0, abs=0.1)
    assert report.correlation > 0.95


FAULTS = [
    ({"forces": -1.0}, "the forces have the wrong sign"),
    ({"energy": 1 / KCAL_PER_MOL}, "energies are in kcal/mol but the forces in eV"),
    ({"forces": 1 / KCAL_PER_MOL}, "forces are in kcal/mol/Å but the energies in eV"),
    ({"energy": 1 / KJ_PER_MOL}, "energies are in kJ/mol"),
    ({"energy": 1 / HARTREE, "forces": BOHR / HARTREE}, "forces are per bohr but the positions in Å"),
    ({"forces": BOHR / HARTREE}, "forces are in hartree/bohr but the energies in eV"),
    ({"energy": 1 / KCAL_PER_MOL, "forces": -1.0}, "kcal/mol.*wrong sign"),
    ({"length": 1 / BOHR}, "positions are in bohr"),
    ({"length": BOHR}, "converted from bohr although they are in Å"),
]


@pytest.mark.parametrize("potential", [lennard_jones, morse])
@pytest.mark.parametrize(("fault", "cause"), FAULTS)
def test_a_fault_is_found_and_its_cause_named(potential, fault, cause):
    with pytest.raises(ValueError, match=f"^mine.xyz: .*{cause}") as error:
        require_consistent(faulty(frames(potential()), **fault), "mine.xyz")
    assert "\n" not in str(error.value)


def test_forces_of_other_frames_are_found():
    molecules = frames(morse())
    forces = [m.labels["forces"] for m in molecules]
    mixed = [dataclasses.replace(m, labels={**m.labels, "forces": forces[i - 7]}) for i, m in enumerate(molecules)]
    report = check_consistency(mixed)
    assert report.verdict == "inconsistent", report
    assert "not the gradient of these energies" in report.reason


def test_a_store_is_checked_like_a_list():
    store = MoleculeStore.from_molecules(frames(morse()))
    assert check_consistency(store).verdict == "consistent"


@pytest.mark.parametrize(
    ("molecules", "reason"),
    [
        ([], "0 molecules"),
        (frames(morse())[:5], "5 molecules have energy and forces"),
        ([dataclasses.replace(m, labels={}) for m in frames(morse())], "0 molecules have energy and forces"),
        (faulty(frames(morse()), energy=0.0), "the energy never changes"),
        (faulty(frames(morse()), forces=0.0), "the forces do no work"),
        (frames(morse())[:1] * 30, "0 pairs"),
        ([Molecule(atomic_numbers=np.array([2]), positions=np.zeros((1, 3)), labels={"energy": 1.0})] * 20, "0 pairs"),
    ],
)
def test_what_cannot_be_tested_is_said_and_not_guessed(molecules, reason):
    report = require_consistent(molecules, "these")
    assert report.verdict == "not testable"
    assert report.slope is None
    assert reason in report.reason


def test_minima_found_many_times_are_not_taken_for_wrong_forces():
    rng = np.random.default_rng(2)
    minimum = frames(morse())[0]
    found = [
        dataclasses.replace(
            minimum,
            positions=minimum.positions + rng.normal(0, 1e-3, minimum.positions.shape),
            labels={"energy": -3.0 + rng.normal(0, 1e-5), "forces": rng.normal(0, 1e-3, minimum.positions.shape)},
        )
        for _ in range(50)
    ]
    assert check_consistency(found).verdict == "not testable"


def test_frames_far_apart_are_not_judged():
    rng = np.random.default_rng(1)
    molecules = [
        dataclasses.replace(m, labels={**m.labels, "energy": float(rng.normal())}) for m in frames(morse(), spread=0.15)
    ]
    report = check_consistency(molecules)
    assert report.verdict == "not testable"
    assert "too different" in report.reason


@pytest.mark.parametrize("name", ["CH4", "H2O", "C6H6", "Si2H6", "CH3Cl", "SO2", "LiF"])
def test_neighbours_are_as_far_apart_as_their_radii(name):
    atoms = ase_molecule(name)
    m = Molecule(atomic_numbers=atoms.numbers.astype(np.int64), positions=atoms.positions)
    assert bond_ratio([m]) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("name", [pytest.param("aspirin", marks=pytest.mark.slow), "ethanol"])
def test_rmd17_in_its_unit_is_consistent_and_its_known_faults_are_found(name):
    file = reference_file(f"rmd17/rmd17_{name}.npz")
    molecules = list(islice(read_molecules(file, Reading(energy_unit="kcal/mol")), 2000))
    report = check_consistency(molecules)
    assert report.verdict == "consistent", report
    assert report.slope == pytest.approx(1.0, abs=0.02)
    for fault, cause in FAULTS:
        with pytest.raises(ValueError, match=cause):
            require_consistent(faulty(molecules, **fault), name)
