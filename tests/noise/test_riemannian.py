"""The Riemannian target against its definition, its symmetries and its limits; sampling against its moments."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from basinet.noise.base import Perturbation
from basinet.noise.ladder import NoiseLadder, geometric_ladder
from basinet.noise.riemannian import LadderNoise, RiemannianNoise, SuperposedNoise, riemannian_target, superpose
from basinet.structures.batch import Batch, collate
from basinet.structures.segment import centre_per_molecule, sum_per_molecule
from molecules import BENZENE, CARBON_MONOXIDE, ETHANOL, HELIUM, SMALL, WATER, molecule, random_orthogonal

EXACT = 1e-12
"""Å; float64, numbers of order one to ten."""


def cloud(seed: int, n_atoms: int = 9) -> Tensor:
    """Return random positions with unequal axes."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n_atoms, 3)) * [2.0, 1.0, 0.5])


def batch_of(*positions: Tensor) -> Batch:
    """Return a batch of carbon atoms, not validated and not centred."""
    counts = torch.tensor([len(x) for x in positions])
    return Batch(
        atomic_numbers=torch.full((int(counts.sum()),), 6),
        positions=torch.cat(positions),
        molecule=torch.repeat_interleave(torch.arange(len(counts)), counts),
        n_molecules=len(counts),
    )


def target(noisy: Tensor, clean: Tensor) -> Tensor:
    return riemannian_target(batch_of(clean), noisy - clean)


