import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from basinet.structures.batch import Batch, collate, unbatch
from basinet.structures.molecule import Molecule
from basinet.structures.segment import centre_per_molecule, max_norm, mean_per_molecule, sum_per_molecule
from molecules import ETHANOL, HELIUM, METHANE, SMALL, WATER, at_equilibrium, labelled, molecule

MIXED = [labelled(ETHANOL, 1), at_equilibrium(WATER), labelled(HELIUM, 2), METHANE]


def random_molecules(sizes: list[int]) -> list[Molecule]:
    """Return hydrogen chains of the given lengths, every other one with forces."""
    rng = np.random.default_rng(len(sizes))
    chains = []
    for k, n in enumerate(sizes):
        positions = np.stack([np.arange(n), rng.normal(size=n), rng.normal(size=n)], axis=1)
        labels = {"energy": -float(k)} if k % 3 else {}
        labels |= {"forces": rng.normal(size=(n, 3))} if k % 2 else {}
        chains.append(molecule(np.full(n, 1 + k), positions, labels=labels, is_equilibrium=k % 2 == 0))
    return chains


def assert_same(a: Batch, b: Batch) -> None:
    for field in dataclasses.fields(Batch):
        first, second = getattr(a, field.name), getattr(b, field.name)
        if isinstance(first, Tensor):
            assert torch.equal(first, second), field.name
        elif isinstance(first, dict):
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key].nan_to_num(7e7), second[key].nan_to_num(7e7)) for key in first)
        else:
            assert first == second, field.name


def test_molecules_lie_end_to_end_centred_on_their_mean_position() -> None:
    batch = collate(SMALL, dtype=torch.float64)
    assert (batch.n_molecules, batch.n_atoms) == (7, sum(m.n_atoms for m in SMALL))
    assert batch.atoms_per_molecule.tolist() == [m.n_atoms for m in SMALL]
    assert batch.first_atom.tolist() == [0, 9, 10, 13, 15, 20, 25]
    numbers_of = torch.split(batch.atomic_numbers, batch.atoms_per_molecule.tolist())
    for m, numbers, positions in zip(SMALL, numbers_of, unbatch(batch.positions, batch), strict=True):
        assert numbers.tolist() == m.atomic_numbers.tolist()
        np.testing.assert_array_equal(positions.numpy(), m.positions - m.positions.mean(0))


def test_a_molecule_far_from_the_origin_keeps_its_bond_lengths_in_float32() -> None:
    far = molecule(WATER.atomic_numbers, WATER.positions + 1e6)
    near = collate([WATER]).positions
    assert torch.allclose(torch.pdist(collate([far]).positions), torch.pdist(near), rtol=1e-6)


def test_labels_that_a_molecule_lacks_are_nan_and_flagged() -> None:
    batch = collate(MIXED)
    assert batch.flags["has_energy"].tolist() == batch.flags["has_forces"].tolist() == [True, False, True, False]
    assert batch.flags["is_equilibrium"].tolist() == [False, True, False, False]
    missing = ~batch.flags["has_forces"]
    assert torch.equal(batch.labels["energy"].isnan(), missing)
    assert torch.equal(batch.labels["forces"].isnan(), missing[batch.molecule][:, None].expand(-1, 3))


def test_energies_are_float64_and_forces_have_the_dtype_of_positions() -> None:
    batch = collate([labelled(WATER)])
    assert (batch.labels["energy"].dtype, batch.labels["forces"].dtype) == (torch.float64, torch.float32)
    double = batch.to(dtype=torch.float64)
    assert {double.positions.dtype, double.labels["energy"].dtype, double.labels["forces"].dtype} == {torch.float64}
    single = double.to(dtype=torch.float32)
    assert (single.labels["energy"].dtype, single.labels["forces"].dtype) == (torch.float64, torch.float32)


def test_every_row_per_atom_is_cast_with_the_positions() -> None:
    with_charges = molecule([2, 2], [[0, 0, 0], [3, 0, 0]], labels={"charges": np.array([0.1, -0.1])})
    batch = collate([with_charges], dtype=torch.float64)
    assert batch.to(dtype=torch.float32).labels["charges"].dtype == collate([with_charges]).labels["charges"].dtype


