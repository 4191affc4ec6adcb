"""Splits do not leak, repeat with their seed, and show when their file was edited."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split, random_split, split_by_smiles
from basinet.structures import Molecule


def split_of(train: list[int], validation: list[int], test: list[int]) -> Split:
    parts = (np.array(part, dtype=np.int64) for part in (train, validation, test))
    return Split(**dict(zip(("train", "validation", "test"), parts, strict=True)))


def store_of(smiles: list[str]) -> MoleculeStore:
    helium = {"atomic_numbers": np.array([2]), "positions": np.zeros((1, 3))}
    return MoleculeStore.from_molecules([Molecule(**helium, smiles=s) for s in smiles])


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2**31))
def test_a_random_split_has_the_sizes_asked_for_and_uses_everything(n_train, n_validation, seed):
    n = n_train + n_validation + 7
    split = random_split(n, train=n_train, validation=n_validation, seed=seed)
    assert (len(split.train), len(split.validation), len(split.test)) == (n_train, n_validation, 7)
    assert sorted([*split.train, *split.validation, *split.test]) == list(range(n))


def test_a_larger_training_set_of_the_same_seed_begins_with_the_smaller():
    small, large = (random_split(100, train=n, validation=10, test=20, seed=3) for n in (5, 50))
    assert np.array_equal(large.train[:5], small.train)
    assert np.array_equal(large.test, small.test)
    assert random_split(100, train=5, validation=10, test=20, seed=4) != small


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="from 10 molecules"):
        random_split(10, train=9, validation=2, seed=0)
    with pytest.raises(ValueError, match="only one"):
        random_split(10, train=9, seed=0)


def test_a_leak_is_refused_and_named():
    with pytest.raises(ValueError, match=r"index 3 occurs 2 times \(train, test\)"):
        split_of([1, 3], [2], [3])
    with pytest.raises(ValueError, match=r"index 1 occurs 2 times \(train, train\)"):
        split_of([1, 1], [], [])
    with pytest.raises(ValueError, match="start at 0"):
        split_of([-1], [], [])


@given(st.lists(st.sampled_from(["C", "CC", "O", "N", "CO"]), min_size=2), st.floats(0.01, 0.99), st.integers(0, 99))
def test_all_conformations_of_a_compound_are_on_one_side(smiles, fraction, seed):
    store = store_of(smiles)
    if len(set(smiles)) < 2:
        with pytest.raises(ValueError, match="random_split"):
            split_by_smiles(store, fraction, seed)
        return
    split = split_by_smiles(store, fraction, seed)
    train, held = ({smiles[i] for i in part} for part in (split.train, split.validation))
    assert train
    assert held
    assert not train & held
    assert len(split.train) + len(split.validation) == len(smiles)


def test_an_unknown_compound_cannot_be_split_by_compound():
    with pytest.raises(ValueError, match="1 of 3 molecules have no SMILES"):
        split_by_smiles(store_of(["C", "", "CC"]), 0.5, 0)


def test_a_saved_split_comes_back_and_an_edited_one_does_not(tmp_path):
    split = random_split(30, train=20, validation=5, seed=0)
    file = tmp_path / "split.json"
    split.save(file)
    assert Split.load(file) == split
    record = json.loads(file.read_text())
    record["train"], record["test"] = record["test"], record["train"]
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="changed after it was saved"):
        Split.load(file)
    file.write_text("[]")
    with pytest.raises(ValueError, match="not a split"):
        Split.load(file)
