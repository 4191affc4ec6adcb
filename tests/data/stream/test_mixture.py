"""A mixture gives every source its share, goes through each of them evenly, and resumes to the molecule."""

import itertools
from collections import Counter

import numpy as np
import pytest

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.mixture import MixtureLoader, Source, adapted, joined, mixing_probabilities
from basinet.structures import Molecule

SIZES = (203, 31, 8)
SHARES = (0.6, 0.3, 0.1)


def chain(n_atoms: int, element: int, **labels) -> Molecule:
    positions = np.zeros((n_atoms, 3))
    positions[:, 0] = np.arange(n_atoms)
    return Molecule(atomic_numbers=np.full(n_atoms, element), positions=positions, labels=labels)


@pytest.fixture(scope="module")
def stores() -> dict[str, MoleculeStore]:
    rng = np.random.default_rng(0)
    molecules = [[chain(int(n), 6 + i) for n in rng.integers(1, 30, size=size)] for i, size in enumerate(SIZES)]
    return {name: MoleculeStore.from_molecules(m) for name, m in zip("abc", molecules, strict=True)}


def mixture(stores, shares=SHARES, **changes) -> MixtureLoader:
    sources = [Source(n, s, np.arange(len(s)), p) for (n, s), p in zip(stores.items(), shares, strict=True)]
    return MixtureLoader(sources, **{"batch_size": 8, "seed": 1, "window": 4} | changes)


def steps(loader: MixtureLoader, n: int) -> list[list[tuple[int, list[int]]]]:
    return [[(part.source, part.batch.ids.tolist()) for part in loader.next_parts()] for _ in range(n)]


def drawn(found: list[list[tuple[int, list[int]]]], source: int) -> list[int]:
    return [i for step in found for s, ids in step if s == source for i in ids]


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1, [100 / 111, 10 / 111, 1 / 111]), (2, [10, 10**0.5, 1]), (1e9, [1, 1, 1])]
)
def test_a_temperature_flattens_the_shares(temperature, expected):
    expected = np.array(expected) / np.sum(expected)
    assert mixing_probabilities([100, 10, 1], float(temperature)) == pytest.approx(expected)


def test_weights_are_shares_up_to_a_factor():
    assert mixing_probabilities([100, 10], 2.0, [3.0, 1.0]).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(("temperature", "weights"), [(0.5, None), (float("nan"), None), (2.0, [1.0, 0.0])])
def test_shares_that_cannot_be_meant_are_refused(temperature, weights):
    with pytest.raises(ValueError, match="must be"):
        mixing_probabilities([10, 10], temperature, weights)


def test_every_step_has_its_size_and_every_source_its_share_rounded_down_or_up(stores):
    found = steps(mixture(stores), 2000)
    counts = np.array([[sum(len(ids) for s, ids in step if s == source) for source in range(3)] for step in found])
    assert (counts.sum(1) == 8).all()
    share = 8 * np.array(SHARES)
    assert (np.abs(counts - share) < 1).all()
    deviation = np.sqrt((share % 1) * (1 - share % 1) / len(found))  # each step rounds at random
    assert (np.abs(counts.mean(0) - share) < 4 * deviation).all()


def test_a_source_gives_every_molecule_once_an_epoch_of_its_own(stores):
    found = steps(mixture(stores), 400)
    for source, size in enumerate(SIZES):
        times = Counter(drawn(found, source))
        assert set(times) == set(range(size))
        # Rounds of four steps are cut by size, so only their last one may be ahead or behind by one.
        assert max(times.values()) - min(times.values()) <= 1


def test_at_temperature_one_a_mixture_draws_as_one_joined_store(stores):
    shares = mixing_probabilities(SIZES, 1.0)
    found = steps(mixture(stores, shares), 300)  # 2400 molecules: ten times all of them
    times = [np.bincount(drawn(found, s), minlength=n) for s, n in enumerate(SIZES)]
    for of_source in times:
        assert of_source.mean() == pytest.approx(2400 / sum(SIZES), rel=0.05)


