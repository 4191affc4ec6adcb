import pytest
import torch
from torch import Tensor, nn

from basinet.nn.equivariant import (
    SMALL_NORM,
    CompatibleWhitenedNorm,
    GatedEquivariantBlock,
    WhitenedNorm,
    safe_norm,
)
from molecules import random_orthogonal

EXACT = 1e-9
"""Relative, float64: whitening multiplies rounding by up to 1 / sqrt(3e-5)."""
REFLECT = [False, True]


def vectors(n_atoms: int = 20, n_features: int = 16, seed: int = 0, size: float = 1.0) -> Tensor:
    """Return random vectors [n_atoms, 3, n_features], some of them zero, on a line, in or near a plane."""
    generator = torch.Generator().manual_seed(seed)
    v = size * torch.randn(n_atoms, 3, n_features, generator=generator, dtype=torch.float64)
    if n_atoms > 3:
        v[0] = 0
        v[1] = v[1, :, :1] * v[1, 0]
        v[2] = torch.cat([v[2, :2], 0 * v[2, :1]])
    if n_atoms > 4:
        v[4] = v[4] * torch.tensor([1, 0.01, 0.001], dtype=torch.float64)[:, None]
    return v


def turned(rotation: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("xy,nyf->nxf", rotation, v)


def equivariance_error(norm: nn.Module, v: Tensor, rotation: Tensor) -> float:
    with torch.no_grad():
        after, expected = norm(turned(rotation, v)), turned(rotation, norm(v))
    return float((after - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("reflect", REFLECT)
@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_whitened_norm_turns_with_its_vectors(seed: int, size: float, reflect: bool) -> None:
    error = equivariance_error(
        WhitenedNorm(16), vectors(seed=seed, size=size), random_orthogonal(seed, reflect=reflect)
    )
    assert error < EXACT, f"relative error {error:.2e}"


def test_the_whitened_norm_as_released_does_not_turn_with_its_vectors() -> None:
    error = equivariance_error(CompatibleWhitenedNorm(16), 0.01 * vectors(), random_orthogonal(0, reflect=False))
    assert error > 1e-3, f"relative error {error:.2e}"


def test_the_whitened_norm_as_released_is_its_published_formula() -> None:
    v = vectors()
    centred = v - v.mean(-1, keepdim=True)
    covariance = centred @ centred.mT / 16 + 1e-5 * torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    values, frame = torch.linalg.eigh(covariance + 1e-5 * torch.eye(3, dtype=torch.float64))
    expected = frame @ torch.diag_embed(values**-0.5) @ frame.mT @ centred
    assert (CompatibleWhitenedNorm(16)(v) - expected).abs().max() < EXACT


@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_the_whitened_norm_is_that_of_an_eigendecomposition(size: float) -> None:
    v = vectors(size=size)
    centred = v - v.mean(-1, keepdim=True)
    covariance = centred @ centred.mT / 16 + 3e-5 * torch.eye(3, dtype=torch.float64)
    values, frame = torch.linalg.eigh(covariance)
    expected = frame @ torch.diag_embed(values**-0.5) @ frame.mT @ centred
    error = (WhitenedNorm(16)(v) - expected).abs().max() / expected.abs().max()
    assert error < 1e-8, f"relative error {error:.2e}"


def test_whitened_vectors_have_no_preferred_direction() -> None:
    white = WhitenedNorm(64)(vectors(4, 64, size=100)[3:])
    covariance = (white @ white.mT / 64)[0]
    assert (covariance - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-6


def test_each_channel_of_whitened_vectors_has_its_weight() -> None:
    norm = WhitenedNorm(16).double()
    plain = norm(vectors())
    with torch.no_grad():
        norm.weight[3] = -2
    assert torch.equal(norm(vectors())[..., 3], -2 * plain[..., 3])


@pytest.mark.parametrize("v", [torch.zeros(2, 3, 5), torch.ones(1, 3, 5), torch.eye(3).expand(1, 3, 3)])
def test_whitening_has_finite_gradients_where_directions_are_alike(v: Tensor) -> None:
    # The derivative of an eigendecomposition does not exist here; that of a matrix function does.
    v = v.double().requires_grad_()
    norm = WhitenedNorm(v.shape[-1]).double()
    probe = torch.linspace(-1, 1, v.numel(), dtype=torch.float64).reshape(v.shape)
    (first,) = torch.autograd.grad((norm(v) * probe).sum(), v, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), v)
    assert bool(first.isfinite().all())
    assert bool(second.isfinite().all())


def test_the_derivatives_of_whitening_are_right() -> None:
    norm = WhitenedNorm(4).double()
    for v in (0.1 * vectors(1, 4), torch.diag(torch.ones(4, dtype=torch.float64))[None, :3]):
        v = v.clone().requires_grad_()
        assert torch.autograd.gradcheck(norm, (v,), eps=1e-7, atol=1e-5, rtol=1e-4)
        assert torch.autograd.gradgradcheck(norm, (v,), eps=1e-7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reflect", REFLECT)
@pytest.mark.parametrize("activate", [False, True])
def test_the_gated_block_turns_vectors_and_leaves_scalars(activate: bool, reflect: bool) -> None:
    torch.manual_seed(0)
    block = GatedEquivariantBlock(16, 8, activate=activate).double()
    rotation = random_orthogonal(1, reflect=reflect)
    v, s = vectors(), torch.randn(20, 16, dtype=torch.float64)
    scalar, vector = block(s, v)
    turned_scalar, turned_vector = block(s, turned(rotation, v))
    assert scalar.shape == (20, 8)
    assert vector.shape == (20, 3, 8)
    assert (turned_scalar - scalar).abs().max() < EXACT
    assert (turned_vector - turned(rotation, vector)).abs().max() < EXACT


def test_the_length_of_a_zero_vector_has_gradient_zero() -> None:
    v = torch.zeros(2, 3, 1, dtype=torch.float64)
    v[1, :, 0] = torch.tensor([0.0, 3.0, 4.0])
    v.requires_grad_()
    length = safe_norm(v)
    (gradient,) = torch.autograd.grad(length.sum(), v, create_graph=True)
    assert length.flatten().tolist() == [0, 5]
    assert gradient[..., 0].tolist() == [[0, 0, 0], [0, pytest.approx(0.6), pytest.approx(0.8)]]
    (second,) = torch.autograd.grad(gradient.square().sum(), v)
    assert bool(second.isfinite().all())


def test_the_tip_of_the_norm_is_rounded_off_without_a_step_in_slope_or_curvature() -> None:
    size = torch.tensor([1 - 1e-9, 1 + 1e-9], dtype=torch.float64) * SMALL_NORM
    r = size.clone().requires_grad_()
    length = safe_norm(torch.stack([r, 0 * r, 0 * r], dim=1)[..., None])[:, 0]
    (slope,) = torch.autograd.grad(length.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    assert length.tolist() == pytest.approx(size.tolist(), rel=1e-12)
    assert slope.tolist() == pytest.approx([1, 1], abs=1e-6)
    assert (curvature * SMALL_NORM).tolist() == pytest.approx([0, 0], abs=1e-6)
    long = vectors(size=1e6)[3:]
    assert torch.equal(safe_norm(long), long.square().sum(1).sqrt())
