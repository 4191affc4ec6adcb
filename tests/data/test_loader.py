"""A loader gives every molecule once an epoch, the same on any number of ranks, and resumes to the batch."""

import itertools

import numpy as np
import pytest

from basinet.data.loader import Loader
from basinet.data.store import MoleculeStore
from basinet.structures import Molecule


def chain(n_atoms: int) -> Molecule:
    positions = np.zeros((n_atoms, 3))
    positions[:, 0] = np.arange(n_atoms)
    return Molecule(atomic_numbers=np.full(n_atoms, 6), positions=positions, labels={"energy": float(n_atoms)})


@pytest.fixture(scope="module")
def store() -> MoleculeStore:
    sizes = np.random.default_rng(0).integers(1, 30, size=203)
    return MoleculeStore.from_molecules([chain(int(n)) for n in sizes])


def ids(loader: Loader, n_batches: int) -> list[list[int]]:
    return [batch.ids.tolist() for batch in itertools.islice(loader, n_batches)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_molecule_comes_once_an_epoch_over_all_ranks(store, world_size, shuffle):
    chosen = np.arange(1, 203)
    ranks = [
        Loader(store, chosen, batch_size=8, seed=1, shuffle=shuffle, window=4, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for _ in range(2):
        seen = [i for loader in ranks for batch in ids(loader, len(loader)) for i in batch]
        assert sorted(seen) == chosen.tolist()


def test_the_molecules_of_a_step_do_not_depend_on_the_number_of_ranks(store):
    def steps(world_size: int) -> list[list[int]]:
        loaders = [
            Loader(store, np.arange(203), batch_size=8, seed=1, window=4, rank=r, world_size=world_size)
            for r in range(world_size)
        ]
        return [sorted(sum(parts, [])) for parts in zip(*(ids(loader, 60) for loader in loaders), strict=True)]

    assert steps(1) == steps(2) == steps(3)


def test_a_rank_without_molecules_gets_an_empty_batch(store):
    loader = Loader(store, np.arange(5), batch_size=4, seed=0, shuffle=False, rank=2, world_size=4)
    assert [batch.n_molecules for batch in itertools.islice(loader, 2)] == [1, 0]


def test_the_same_seed_gives_the_same_batches_and_each_epoch_its_own(store):
    first = Loader(store, np.arange(203), batch_size=8, seed=1)
    assert len(first) == 26
    epochs = ids(first, 26), ids(first, 26)
    assert epochs[0] != epochs[1]
    assert epochs[0] == ids(Loader(store, np.arange(203), batch_size=8, seed=1), 26)
    assert epochs[0] != ids(Loader(store, np.arange(203), batch_size=8, seed=2), 26)


@pytest.mark.parametrize("n_before", [0, 3, 25, 26, 40])
def test_a_resumed_loader_continues_as_if_never_stopped(store, n_before):
    loader = Loader(store, np.arange(203), batch_size=8, seed=1, window=4)
    ids(loader, n_before)
    state = loader.state_dict()
    expected = ids(loader, 60)
    resumed = Loader(store, np.arange(203), batch_size=8, seed=1, window=4)
    resumed.load_state_dict(state)
    assert ids(resumed, 60) == expected


def test_a_state_of_one_rank_resumes_on_two(store):
    loader = Loader(store, np.arange(203), batch_size=8, seed=1)
    ids(loader, 5)
    half = Loader(store, np.arange(203), batch_size=8, seed=1, rank=1, world_size=2)
    half.load_state_dict(loader.state_dict())
    assert ids(half, 3) == [batch[1::2] for batch in ids(loader, 3)]


def test_resuming_on_other_data_or_settings_is_refused(store):
    state = Loader(store, np.arange(203), batch_size=8, seed=1).state_dict()
    other_store = MoleculeStore.from_molecules([chain(3)] * 203)
    for loader, difference in [
        (Loader(store, np.arange(202), batch_size=8, seed=1), "data was"),
        (Loader(other_store, np.arange(203), batch_size=8, seed=1), "data was"),
        (Loader(store, np.arange(203), batch_size=9, seed=1), "batch_size was 8, now 9"),
        (Loader(store, np.arange(203), batch_size=8, seed=2), "seed was 1, now 2"),
    ]:
        with pytest.raises(ValueError, match=difference):
            loader.load_state_dict(state)
    with pytest.raises(ValueError, match="lacks"):
        Loader(store, np.arange(203), batch_size=8, seed=1).load_state_dict({"epoch": 0})


def test_a_validation_pass_is_in_order_and_moves_nothing(store):
    chosen = np.array([7, 3, 100, 2, 9])
    loader = Loader(store, chosen, batch_size=2, seed=1)
    before = loader.state_dict()
    assert [batch.ids.tolist() for batch in loader.epoch_batches()] == [[7, 3], [100, 2], [9]]
    assert loader.state_dict() == before


def test_size_buckets_leave_little_padding(store):
    def padding(window: int) -> float:
        """Pairs of atoms in padded batches over pairs of atoms in molecules."""
        padded = real = 0
        for batch in itertools.islice(Loader(store, np.arange(203), batch_size=8, seed=1, window=window), 26):
            counts = batch.atoms_per_molecule
            padded += batch.n_molecules * int(counts.max()) ** 2
            real += int((counts**2).sum())
        return padded / real

    assert padding(window=64) < 1.15
    assert padding(window=1) > 1.8  # the control: batches drawn at random


@pytest.mark.parametrize(
    ("indices", "fault"), [([], "at least one"), ([0, 203], "203 molecules"), ([-1], "-1"), ([4, 4], "occurs twice")]
)
def test_wrong_indices_are_refused(store, indices, fault):
    with pytest.raises(ValueError, match=fault):
        Loader(store, np.array(indices, dtype=np.int64), batch_size=2, seed=0)