def gram_of(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred @ centred.T


def slow_target(noisy: Tensor, clean: Tensor) -> Tensor:
    """Return the target by its definition, with the Gram matrices of all atoms."""
    o, p = clean - clean.mean(0), noisy - noisy.mean(0)
    size = torch.linalg.matrix_norm(p.T @ p) + torch.linalg.matrix_norm(o.T @ p)
    return -2 * (gram_of(noisy) - gram_of(clean)) @ p / size


@pytest.fixture(params=range(3))
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Return a clean cloud and a noisy one that is not near it."""
    clean = cloud(request.param)
    return clean, clean + 0.5 * cloud(request.param + 100)


def test_the_target_is_the_rescaled_gradient_of_the_log_density(pair: tuple[Tensor, Tensor]) -> None:
    clean, noisy = pair
    sigma, x = 0.7, noisy.clone().requires_grad_()
    log_density = -(gram_of(x) - gram_of(clean)).square().sum() / (4 * sigma**2)
    (score,) = torch.autograd.grad(log_density, x)
    o, p = clean - clean.mean(0), noisy - noisy.mean(0)
    size = torch.linalg.matrix_norm(p.T @ p) + torch.linalg.matrix_norm(o.T @ p)
    force = target(noisy, clean) / sigma
    assert (score - force * size / (2 * sigma)).abs().max() / score.abs().max() < EXACT


def test_small_matrices_give_what_the_gram_matrices_of_all_atoms_give(pair: tuple[Tensor, Tensor]) -> None:
    clean, noisy = pair
    assert (target(noisy, clean) - slow_target(noisy, clean)).abs().max() < EXACT


@pytest.mark.parametrize("mirror_clean", [False, True])
@pytest.mark.parametrize("mirror_noisy", [False, True])
def test_the_target_turns_with_the_noisy_molecule_and_ignores_where_the_clean_one_is(
    pair: tuple[Tensor, Tensor], mirror_clean: bool, mirror_noisy: bool
) -> None:
    clean, noisy = pair
    turn_clean, turn_noisy = random_orthogonal(1, reflect=mirror_clean), random_orthogonal(2, reflect=mirror_noisy)
    shift_clean, shift_noisy = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([-3.0, 0.5, 1.0])
    moved = target(noisy @ turn_noisy.T + shift_noisy, clean @ turn_clean.T + shift_clean)
    assert (moved - target(noisy, clean) @ turn_noisy.T).abs().max() < EXACT


def test_a_molecule_that_was_only_moved_has_no_way_back(pair: tuple[Tensor, Tensor]) -> None:
    clean, _ = pair
    for reflect in (False, True):
        assert target(clean @ random_orthogonal(3, reflect=reflect).T + 2.0, clean).abs().max() < EXACT
    assert torch.equal(target(clean, clean), torch.zeros_like(clean))


def test_the_target_has_no_net_force_and_no_torque() -> None:
    batch = collate(SMALL, dtype=torch.float64)
    displacement = torch.randn(batch.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s = riemannian_target(batch, displacement)
    arm = centre_per_molecule(batch.positions + displacement, batch)
    assert sum_per_molecule(s, batch).abs().max() < EXACT
    assert sum_per_molecule(torch.linalg.cross(arm, s), batch).abs().max() < EXACT


def test_small_noise_gives_the_linear_map_of_the_displacement(pair: tuple[Tensor, Tensor]) -> None:
    clean, noisy = pair
    d = 1e-6 * (noisy - clean) / torch.linalg.vector_norm(noisy - clean)
    o, centred = clean - clean.mean(0), d - d.mean(0)
    linear = -(o @ centred.T @ o + centred @ o.T @ o) / torch.linalg.matrix_norm(o.T @ o)
    found = target(clean + d, clean)
    assert (found - linear).abs().max() / linear.abs().max() < 1e-5


def test_a_small_rigid_motion_has_a_way_back_of_second_order_only(pair: tuple[Tensor, Tensor]) -> None:
    clean, _ = pair
    for angle in (1e-3, 1e-4):
        generator = torch.tensor([[0.0, -1.0, 0.5], [1.0, 0.0, -0.3], [-0.5, 0.3, 0.0]], dtype=torch.float64)
        d = angle * (clean - clean.mean(0)) @ generator + 0.1 * angle
        assert target(clean + d, clean).abs().max() < 10 * angle**2


def mean_squared_length(clean: Tensor, sigma: float, n_draws: int) -> float:
    """Return the mean over draws of the squared length of the target in units of sigma, summed over atoms."""
    n_atoms = len(clean)
    batch = batch_of(clean.repeat(n_draws, 1)).replace(
        molecule=torch.arange(n_draws).repeat_interleave(n_atoms), n_molecules=n_draws
    )
    generator = torch.Generator().manual_seed(0)
    perturbed = RiemannianNoise(NoiseLadder([sigma]))(batch, generator)
    return float(perturbed.target.square().sum() / n_draws)


@pytest.mark.parametrize("axes", [(2.0, 1.0, 0.5), (2.0, 1.0, 0.0), (2.0, 0.0, 0.0)], ids=["solid", "flat", "straight"])
def test_the_length_of_the_target_for_small_noise_is_known(axes: tuple[float, float, float]) -> None:
    clean = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 3)) * axes)
    inertia = (clean - clean.mean(0)).T @ (clean - clean.mean(0))
    expected = 9 + 1 + float(torch.trace(inertia) ** 2 / inertia.square().sum())
    assert mean_squared_length(clean, 1e-4, 20_000) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("n_atoms", "expected"), [(5, 31.1), (9, 50.4), (18, 89.9), (29, 135.4)])
def test_the_length_of_the_target_for_large_noise_is_known(n_atoms: int, expected: float) -> None:
    assert mean_squared_length(cloud(0, n_atoms), 1e4, 10_000) == pytest.approx(expected, rel=0.03)


def test_a_larger_molecule_with_larger_noise_has_a_way_back_that_is_longer_by_as_much(
    pair: tuple[Tensor, Tensor],
) -> None:
    clean, noisy = pair
    assert (target(3 * noisy, 3 * clean) - 3 * target(noisy, clean)).abs().max() < EXACT


def test_permuting_the_atoms_of_both_permutes_the_target_and_of_one_does_not(pair: tuple[Tensor, Tensor]) -> None:
    clean, noisy = pair
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    before = target(noisy, clean)
    assert (target(noisy[order], clean[order]) - before[order]).abs().max() < EXACT
    assert (target(noisy[order], clean) - before[order]).abs().max() > 0.1


def test_a_batch_is_its_molecules_one_by_one() -> None:
    clean = [cloud(n, n) for n in (2, 3, 9, 29)]
    noisy = [x + 0.3 * cloud(n + 50, len(x)) for n, x in enumerate(clean)]
    together = riemannian_target(batch_of(*clean), torch.cat(noisy) - torch.cat(clean))
    alone = torch.cat([slow_target(x, o) for x, o in zip(noisy, clean, strict=True)])
    assert (together - alone).abs().max() < EXACT


def test_molecules_without_a_shape_have_no_way_back() -> None:
    one = batch_of(torch.tensor([[1.1, 2.2, 3.3]]))
    assert torch.equal(riemannian_target(one, torch.ones(1, 3)), torch.zeros(1, 3))
    together = batch_of(torch.ones(4, 3, dtype=torch.float64))
    assert torch.equal(riemannian_target(together, torch.zeros(4, 3, dtype=torch.float64)), torch.zeros(4, 3).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_atoms_and_straight_molecules_have_finite_targets(dtype: torch.dtype, generator: torch.Generator) -> None:
    dioxide = molecule([8, 6, 8], [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
    batch = collate([HELIUM, CARBON_MONOXIDE, dioxide, BENZENE] * 50, dtype=dtype)
    perturbed = RiemannianNoise(geometric_ladder(), n_steps=3)(batch, generator)
    assert bool(perturbed.target.isfinite().all())
    assert not bool(perturbed.target[batch.atomic_numbers == 2].any())


METHANOL = torch.tensor(
    [
        [-0.047131, 0.664389, 0.0],
        [-0.047131, -0.758551, 0.0],
        [-1.092995, 0.969785, 0.0],
        [0.878534, -1.048458, 0.0],
        [0.437145, 1.080376, 0.891772],
        [0.437145, 1.080376, -0.891772],
    ],
    dtype=torch.float64,
)
DISPLACEMENT = (
    torch.tensor([[10, -5, 2], [-3, 8, -6], [4, 1, 9], [-7, -2, 5], [2, 6, -8], [0, -10, 3]], dtype=torch.float64) / 100
)
OF_THE_AUTHORS_EQUATION = torch.tensor(
    [
        [-0.042580, 0.065452, -0.008043],
        [0.018585, -0.084889, 0.040890],
        [-0.021264, 0.044310, -0.031776],
        [0.027924, -0.050436, 0.018444],
        [0.032254, -0.051477, 0.014682],
        [-0.014919, 0.077039, -0.034197],
    ],
    dtype=torch.float64,
)


def test_the_target_of_methanol_is_the_known_one() -> None:
    assert (target(METHANOL + DISPLACEMENT, METHANOL) - OF_THE_AUTHORS_EQUATION).abs().max() < 1e-6


@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_float32_loses_nothing_when_the_noise_is_small(sigma: float, generator: torch.Generator) -> None:
    clean = cloud(0)
    d = sigma * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    exact = riemannian_target(batch_of(clean), d.float().double())
    single = riemannian_target(batch_of(clean.float()), d.float())
    assert (single - exact).abs().max() / exact.abs().max() < 5e-7


def noises(ladder: NoiseLadder) -> dict[str, Perturbation]:
    return {
        "riemannian": RiemannianNoise(ladder),
        "riemannian, 3 steps": RiemannianNoise(ladder, n_steps=3),
        "gaussian": LadderNoise(ladder),
        "superposed": SuperposedNoise(ladder),
    }


@pytest.fixture(params=noises(NoiseLadder([1.0])))
def make(request: pytest.FixtureRequest) -> Callable[[NoiseLadder], Perturbation]:
    return lambda ladder: noises(ladder)[request.param]


def test_noise_says_its_level_and_size_and_keeps_to_the_contract(
    make: Callable[[NoiseLadder], Perturbation], generator: torch.Generator
) -> None:
    ladder = NoiseLadder([1.0, 0.1, 0.01])
    for dtype in (torch.float32, torch.float64):
        batch = collate(SMALL, dtype=dtype)
        before = batch.positions.clone()
        perturbed = make(ladder)(batch, generator)
        assert perturbed.level is not None
        assert torch.equal(perturbed.scale, torch.tensor(ladder.sigmas, dtype=dtype)[perturbed.level])
        assert {perturbed.batch.positions.dtype, perturbed.target.dtype, perturbed.scale.dtype} == {dtype}
        assert torch.equal(batch.positions, before)
        assert perturbed.batch.labels == {}
        assert not torch.equal(perturbed.batch.positions, before)


def test_the_same_generator_gives_the_same_noise(make: Callable[[NoiseLadder], Perturbation]) -> None:
    batch = collate(SMALL, dtype=torch.float64)
    first, again = (make(geometric_ladder())(batch, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.batch.positions, again.batch.positions)
    assert torch.equal(first.target, again.target)


def test_no_molecules_get_no_noise(make: Callable[[NoiseLadder], Perturbation], generator: torch.Generator) -> None:
    assert make(geometric_ladder())(collate(SMALL).select([]), generator).target.shape == (0, 3)


def test_one_step_of_langevin_dynamics_is_gaussian_noise() -> None:
    batch, ladder = collate(SMALL, dtype=torch.float64), geometric_ladder()
    riemannian, gaussian = (
        noise(batch, torch.Generator().manual_seed(1)) for noise in (RiemannianNoise(ladder), LadderNoise(ladder))
    )
    assert torch.equal(riemannian.batch.positions, gaussian.batch.positions)
    epsilon = (gaussian.batch.positions - batch.positions) / gaussian.scale[batch.molecule][:, None]
    assert (gaussian.target + epsilon).abs().max() < 1e-9  # positions of 1 Å, rounded, over noise of 0.01 Å
    assert (riemannian.target - gaussian.target).abs().max() > 0.1


def test_one_step_has_mean_zero_and_the_stated_deviation(generator: torch.Generator) -> None:
    batch = collate([WATER] * 3000, dtype=torch.float64)
    noise = (RiemannianNoise(NoiseLadder([0.3]))(batch, generator).batch.positions - batch.positions) / 0.3
    n = noise.numel()
    assert noise.mean().abs() < 5 / math.sqrt(n)
    assert (noise.square().mean() - 1).abs() < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize(
    ("sigma", "n_steps", "ratio"),
    [(0.01, 1, 1.0), (0.01, 2, 1.13), (0.01, 5, 1.22), (1.0, 2, 1.1), (1.0, 5, 1.16), (10.0, 5, 1.03)],
)
def test_more_steps_go_a_little_farther_and_less_so_when_the_noise_is_larger_than_the_molecule(
    sigma: float, n_steps: int, ratio: float
) -> None:
    batch = batch_of(*[METHANOL] * 2000)
    noisy = RiemannianNoise(NoiseLadder([sigma]), n_steps)(batch, torch.Generator().manual_seed(0)).batch
    moved = float((noisy.positions - batch.positions).square().mean().sqrt())
    # 0.01: rounding of the stated ratio; the statistical error of 2000 draws is a third of that.
    assert moved / sigma == pytest.approx(ratio, abs=0.013)


def test_langevin_dynamics_needs_a_step() -> None:
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        RiemannianNoise(geometric_ladder(), n_steps=0)


def test_superposition_is_that_of_scipy_molecule_by_molecule(generator: torch.Generator) -> None:
    batch = collate([ETHANOL, BENZENE, WATER], dtype=torch.float64)
    noisy = batch.positions + 0.5 * torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
    found = superpose(noisy + 3.0, batch)
    for index in range(3):
        mine = batch.molecule == index
        fixed, mobile = batch.positions[mine].numpy(), noisy[mine].numpy()
        rotation, _ = Rotation.align_vectors(fixed - fixed.mean(0), mobile - mobile.mean(0))
        expected = rotation.apply(mobile - mobile.mean(0)) + fixed.mean(0)
        assert np.abs(found[mine].numpy() - expected).max() < 1e-9


def test_a_superposed_target_has_no_shift_and_no_turn_and_a_mirrored_molecule_stays_mirrored(
    generator: torch.Generator,
) -> None:
    batch = collate([ETHANOL, HELIUM, CARBON_MONOXIDE], dtype=torch.float64)
    perturbed = SuperposedNoise(NoiseLadder([0.3]))(batch, generator)
    back = (batch.positions - perturbed.batch.positions) / 0.3
    assert (perturbed.target - back).abs().max() < EXACT
    arm = centre_per_molecule(batch.positions, batch)
    assert sum_per_molecule(perturbed.target, batch).abs().max() < 1e-11
    assert sum_per_molecule(torch.linalg.cross(arm, perturbed.target), batch).abs().max() < 1e-11
    mirrored = cloud(0) * torch.tensor([-1.0, 1.0, 1.0])
    assert (superpose(mirrored, batch_of(cloud(0))) - cloud(0)).abs().max() > 0.1
