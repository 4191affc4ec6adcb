"""An order that is computed place by place is an order: everything once, and nothing to be seen in it."""

import numpy as np
import pytest

from basinet.data.stream import batching
from basinet.data.stream.batching import Permutation


@pytest.fixture(params=["drawn", "computed"])
def kind(request, monkeypatch) -> str:
    """Both kinds of permutation at the same small sizes."""
    if request.param == "computed":
        monkeypatch.setattr(batching, "DRAWN", 0)
    return request.param


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 64, 1000, 4097])
def test_everything_comes_once(kind, n):
    assert sorted(Permutation(n, [0, 1])(0, n).tolist()) == list(range(n))


def test_pieces_are_those_of_the_whole(kind):
    order = Permutation(1000, [3])
    pieces = np.concatenate([order(first, 77) for first in range(0, 1000, 77)])
    assert pieces.tolist() == order(0, 1000).tolist()


def test_seeds_give_orders_of_their_own(kind):
    assert Permutation(1000, [0])(0, 1000).tolist() == Permutation(1000, [0])(0, 1000).tolist()
    same = (Permutation(1000, [0])(0, 1000) == Permutation(1000, [1])(0, 1000)).sum()
    assert same < 10  # one on average


def test_places_and_what_is_there_are_uncorrelated(kind):
    n = 30_000
    order = Permutation(n, [7])(0, n)
    for lag in (1, 2, 64):
        correlation = np.corrcoef(order[:-lag], order[lag:])[0, 1]
        assert abs(correlation) < 4 / n**0.5
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4 / n**0.5


def test_a_part_is_spread_as_a_random_one(kind):
    """Chi-square of the first tenth over 100 equal ranges: 99 on average, times 0.9 as nothing is drawn twice."""
    n, chi = 20_000, []
    for seed in range(50):
        counts = np.bincount(Permutation(n, [seed])(0, n // 10) * 100 // n, minlength=100)
        chi.append(((counts - 20) ** 2 / 20).sum())
    deviation = 0.9 * (2 * 99 / len(chi)) ** 0.5
    assert abs(np.mean(chi) - 0.9 * 99) < 4 * deviation


def test_fifteen_million_places_need_no_table():
    order = Permutation(15_000_000, [0])
    first = order(0, 100_000)
    assert len(np.unique(first)) == 100_000 and first.min() >= 0 and first.max() < 15_000_000
    assert order(14_999_990, 100).shape == (10,)
