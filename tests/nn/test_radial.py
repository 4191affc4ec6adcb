import math

import numpy as np
import pytest
import torch

from basinet.nn.modules import xavier
from basinet.nn.radial import ExponentialNormalBasis, cosine_cutoff

CUTOFF = 5.0


def test_the_cutoff_function_is_one_at_zero_and_fades_to_zero_with_zero_slope() -> None:
    distance = torch.tensor([0.0, 2.5, CUTOFF - 1e-7, CUTOFF, 7.0], dtype=torch.float64, requires_grad=True)
    value = cosine_cutoff(distance, CUTOFF)
    (slope,) = torch.autograd.grad(value.sum(), distance)
    assert value.tolist() == pytest.approx([1, 0.5, 0, 0, 0], abs=1e-12)
    assert slope.tolist() == pytest.approx([0, -math.pi / 10, 0, 0, 0], abs=1e-7)
    assert value[3:].tolist() == slope[3:].tolist() == [0, 0]


@pytest.mark.parametrize("n_basis", [2, 16, 64])
def test_the_basis_is_the_published_formula(n_basis: int) -> None:
    distance = np.linspace(0.1, 5.5, 50)
    means = np.linspace(math.exp(-5), 1, n_basis)
    beta = (2 / n_basis * (1 - math.exp(-5))) ** -2
    fade = np.where(distance < CUTOFF, 0.5 * (np.cos(math.pi * distance / CUTOFF) + 1), 0)
    expected = fade[:, None] * np.exp(-beta * (np.exp(-5 / CUTOFF * distance)[:, None] - means) ** 2)
    ours = ExponentialNormalBasis(n_basis, CUTOFF)(torch.from_numpy(distance))
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)  # the centres are float32


def test_the_centres_run_from_the_cutoff_to_distance_zero() -> None:
    basis = ExponentialNormalBasis(8, CUTOFF)
    assert float(basis.means[0]) == pytest.approx(math.exp(-5))
    assert float(basis.means[-1]) == 1
    assert int(basis(torch.tensor(0.0)).argmax()) == 7
    assert list(basis.parameters()) == []


def test_the_basis_and_its_slope_vanish_at_the_cutoff() -> None:
    distance = torch.tensor([CUTOFF - 1e-7, CUTOFF], dtype=torch.float64, requires_grad=True)
    value = ExponentialNormalBasis(16, CUTOFF)(distance)
    (slope,) = torch.autograd.grad(value.sum(), distance)
    assert value.abs().max() < 1e-12
    assert slope.abs().max() < 1e-6
    assert bool((value[1] == 0).all())


def test_fused_maps_are_initialised_as_if_each_stood_alone() -> None:
    torch.manual_seed(0)
    linear = xavier(64, 32, 256)
    for part, n_out in zip(linear.weight.detach().split([32, 256]), (32, 256), strict=True):
        bound = math.sqrt(6 / (64 + n_out))
        assert 0.98 * bound < float(part.abs().max()) <= bound
    assert bool((linear.bias == 0).all())