@pytest.mark.parametrize("n_before", [0, 1, 4, 6, 64, 101])
def test_a_resumed_mixture_continues_as_if_never_stopped(stores, n_before):
    loader = mixture(stores)
    steps(loader, n_before)
    state = loader.state_dict()
    expected = steps(loader, 70)
    resumed = mixture(stores)
    resumed.load_state_dict(state)
    assert steps(resumed, 70) == expected
    assert resumed.state_dict() == loader.state_dict()


def test_the_same_seed_gives_the_same_steps_and_another_others(stores):
    assert steps(mixture(stores), 20) == steps(mixture(stores), 20)
    assert steps(mixture(stores), 20) != steps(mixture(stores, seed=2), 20)


@pytest.mark.parametrize("world_size", [2, 3, 11])
def test_the_molecules_of_a_step_do_not_depend_on_the_number_of_ranks(stores, world_size):
    one = steps(mixture(stores), 30)
    ranks = [steps(mixture(stores, rank=r, world_size=world_size), 30) for r in range(world_size)]
    for whole, *shares in zip(one, *ranks, strict=True):
        assert all([s for s, _ in share] == [s for s, _ in whole] for share in shares)  # as many passes on each rank
        for number, (_, ids) in enumerate(whole):
            assert sorted(sum((share[number][1] for share in shares), [])) == sorted(ids)
        n_each = [sum(len(ids) for _, ids in share) for share in shares]
        assert max(n_each) - min(n_each) <= 1


def test_a_state_of_one_rank_resumes_on_two(stores):
    loader, half = mixture(stores), mixture(stores, rank=1, world_size=2)
    steps(loader, 5)
    half.load_state_dict(loader.state_dict())
    whole = [[i for _, ids in step for i in ids] for step in steps(loader, 9)]
    assert [[i for _, ids in step for i in ids] for step in steps(half, 9)] == [step[1::2] for step in whole]


def test_resuming_another_mixture_is_refused(stores):
    state = mixture(stores).state_dict()
    for loader, difference in [
        (mixture(stores, (0.5, 0.4, 0.1)), "probabilities was"),
        (mixture({**stores, "c": stores["b"]}), "data was"),
        (mixture(stores, batch_size=9), "batch_size was 8, now 9"),
        (mixture(stores, seed=2), "seed was 1, now 2"),
    ]:
        with pytest.raises(ValueError, match=difference):
            loader.load_state_dict(state)
    with pytest.raises(ValueError, match="lacks"):
        mixture(stores).load_state_dict({"step": 0})
    with pytest.raises(ValueError, match="not a place in this mixture"):
        mixture(stores).load_state_dict({**state, "positions": [0]})


def test_batches_of_a_source_hold_molecules_of_similar_size(stores):
    def spread(window: int) -> float:
        loader = mixture(stores, batch_size=16, window=window)
        parts = itertools.chain.from_iterable(loader.next_parts() for _ in range(64))
        sizes = [part.batch.atoms_per_molecule for part in parts if part.source == 0]
        return float(np.mean([int(s.max() - s.min()) for s in sizes]))

    assert spread(64) < 0.2 * spread(1)


def test_steps_of_equal_atoms_have_equal_atoms_and_the_shares_of_molecules(stores):
    def measured(**size) -> tuple[np.ndarray, np.ndarray]:
        loader = mixture(stores, **{"batch_size": None, "window": 32} | size)
        found = [loader.next_parts() for _ in range(320)]
        atoms = np.array([sum(part.batch.n_atoms for part in parts) for parts in found])
        molecules = np.bincount(
            [p.source for parts in found for p in parts], [p.batch.n_molecules for parts in found for p in parts]
        )
        return atoms, molecules / molecules.sum()

    atoms, shares = measured(batch_atoms=450)
    assert atoms.mean() == pytest.approx(450, rel=0.05)
    assert shares == pytest.approx(SHARES, abs=0.01)
    assert atoms.std() < 0.4 * measured(batch_size=30)[0].std()  # the control: equal numbers of molecules


