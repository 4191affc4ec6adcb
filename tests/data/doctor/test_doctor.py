"""Each fault is named by the check that it is for, and sound data has none."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from ase.build import molecule as g2
from ase.data import covalent_radii
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.transform import Rotation

from basinet.commands.check import check_data, read_for_examination
from basinet.data.doctor.doctor import Diagnosis, examine
from basinet.data.doctor.duplicates import find_duplicates
from basinet.data.doctor.energies import ATOM_ENERGY
from basinet.data.doctor.findings import Finding
from basinet.data.doctor.forces import SPRING
from basinet.data.doctor.scan import _longest_edge, scan  # pyright: ignore[reportPrivateUsage]
from basinet.data.readers import Reading, load_store, write_extxyz
from basinet.data.store.store import MoleculeStore
from basinet.structures import Molecule
from basinet.units import BOHR, HARTREE, KCAL_PER_MOL
from reference import reference_file

ANGLE = 6.0
"""eV/Å², of springs between atoms that share a neighbour."""


def spring_frame(name: str, spread: float, rng: np.random.Generator) -> Molecule:
    """Return a shaken and turned molecule whose bonds have realistic force constants, with a total energy."""
    atoms = g2(name)
    z, rest = atoms.numbers.astype(np.int64), atoms.positions
    i, j = np.triu_indices(len(z), k=1)
    length = np.linalg.norm(rest[i] - rest[j], axis=1)
    radius = covalent_radii[z]
    bonded = length < 1.25 * (radius[i] + radius[j])
    heavy = np.maximum(z[i], z[j])
    stiff = np.where(np.minimum(z[i], z[j]) == 1, [SPRING.get(h, 0.0) for h in heavy.tolist()], 50.0)
    constant = np.where(bonded, stiff, np.where(length < 2.6, ANGLE, 0.0))
    turn = Rotation.random(rng=rng).as_matrix()
    positions = (rest + rng.normal(0, spread, rest.shape)) @ turn.T
    vector = positions[i] - positions[j]
    now = np.linalg.norm(vector, axis=1)
    pull = (-constant * (now - length) / now)[:, None] * vector
    forces = np.zeros_like(rest)
    np.add.at(forces, i, pull)
    np.add.at(forces, j, -pull)
    energy = 0.5 * float((constant * (now - length) ** 2).sum())
    total = -1.006 * HARTREE * sum(ATOM_ENERGY[n - 1] for n in z.tolist())
    return Molecule(atomic_numbers=z, positions=positions, labels={"energy": energy + total, "forces": forces})


def trajectory(n: int = 200) -> list[Molecule]:
    rng = np.random.default_rng(0)
    return [spring_frame("CH3CH2OH", 0.03, rng) for _ in range(n)]


def compounds(n_each: int = 1) -> list[Molecule]:
    """Return many compounds, shaken; with one conformation of each, energies cannot be compared with forces."""
    rng = np.random.default_rng(1)
    names = [
        *("CH4", "CH3OH", "C2H6", "CH3CH2OH", "C6H6", "NH3", "H2CO", "C2H4", "CH3CN", "HCOOH", "C3H8", "H2O"),
        *("CH3CHO", "CH3COCH3", "CH3COOH", "C5H5N", "cyclobutane", "C3H4_C3v", "trans-butane", "isobutane"),
        *("C3H6_D3h", "butadiene", "CH3CONH2", "CH3OCH3", "C4H4NH", "C4H4O"),
    ]
    return [spring_frame(name, 0.03, rng) for name in names for _ in range(n_each)]


def minima() -> list[Molecule]:
    """Return compounds at rest, without forces worth the name."""
    made = [spring_frame(n, 0.0, np.random.default_rng(3)) for n in ("CH4", "CH3OH", "C2H6", "CH3CH2OH", "C6H6")]
    return [dataclasses.replace(m, is_equilibrium=True) for m in made]


def relabelled(molecules: Sequence[Molecule], energy: float = 1.0, forces: float = 1.0) -> list[Molecule]:
    """Multiply labels by factors, as a wrong unit does."""
    return [
        dataclasses.replace(m, labels={"energy": m.labels["energy"] * energy, "forces": m.labels["forces"] * forces})
        for m in molecules
    ]


def moved(molecule: Molecule, positions: np.ndarray) -> Molecule:
    return dataclasses.replace(molecule, positions=positions)


def diagnose(molecules: Sequence[Molecule]) -> Diagnosis:
    return examine(MoleculeStore.from_molecules(list(molecules)))


def of(diagnosis: Diagnosis, check: str) -> Finding:
    return next(f for f in diagnosis.findings if f.check == check)


def faults(diagnosis: Diagnosis) -> set[str]:
    return {f.check for f in diagnosis.findings if f.verdict == "fault"}


@pytest.mark.parametrize("make", [trajectory, compounds, minima])
def test_sound_data_has_neither_faults_nor_warnings(make):
    found = diagnose(make())
    assert [f for f in found.findings if f.verdict in ("fault", "warning")] == []
    assert found.verdict == "ok"


def test_one_conformation_of_each_compound_says_why_work_cannot_be_compared_but_springs_tell_the_unit():
    found = diagnose(compounds())
    work = of(found, "energy against forces")
    assert work.verdict == "not checked" and "cannot be checked" in work.evidence
    assert of(found, "unit of forces").verdict == "ok"


def test_minima_say_why_the_unit_of_their_forces_cannot_be_checked():
    found = of(diagnose(minima()), "unit of forces")
    assert found.verdict == "not checked" and "not minima" in found.evidence


@pytest.mark.parametrize("make", [trajectory, compounds])
def test_gradients_called_forces_are_a_fault(make):
    found = diagnose(relabelled(make(), forces=-1.0))
    assert "unit of forces" in faults(found)
    assert "negate" in of(found, "unit of forces").fix.lower()
    if make is trajectory:
        assert "energy against forces" in faults(found)


@pytest.mark.parametrize("make", [trajectory, compounds])
@pytest.mark.parametrize(
    ("factor", "unit"),
    [(1 / KCAL_PER_MOL, "kcal/mol/Å"), (1 / HARTREE, "hartree/Å"), (BOHR / HARTREE, "hartree/bohr"), (1e3, "meV/Å")],
)
def test_forces_in_another_unit_are_a_fault_that_names_it(make, factor, unit):
    found = of(diagnose(relabelled(make(), forces=factor)), "unit of forces")
    assert found.verdict == "fault"
    assert unit in found.fix


@pytest.mark.parametrize(("factor", "unit"), [(1 / KCAL_PER_MOL, "kcal/mol"), (1 / HARTREE, "hartree")])
def test_total_energies_of_several_compounds_in_another_unit_are_a_fault(factor, unit):
    found = of(diagnose(relabelled(compounds(), energy=factor)), "unit of energies")
    assert found.verdict == "fault" and unit in found.fix


def test_all_labels_of_a_trajectory_in_another_unit_are_a_fault_though_they_fit_each_other():
    found = diagnose(relabelled(trajectory(), energy=1 / KCAL_PER_MOL, forces=1 / KCAL_PER_MOL))
    assert of(found, "energy against forces").verdict == "ok"
    assert faults(found) == {"unit of forces"}
    assert of(found, "unit of energies").verdict == "warning"  # one sum formula is little evidence


@pytest.mark.parametrize("factor", [1 / BOHR, BOHR])
def test_positions_in_bohr_or_converted_twice_are_a_fault(factor):
    found = diagnose([moved(m, m.positions * factor) for m in trajectory()])
    assert "unit of length" in faults(found)
    assert "bohr" in of(found, "unit of length").evidence


def test_positions_in_nm_cannot_be_read_and_the_message_asks_for_the_unit(tmp_path):
    path = tmp_path / "nm.xyz"
    path.write_text("2\n\nO 0 0 0\nH 0.096 0 0\n")
    with pytest.raises(ValueError, match="in Å"):
        read_for_examination(path)


def test_forces_of_other_frames_are_a_fault():
    frames = trajectory()
    order = np.random.default_rng(5).permutation(len(frames))
    mixed = [
        dataclasses.replace(m, labels={**m.labels, "forces": frames[i].labels["forces"]})
        for m, i in zip(frames, order, strict=True)
    ]
    assert {"torque", "unit of forces"} <= faults(diagnose(mixed))


def test_energies_of_other_molecules_are_a_fault():
    made = compounds(3)
    order = np.random.default_rng(5).permutation(len(made))
    mixed = [
        dataclasses.replace(m, labels={**m.labels, "energy": made[i].labels["energy"]})
        for m, i in zip(made, order, strict=True)
    ]
    assert "reference energies" in faults(diagnose(mixed))


def test_energies_above_the_minimum_of_each_compound_are_a_warning_if_they_fit_the_forces():
    made = compounds(12)
    zero = {m.formula: m.labels["energy"] for m in made}
    relative = [
        dataclasses.replace(m, labels={**m.labels, "energy": m.labels["energy"] - zero[m.formula]}) for m in made
    ]
    found = diagnose(relative)
    assert faults(found) == set()
    assert of(found, "reference energies").verdict == "warning"


def test_copies_are_found_whatever_their_orientation_and_the_order_of_their_atoms():
    frames = trajectory(60)
    order = np.random.default_rng(0).permutation(9)
    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    copies = [
        dataclasses.replace(
            m,
            atomic_numbers=m.atomic_numbers[order],
            positions=m.positions[order] @ turn.T + 3.0,
            labels={**m.labels, "forces": m.labels["forces"][order] @ turn.T},
        )
        for m in frames[10:20]
    ]
    found = diagnose([*frames, *copies])
    assert faults(found) == {"duplicates"}
    assert of(found, "duplicates").evidence.startswith("20 of 70")
    assert "10 and 60" in of(found, "duplicates").evidence


def test_one_copy_is_a_warning_and_a_copy_with_another_energy_a_fault():
    frames = trajectory(60)
    assert of(diagnose([*frames, frames[3]]), "duplicates").verdict == "warning"
    other = dataclasses.replace(frames[3], labels={**frames[3].labels, "energy": frames[3].labels["energy"] + 0.1})
    assert "differ in energy" in of(diagnose([*frames, other]), "duplicates").evidence
    assert "duplicates" in faults(diagnose([*frames, other]))


def test_frames_that_follow_each_other_are_nearly_alike_and_no_copies():
    frames = trajectory(60)
    shift = np.random.default_rng(0).normal(0, 0.002, (9, 3))
    found = of(diagnose([*frames, moved(frames[0], frames[0].positions + shift)]), "duplicates")
    assert found.verdict == "warning"
    assert "0 of 61 molecules are copies" in found.evidence and "2 nearly so" in found.evidence


def test_a_fine_scan_of_a_diatomic_is_no_fault():
    lengths = 1.0 + 1e-4 * np.arange(300)
    frames = [
        Molecule(atomic_numbers=np.array([1, 9]), positions=np.array([[0, 0, 0], [0, 0, r]]), labels={"energy": -1.0})
        for r in lengths.tolist()
    ]
    assert faults(diagnose(frames)) == set()


def test_conformations_in_both_data_sets_are_a_fault_and_others_are_not():
    frames = trajectory(80)
    train, test = (MoleculeStore.from_molecules(part) for part in (frames[:60], frames[50:]))
    found = examine(train, against=test)
    assert faults(found) == {"in both data sets"}
    assert of(found, "in both data sets").evidence.startswith("10 of 60")
    clean = MoleculeStore.from_molecules(frames[60:])
    assert of(examine(train, against=clean), "in both data sets").verdict == "ok"


def test_mirror_images_count_as_the_same_and_other_compounds_do_not():
    frames = trajectory(2)
    mirrored = moved(frames[0], frames[0].positions * np.array([1.0, 1.0, -1.0]))
    found = find_duplicates(MoleculeStore.from_molecules([*frames, mirrored, *minima()]))
    assert found.rows.tolist() == [0, 2] and found.partners.tolist() == [2, 0]


def test_labels_that_some_molecules_lack_are_a_warning_that_names_them():
    frames = trajectory(60)
    some = [dataclasses.replace(m, labels={"energy": m.labels["energy"]}) for m in frames[:20]]
    found = of(diagnose([*some, *frames[20:]]), "labels")
    assert found.verdict == "warning"
    assert "forces of 40" in found.evidence and "forces" in found.fix
    only_energies = diagnose([dataclasses.replace(m, labels={"energy": m.labels["energy"]}) for m in frames])
    assert "no forces" in of(only_energies, "labels").evidence
    assert "forces 0" in of(only_energies, "loss terms").evidence
    assert faults(only_energies) == set()


def test_data_no_term_can_use_is_a_warning():
    assert of(diagnose([dataclasses.replace(m, labels={}) for m in trajectory(5)]), "loss terms").verdict == "warning"


def test_a_fragment_that_drifted_away_is_a_fault_that_names_the_molecule():
    frames = trajectory(60)
    away = frames[7].positions.copy()
    away[-1] += 200.0
    found = diagnose([*frames[:7], moved(frames[7], away), *frames[8:]])
    assert "pieces" in faults(found)
    assert "molecule 7" in of(found, "pieces").fix


def test_a_molecule_far_from_the_origin_is_no_fault():
    found = diagnose([moved(m, m.positions + 200.0) for m in trajectory()])
    assert faults(found) == set()


def test_nan_in_a_file_is_a_fault_and_the_other_records_are_looked_at(tmp_path):
    path = tmp_path / "nan.npz"
    frames = trajectory(60)
    energies = np.array([m.labels["energy"] for m in frames])
    energies[40] = np.nan
    forces = np.stack([m.labels["forces"] for m in frames])
    positions = np.stack([m.positions for m in frames])
    np.savez(path, z=frames[0].atomic_numbers, R=positions, E=energies, F=forces)
    found = check_data(path, reading=Reading(energy_unit="eV"))
    assert faults(found) == {"reading"}
    assert "nan.npz:40" in of(found, "reading").evidence and "not finite" in of(found, "reading").evidence
    assert len(found.store) == 59


def test_nan_in_a_store_is_a_fault():
    store = MoleculeStore.from_molecules(trajectory(40))
    arrays = store.shards[0]
    arrays.labels["energy"][3] = np.nan
    arrays.atom_labels["forces"][9 * 5] = np.nan
    found = examine(MoleculeStore(store.manifest, [arrays]))
    assert of(found, "numbers").verdict == "fault"
    assert "molecules 3, 5" in of(found, "numbers").evidence


def test_an_energy_of_something_else_is_a_fault_that_names_the_molecule():
    frames = trajectory(60)
    odd = dataclasses.replace(frames[9], labels={**frames[9].labels, "energy": 0.0})
    found = diagnose([*frames[:9], odd, *frames[10:]])
    assert "outliers of energies" in faults(found)
    assert "molecule 9" in of(found, "outliers of energies").evidence


def test_huge_forces_are_named():
    frames = trajectory(60)
    forces = frames[4].labels["forces"].copy()
    forces[:2] += [[500.0, 0, 0], [-500.0, 0, 0]]
    odd = dataclasses.replace(frames[4], labels={**frames[4].labels, "forces": forces})
    found = of(diagnose([*frames[:4], odd, *frames[5:]]), "outliers of forces")
    assert found.verdict == "warning" and "molecule 4" in found.evidence


def test_a_net_force_is_a_fault():
    pushed = [
        dataclasses.replace(m, labels={**m.labels, "forces": m.labels["forces"] + np.array([1.0, 0, 0])})
        for m in trajectory()
    ]
    assert "net force" in faults(diagnose(pushed))


def test_odd_numbers_of_electrons_are_a_warning():
    frames = [dataclasses.replace(m, charge=1) for m in trajectory(40)]
    found = of(diagnose(frames), "charges")
    assert found.verdict == "warning" and "+1 e" in found.evidence


def test_a_single_atom_is_examined():
    helium = Molecule(atomic_numbers=np.array([2]), positions=np.zeros((1, 3)), labels={"energy": -79.0})
    assert faults(diagnose([helium])) == set()


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 9))
def test_the_widest_gap_is_the_longest_edge_of_the_minimum_spanning_tree(seed, n):
    positions = np.random.default_rng(seed).normal(size=(3, n, 3))
    distance = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    expected = [minimum_spanning_tree(d).toarray().max() for d in distance]
    distance[:, np.arange(n), np.arange(n)] = np.inf
    np.testing.assert_allclose(_longest_edge(distance), expected)


def test_the_scan_does_not_depend_on_how_it_is_cut(monkeypatch):
    store = MoleculeStore.from_molecules(compounds(2))
    whole = scan(store)
    monkeypatch.setattr("basinet.data.doctor.scan.BATCH_ATOMS", 17)
    monkeypatch.setattr("basinet.data.doctor.scan.PAIRS_AT_ONCE", 100)
    cut = scan(store)
    for name in ("net_force", "torque_part", "max_force", "closest", "gap", "nearest", "forces"):
        np.testing.assert_allclose(getattr(cut, name), getattr(whole, name), rtol=1e-6, atol=1e-12)
    assert cut.springs[6].constant == pytest.approx(whole.springs[6].constant)


def test_force_and_torque_are_those_of_the_definition():
    molecule = spring_frame("CH3OH", 0.05, np.random.default_rng(0))
    forces = molecule.labels["forces"] + np.random.default_rng(1).normal(size=(6, 3))
    store = MoleculeStore.from_molecules([dataclasses.replace(molecule, labels={"forces": forces})])
    found = scan(store)
    arm = molecule.positions - molecule.positions.mean(0)
    norm = np.linalg.norm(forces, axis=1)
    torque = np.linalg.norm(np.cross(arm, forces).sum(0)) / (norm * np.linalg.norm(arm, axis=1)).sum()
    assert found.torque_part[0] == pytest.approx(torque, rel=1e-5)
    assert found.net_force[0] == pytest.approx(np.linalg.norm(forces.sum(0)), rel=1e-5)


PUBLISHED = {
    **{f"rmd17/rmd17_{m}.npz": {"energy_unit": "kcal/mol"} for m in ("aspirin", "benzene", "uracil")},
    "acac/acac_train_600K.npz": {"energy_unit": "eV"},
    "acac/acac_test_dihedral.npz": {"energy_unit": "eV"},
    "3bpa/3bpa_train_300K.npz": {"energy_unit": "eV"},
    "ethanol_ccsdt/ethanol_ccsdt_800.npz": {"energy_unit": "kcal/mol"},
    "amons/amons_wb97x_train1000.npz": {
        "energy_unit": "kcal/mol",
        "energy_key": "E_kcal",
        "forces_key": "F_kcal_per_A",
    },
    "formats/ani2x_diatomics_1000.h5": {},
    "formats/spice_1.1.4_two_entries.hdf5": {},
    "qm7/qm7_subset6000.npz": {"energy_unit": "kcal/mol", "energy_key": "hof_pbe0_kcal"},
    "qm9/qm9_upto14atoms_subset.npz": {"energy_unit": "eV", "energy_key": "U0_atomization_eV"},
}


FURTHER = ("rmd17/rmd17_aspirin.npz", "rmd17/rmd17_uracil.npz")
"""Files of the same kind as a smaller one."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in FURTHER else ()) for name in PUBLISHED]
)
def test_published_data_has_no_fault(name):
    assert faults(check_data(reference_file(name), reading=Reading(**PUBLISHED[name]))) == set()