def test_read_only_labels_are_taken_without_complaint() -> None:
    forces = np.zeros((3, 3))
    forces.flags.writeable = False
    assert collate([molecule(WATER.atomic_numbers, WATER.positions, labels={"forces": forces})]).n_atoms == 3


def test_to_leaves_the_numbers_as_they_are() -> None:
    batch = collate(MIXED)
    assert_same(batch.to("cpu"), batch)


def test_dropping_labels_drops_their_flags_and_nothing_else() -> None:
    bare = collate(MIXED).without_labels()
    assert bare.labels == {}
    assert list(bare.flags) == ["is_equilibrium"]


def test_replace_makes_a_copy() -> None:
    batch = collate(SMALL)
    other = batch.replace(positions=batch.positions + 1)
    assert not torch.equal(other.positions, batch.positions)
    assert other.molecule is batch.molecule


def test_a_batch_of_nothing_is_refused_but_can_be_selected() -> None:
    with pytest.raises(ValueError, match="cannot make a batch of no molecules"):
        collate([])
    empty = collate(MIXED).select([])
    assert (empty.n_molecules, empty.n_atoms, len(empty.labels["forces"])) == (0, 0, 0)
    assert_same(empty.select([]), empty)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_selecting_molecules_is_collating_the_selected(sizes: list[int], data: st.DataObject) -> None:
    chains = random_molecules(sizes)
    batch = collate(chains)
    keep = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=10))
    chosen = batch.select(keep)
    assert chosen.ids is not None
    assert chosen.ids.tolist() == keep
    for place, k in enumerate(keep):
        assert_same(chosen.select([place]).replace(ids=None), batch.select([k]).replace(ids=None))
    if keep:
        again = collate([chains[k] for k in keep])
        shared = {key: value for key, value in chosen.labels.items() if key in again.labels}
        flags = {key: value for key, value in chosen.flags.items() if key in again.flags}
        assert_same(chosen.replace(ids=None, labels=shared, flags=flags), again.replace(ids=None))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_unbatching_takes_apart_what_collating_put_together(sizes: list[int]) -> None:
    batch = collate(random_molecules(sizes), dtype=torch.float64)
    parts = unbatch(batch.positions, batch)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), batch.positions)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_sums_and_means_per_molecule_are_those_of_a_loop(sizes: list[int]) -> None:
    batch = collate(random_molecules(sizes), dtype=torch.float64)
    x = batch.positions + torch.arange(batch.n_atoms)[:, None]
    for of_all, of_one in ((sum_per_molecule, torch.sum), (mean_per_molecule, torch.mean)):
        loop = torch.stack([of_one(part, 0) for part in unbatch(x, batch)])
        assert torch.allclose(of_all(x, batch), loop, rtol=0, atol=1e-12)
    assert sum_per_molecule(centre_per_molecule(x, batch), batch).abs().max() < 1e-12


def test_the_largest_norm_of_no_rows_is_zero_and_nan_wins() -> None:
    assert max_norm(torch.zeros(0, 3)) == 0
    assert max_norm(torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0]])) == 5
    assert np.isnan(max_norm(torch.tensor([[9.0, 0.0, 0.0], [float("nan"), 0.0, 0.0]])))


@pytest.mark.parametrize(
    ("second", "found"),
    [(np.ones(5), r"per atom with rows of shape \[\] in CH4"), (np.ones((5, 3)), r"rows of shape \[3\] in CH4")],
)
def test_a_label_of_two_shapes_is_refused_in_words(second: np.ndarray, found: str) -> None:
    first = dataclasses.replace(WATER, labels={"charges": 1.0}, name="water")
    other = dataclasses.replace(METHANE, labels={"charges": second}, name="")
    with pytest.raises(ValueError, match=rf"label 'charges' is per molecule with .* in water and .*{found}"):
        collate([first, other])
