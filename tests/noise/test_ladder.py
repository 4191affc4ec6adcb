import math
import re

import pytest
import torch

from basinet.noise.ladder import N_LEVELS, NoiseLadder, geometric_ladder
from basinet.structures.batch import collate
from molecules import SMALL, WATER


def test_the_published_ladder_falls_from_ten_to_a_hundredth_of_an_angstrom_by_a_constant_ratio() -> None:
    sigmas = geometric_ladder().sigmas
    assert len(sigmas) == N_LEVELS == 50
    assert (sigmas[0], sigmas[-1]) == (10.0, 0.01)
    ratios = [below / above for above, below in zip(sigmas, sigmas[1:], strict=False)]
    assert max(abs(ratio - 0.868511) for ratio in ratios) < 1e-6
    assert max(ratios) - min(ratios) < 1e-12
    assert sigmas[38] == pytest.approx(0.0471, abs=5e-5)


def test_levels_are_drawn_uniformly_and_one_for_each_molecule(generator: torch.Generator) -> None:
    n = 20_000
    drawn = geometric_ladder().draw(collate([WATER] * n), generator)
    assert drawn.level.shape == drawn.sigma.shape == (n,)
    counts = torch.bincount(drawn.level, minlength=N_LEVELS).double()
    assert len(counts) == N_LEVELS
    chi_squared = float(((counts - n / N_LEVELS).square() / (n / N_LEVELS)).sum())
    # Expectation 49, deviation sqrt(2 * 49); five deviations either way.
    assert abs(chi_squared - 49) < 5 * math.sqrt(98)


def test_the_size_drawn_is_that_of_the_level_in_the_dtype_of_the_positions(generator: torch.Generator) -> None:
    ladder = NoiseLadder([1.0, 0.3, 0.1])
    for dtype in (torch.float32, torch.float64):
        level, sigma = ladder.draw(collate(SMALL, dtype=dtype), generator)
        assert sigma.dtype == dtype
        assert torch.equal(sigma, torch.tensor(ladder.sigmas, dtype=dtype)[level])


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([], "a noise ladder needs at least one level, got none"),
        ([1.0, 0.0], "level 1 of the noise ladder must be positive and finite (Å), got 0.0"),
        ([math.inf, 1.0], "level 0 of the noise ladder must be positive and finite (Å), got inf"),
        ([1.0, math.nan], "level 1 of the noise ladder must be positive and finite (Å), got nan"),
        ([1.0, 0.5, 0.5], "must fall from each level to the next, got 0.5 Å at level 1 and 0.5 Å at level 2; sort it"),
        ([0.1, 1.0], "must fall from each level to the next, got 0.1 Å at level 0 and 1.0 Å at level 1"),
    ],
)
def test_a_ladder_that_is_none_is_refused(sigmas: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        NoiseLadder(sigmas)


def test_a_geometric_ladder_needs_two_sizes_in_order() -> None:
    with pytest.raises(ValueError, match=re.escape("expected 0 < smallest < largest (Å), got smallest 10.0 and larg")):
        geometric_ladder(0.01, 10.0)
    with pytest.raises(ValueError, match="a ladder between two sizes needs at least 2 levels, got 1"):
        geometric_ladder(n_levels=1)
    assert geometric_ladder(1.0, 0.1, 2).sigmas == (1.0, 0.1)