@pytest.mark.parametrize("world_size", [2, 3])
def test_steps_of_equal_atoms_do_not_depend_on_the_number_of_ranks_and_resume(stores, world_size):
    size = {"batch_size": None, "batch_atoms": 120}
    loader = mixture(stores, **size)
    steps(loader, 7)
    state = loader.state_dict()
    one = steps(loader, 30)
    ranks = [mixture(stores, rank=r, world_size=world_size, **size) for r in range(world_size)]
    for rank in ranks:
        rank.load_state_dict(state)
    for whole, *shares in zip(one, *(steps(rank, 30) for rank in ranks), strict=True):
        for number, (_, ids) in enumerate(whole):
            assert sorted(sum((share[number][1] for share in shares), [])) == sorted(ids)


def test_a_source_gives_every_molecule_once_an_epoch_in_steps_of_equal_atoms_too(stores):
    found = steps(mixture(stores, batch_size=None, batch_atoms=120), 400)
    for source, size in enumerate(SIZES):
        times = Counter(drawn(found, source))
        assert set(times) == set(range(size))
        assert max(times.values()) - min(times.values()) <= 1


def test_too_few_atoms_for_a_step_are_refused(stores):
    with pytest.raises(ValueError, match="is too few for this mixture"):
        mixture(stores, batch_size=None, batch_atoms=10)


def test_a_mixture_needs_molecules_of_every_source(stores):
    with pytest.raises(ValueError, match="at least one molecule"):
        MixtureLoader([Source("a", stores["a"], np.arange(0), 1.0)], batch_size=2, seed=0)


def test_a_joined_store_holds_the_molecules_of_all_with_their_labels():
    first = MoleculeStore.from_molecules([chain(2, 6, energy=-1.0)], level_of_theory="A")
    second = MoleculeStore.from_molecules([chain(3, 7, forces=np.ones((3, 3))), chain(1, 8)], level_of_theory="B")
    both = joined({"first": first, "second": second})
    assert len(both) == 3
    batch = both.gather(np.array([2, 0, 1]))
    assert batch.atomic_numbers.tolist() == [8, 6, 6, 7, 7, 7]
    assert batch.flags["has_energy"].tolist() == [False, True, False]
    assert batch.flags["has_forces"].tolist() == [False, False, True]
    assert both.elements == {6, 7, 8}
    assert both.label_counts == {"energy": 1, "forces": 1}
    assert both.manifest.level_of_theory == "A; B"
    assert both.fingerprint != first.fingerprint


def test_a_label_of_two_shapes_cannot_be_joined():
    first = MoleculeStore.from_molecules([chain(2, 6, charges=1.0)])
    second = MoleculeStore.from_molecules([chain(2, 6, charges=np.ones(2))])
    with pytest.raises(ValueError, match="second does not fit the sources before it: label 'charges' is per atom"):
        joined({"first": first, "second": second})


def test_an_adapted_store_says_something_else_and_leaves_the_first_alone():
    store = MoleculeStore.from_molecules([chain(2, 6, energy=-1.0, forces=np.ones((2, 3)))], level_of_theory="A")
    other = adapted(store, is_equilibrium=True, level_of_theory="B", leave_out=["energy"])
    assert other.manifest.level_of_theory == "B"
    assert other.label_counts == {"forces": 1}
    batch = other.gather(np.array([0]))
    assert set(batch.labels) == {"forces"} and batch.flags["is_equilibrium"].tolist() == [True]
    assert set(other[0].labels) == {"forces"} and other[0].is_equilibrium
    assert set(store[0].labels) == {"energy", "forces"} and not store[0].is_equilibrium
    with pytest.raises(ValueError, match="cannot leave out dipole"):
        adapted(store, leave_out=["dipole"])
