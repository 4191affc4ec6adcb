"""Lists of sizes are cut where the atoms say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basinet.data.stream.batching import by_size, cuts_by_atoms, equal_cuts

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(SIZES, st.integers(1, 200))
def test_no_piece_of_several_molecules_has_more_atoms_than_allowed(sizes: list[int], limit: int) -> None:
    pieces = np.split(np.array(sizes), cuts_by_atoms(np.array(sizes), limit))
    assert np.concatenate(pieces).tolist() == sizes
    assert all(len(piece) == 1 or piece.sum() <= limit for piece in pieces)
    assert all(len(piece) for piece in pieces)


@given(SIZES, st.integers(1, 40))
def test_equal_cuts_leave_no_piece_empty_where_there_are_molecules_enough(sizes: list[int], n_pieces: int) -> None:
    pieces = np.split(np.array(sizes), equal_cuts(np.array(sizes), n_pieces))
    assert len(pieces) == n_pieces and np.concatenate(pieces).tolist() == sizes
    assert len(sizes) < n_pieces or all(len(piece) for piece in pieces)


def test_equal_cuts_are_equal_to_a_molecule() -> None:
    sizes = np.sort(np.random.default_rng(0).integers(5, 40, 1000))
    atoms = [piece.sum() for piece in np.split(sizes, equal_cuts(sizes, 64))]
    assert max(atoms) - min(atoms) <= 2 * 40


def test_sorting_by_size_keeps_the_order_of_equals() -> None:
    sizes = np.array([70_000, 3, 2, 3, 2, 80_000])
    assert by_size(sizes).tolist() == [2, 4, 1, 3, 0, 5]
    assert by_size(np.zeros(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("n", [1, 5])
def test_one_piece_needs_no_cut(n: int) -> None:
    assert equal_cuts(np.full(n, 3), 1).tolist() == [] and cuts_by_atoms(np.full(n, 3), 100).tolist() == []
