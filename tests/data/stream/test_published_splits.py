"""Published splits are drawn the same on every machine, have their published sizes, and do not leak."""

import numpy as np
import pytest

from basinet.data.stream.published_splits import N_QM9, PUBLISHED_SPLITS, mdsim_md17, published_split
from reference import reference_file

KNOWN = {
    "qm9-110k": (N_QM9, 110_000, 10_000, 10_831, "6a11201d259ea084fc9409afe4f591dce9b936731f49d59b9b03fe1e850cc475"),
    "qm9-3d-emgp": (N_QM9, 100_000, 17_748, 13_083, "dddd401a3d8cc85933e17b16cdd76bc665a0bed6819277425c2896a5d78d7086"),
    "md17-950": (25_000, 950, 50, 24_000, "da5fb43c6bf98d9678f6ef01c7ba6b0a6a8abdc8427f30a60205d0548a149e22"),
    "md17-9500": (25_000, 9500, 500, 15_000, "d7ffd7810df3d420929cc734878838d55b551ab64fb33ac1d9d481022c4dcb5b"),
    "md17-mdsim": (25_000, 9500, 500, 10_000, "7cceffc4bdb7ab18a251f1f485d6b94002bf40fb90c3fef67a5e7f04c88835f4"),
}
"""Molecules, sizes, and the hash of the indices. The indices of md17-mdsim were compared with those that
``train_test_split`` of scikit-learn 1.9.1 gives, for 20,000, 133,770 and 211,762 frames: they are the same."""


@pytest.mark.parametrize("name", PUBLISHED_SPLITS)
def test_sizes_and_indices_are_the_known_ones(name):
    n, train, validation, test, sha256 = KNOWN[name]
    split = published_split(name, n)  # a Split refuses an index that is in two parts
    assert (len(split.train), len(split.validation), len(split.test)) == (train, validation, test)
    assert split.hash == sha256


@pytest.mark.parametrize("name", ["qm9-110k", "qm9-3d-emgp"])
def test_the_splits_of_qm9_use_every_molecule(name):
    split = published_split(name, N_QM9)
    assert np.array_equal(np.sort(np.concatenate([split.train, split.validation, split.test])), np.arange(N_QM9))


def test_another_number_of_molecules_is_refused_with_the_published_one():
    with pytest.raises(ValueError, match="110,000 / 10,000 / 10,831.*130,831 molecules, but the data has 133,885"):
        published_split("qm9-110k", 133_885)
    with pytest.raises(ValueError, match="20,000 or more"):
        published_split("md17-mdsim", 5000)
    with pytest.raises(ValueError, match="no published split is called 'qm9'; expected qm9-110k"):
        published_split("qm9", N_QM9)


def test_the_learning_curves_of_torchmd_net_on_md17_are_nested():
    small, large = (published_split(name, 12_000) for name in ("md17-950", "md17-9500"))
    assert np.array_equal(large.train[:950], small.train)


def test_training_and_validation_of_mdsim_are_the_first_of_the_shuffled_pool():
    n = 30_000
    order = np.random.RandomState(123).permutation(n)
    split = mdsim_md17(n)
    assert np.array_equal(split.test, order[:10_000])
    kept = np.sort(np.concatenate([split.train, split.validation]))
    assert np.array_equal(kept, np.sort(order[10_000:20_000]))


def test_qm9_without_the_uncharacterised_molecules_has_the_size_that_the_splits_are_of():
    left_out = reference_file("qm9/qm9_uncharacterized_ids.txt").read_text().split()
    assert 133_885 - len(set(left_out)) == N_QM9
