import math

import pytest
import torch
from torch import Tensor

from basinet.noise.base import Perturbed
from basinet.noise.coordinate import CoordinateNoise
from basinet.structures.batch import Batch, collate
from molecules import ETHANOL, SMALL, WATER, labelled

SIGMA = 0.04
N_DEVIATIONS = 5
"""A sample statistic is farther from its expectation than this once in two million tests."""


@pytest.fixture
def batch() -> Batch:
    return collate([labelled(m, is_equilibrium=True) for m in SMALL], dtype=torch.float64)


def noise_of(perturbed: Perturbed, batch: Batch) -> Tensor:
    return perturbed.batch.positions - batch.positions


def test_noise_has_mean_zero_and_the_stated_variance(generator: torch.Generator) -> None:
    batch = collate([ETHANOL] * 2000, dtype=torch.float64)
    noise = noise_of(CoordinateNoise(SIGMA)(batch, generator), batch) / SIGMA
    n = len(noise)
    assert noise.mean(0).abs().max() < N_DEVIATIONS / math.sqrt(n)
    assert (noise.square().mean(0) - 1).abs().max() < N_DEVIATIONS * math.sqrt(2 / n)
    off_diagonal = (noise.T @ noise / n).triu(diagonal=1)
    assert off_diagonal.abs().max() < N_DEVIATIONS / math.sqrt(n)


def test_noise_of_neighbouring_atoms_is_independent(generator: torch.Generator) -> None:
    batch = collate([ETHANOL] * 2000, dtype=torch.float64)
    noise = (noise_of(CoordinateNoise(SIGMA)(batch, generator), batch) / SIGMA).reshape(2000, 9, 3)
    products = (noise[:, :-1] * noise[:, 1:]).flatten()
    assert products.mean().abs() < N_DEVIATIONS / math.sqrt(len(products))


def test_the_target_points_back_to_the_clean_position_in_units_of_sigma(
    batch: Batch, generator: torch.Generator
) -> None:
    perturbed = CoordinateNoise(SIGMA)(batch, generator)
    back = (batch.positions - perturbed.batch.positions) / perturbed.scale[batch.molecule][:, None]
    assert (perturbed.target - back).abs().max() < 1e-12
    assert perturbed.scale.tolist() == [SIGMA] * batch.n_molecules
    assert perturbed.level is None


def test_the_same_generator_gives_the_same_noise_and_then_other_noise(batch: Batch) -> None:
    noise = CoordinateNoise(SIGMA)
    generator = torch.Generator().manual_seed(5)
    first, second = noise(batch, generator), noise(batch, generator)
    again = noise(batch, torch.Generator().manual_seed(5))
    assert torch.equal(first.batch.positions, again.batch.positions)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.batch.positions, second.batch.positions)


def test_noise_does_not_draw_from_the_global_generator(batch: Batch, generator: torch.Generator) -> None:
    state = torch.get_rng_state()
    CoordinateNoise(SIGMA)(batch, generator)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_clean_batch_stays_as_it_is(batch: Batch, generator: torch.Generator) -> None:
    before = batch.positions.clone()
    CoordinateNoise(SIGMA)(batch, generator)
    assert torch.equal(batch.positions, before)
    assert set(batch.labels) == {"energy", "forces"}


def test_labels_of_the_clean_positions_do_not_come_along(batch: Batch, generator: torch.Generator) -> None:
    noisy = CoordinateNoise(SIGMA)(batch, generator).batch
    assert noisy.labels == {}
    assert "has_forces" not in noisy.flags
    assert noisy.atomic_numbers is batch.atomic_numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_the_dtype_of_the_positions(dtype: torch.dtype, generator: torch.Generator) -> None:
    perturbed = CoordinateNoise(SIGMA)(collate([WATER], dtype=dtype), generator)
    assert {perturbed.batch.positions.dtype, perturbed.target.dtype, perturbed.scale.dtype} == {dtype}


def test_no_molecules_get_no_noise(batch: Batch, generator: torch.Generator) -> None:
    assert CoordinateNoise(SIGMA)(batch.select([]), generator).target.shape == (0, 3)


@pytest.mark.parametrize("sigma", [0.0, -0.04, float("nan"), float("inf")])
def test_noise_without_a_size_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=rf"sigma must be positive and finite \(Å\), got {sigma}"):
        CoordinateNoise(sigma)