def test_the_noisier_labels_of_md17_have_no_fault():
    path = reference_file("rmd17/rmd17_ethanol.npz")
    reading = Reading(energy_unit="kcal/mol", energy_key="md17_E", forces_key="md17_F")
    assert faults(check_data(path, reading=reading)) == set()


def test_the_gradients_of_s66x8_are_caught_when_they_are_called_forces(tmp_path):
    arrays = dict(np.load(reference_file("s66x8/s66x8_wb97x_631gd.npz")))
    arrays["forces_Ha_per_A"] = arrays.pop("gradient_Ha_per_A")
    np.savez(tmp_path / "s66x8.npz", **arrays)
    reading = Reading(energy_unit="Ha", energy_key="E_Ha", forces_key="forces_Ha_per_A")
    found = check_data(tmp_path / "s66x8.npz", reading=reading)
    assert faults(found) == {"energy against forces"}
    assert of(found, "energy against forces").fix == "negate the forces"


def test_a_published_file_with_its_unit_left_out_is_caught():
    path = reference_file("amons/amons_wb97x_train1000.npz")
    found = check_data(path, reading=Reading(energy_unit="eV", energy_key="E_kcal", forces_key="F_kcal_per_A"))
    assert faults(found) == {"unit of forces", "unit of energies"}


def test_the_copies_in_the_coupled_cluster_data_of_ethanol_are_found():
    path = reference_file("ethanol_ccsdt/ethanol_ccsdt_800.npz")
    positions = np.load(path)["R"]
    found = of(check_data(path, reading=Reading(energy_unit="kcal/mol")), "duplicates")
    assert "233 and 584" in found.evidence
    first, second = (torch.pdist(torch.from_numpy(positions[i])) for i in (233, 584))
    assert float((first - second).abs().max()) < 2e-4


def test_a_store_on_disk_and_a_file_give_the_same_findings(tmp_path):
    frames = trajectory(40)
    write_extxyz(tmp_path / "frames.xyz", [(m, {}) for m in frames])
    from_file = check_data(tmp_path / "frames.xyz")
    store, _ = load_store(tmp_path / "frames.xyz")
    assert [f.verdict for f in from_file.findings[1:]] == [f.verdict for f in examine(store).findings]
