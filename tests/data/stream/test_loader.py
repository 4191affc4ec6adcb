"""A loader gives every molecule once an epoch, the same on any number of ranks, and resumes to the batch."""

import itertools

import numpy as np
import pytest
import torch

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.structures import Molecule


def chain(n_atoms: int) -> Molecule:
    positions = np.zeros((n_atoms, 3))
    positions[:, 0] = np.arange(n_atoms)
    return Molecule(atomic_numbers=np.full(n_atoms, 6), positions=positions, labels={"energy": float(n_atoms)})


@pytest.fixture(scope="module")
def store() -> MoleculeStore:
    sizes = np.random.default_rng(0).integers(1, 30, size=203)
    return MoleculeStore.from_molecules([chain(int(n)) for n in sizes])


@pytest.fixture(scope="module")
def in_shards(store) -> MoleculeStore:
    """The same molecules in seven shards, one of them empty."""
    cuts = [0, 1, 40, 40, 100, 101, 180, 203]
    shards = [
        MoleculeStore.from_molecules([store[i] for i in range(first, last)]).shards[0]
        for first, last in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    return MoleculeStore(store.manifest, shards)


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


def atoms(loader: Loader) -> list[int]:
    """Atoms of each batch of an epoch."""
    counts: list[int] = []
    while loader.epoch == 0:
        counts.append(loader.next_batch().n_atoms)
    return counts


def test_shards_do_not_change_a_batch(store, in_shards):
    one, several = (Loader(s, np.arange(203), batch_size=8, seed=1, window=4) for s in (store, in_shards))
    for a, b in itertools.islice(zip(one, several, strict=True), 60):
        assert a.ids.tolist() == b.ids.tolist()
        assert torch.equal(a.positions, b.positions) and torch.equal(a.atomic_numbers, b.atomic_numbers)
        assert torch.equal(a.molecule, b.molecule) and torch.equal(a.labels["energy"], b.labels["energy"])
        assert torch.equal(a.flags["has_energy"], b.flags["has_energy"])


def test_a_batch_of_a_window_is_what_the_store_gives_for_its_molecules(in_shards):
    for batch in itertools.islice(Loader(in_shards, None, batch_size=8, seed=1, window=4), 30):
        alone = in_shards.gather(batch.ids.numpy())
        assert torch.equal(batch.positions, alone.positions) and torch.equal(batch.molecule, alone.molecule)
        assert torch.equal(batch.labels["energy"], alone.labels["energy"])


def test_all_molecules_are_drawn_without_a_list_of_them(store):
    assert ids(Loader(store, None, batch_size=8, seed=1), 30) == ids(
        Loader(store, np.arange(203), batch_size=8, seed=1), 30
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_of_equal_atoms_give_every_molecule_once(store, world_size):
    ranks = [
        Loader(store, None, batch_atoms=120, seed=1, window=4, rank=r, world_size=world_size) for r in range(world_size)
    ]
    for epoch in range(2):
        seen: list[int] = []
        for loader in ranks:
            while loader.epoch == epoch:
                seen += loader.next_batch().ids.tolist()
        assert sorted(seen) == list(range(203))


def test_batches_of_equal_atoms_hold_as_many_atoms_at_most_and_little_less(store):
    found = atoms(Loader(store, None, batch_atoms=300, seed=1, window=16))
    assert max(found) <= 300
    assert np.mean(found[:-1]) > 0.85 * 300
    of_molecules = atoms(Loader(store, None, batch_size=20, seed=1, window=16))
    assert np.std(found) < 0.3 * np.std(of_molecules[:-1])  # the control: equal numbers of molecules


def test_a_molecule_larger_than_batch_atoms_is_a_batch_of_its_own():
    store = MoleculeStore.from_molecules([chain(n) for n in (3, 4, 50, 5, 40, 2)])
    loader = Loader(store, None, batch_atoms=10, seed=0)
    batches = []
    while loader.epoch == 0:
        batches.append(sorted(loader.next_batch().atoms_per_molecule.tolist()))
    assert [50] in batches and [40] in batches
    assert all(sum(sizes) <= 10 for sizes in batches if len(sizes) > 1)


@pytest.mark.parametrize("n_before", [1, 7, 23])
def test_batches_of_equal_atoms_resume(store, n_before):
    loader = Loader(store, None, batch_atoms=120, seed=1, window=4)
    ids(loader, n_before)
    state, expected = loader.state_dict(), ids(loader, 60)
    resumed = Loader(store, None, batch_atoms=120, seed=1, window=4, rank=0, world_size=1)
    resumed.load_state_dict(state)
    assert ids(resumed, 60) == expected


@pytest.mark.parametrize(("size", "limit"), [(None, None), (8, 100), (0, None), (None, 0)])
def test_a_batch_has_one_size(store, size, limit):
    with pytest.raises(ValueError, match="batch_size or batch_atoms|at least 1"):
        Loader(store, None, batch_size=size, batch_atoms=limit, seed=0)


def test_a_state_of_an_older_order_is_refused_in_words(store):
    state = {"epoch": 0, "position": 3, "seed": 1, "shuffle": True, "batch_size": 8, "window": 64, "data": "..."}
    with pytest.raises(ValueError, match="another order of batches; finish the run with that version"):
        Loader(store, None, batch_size=8, seed=1).load_state_dict(state)


def test_an_error_of_the_reading_thread_is_raised_when_its_batch_is_asked_for(store, monkeypatch):
    loader = Loader(store, None, batch_size=8, seed=1, window=2)
    whole = loader.store.gather
    calls = iter(range(100))

    def broken(indices):
        if next(calls) == 3:  # the first batch, the rest of its window, the second window, the third
            raise OSError("the disk is gone")
        return whole(indices)

    monkeypatch.setattr(loader.store, "gather", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        ids(loader, 26)


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


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_validation_batches_are_shared_out_without_overlap(store, world_size):
    loader = Loader(store, np.arange(5), batch_size=2, seed=1)
    ranks = [[b.ids.tolist() for b in loader.epoch_batches(r, world_size)] for r in range(world_size)]
    assert sorted(batch for of_rank in ranks for batch in of_rank) == [[0, 1], [2, 3], [4]]
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


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
