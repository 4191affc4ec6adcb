"""Add noise on a ladder of sizes, with three ways back: by Gram matrices, straight, and superposed."""

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.noise.base import Perturbation, Perturbed
from basinet.noise.ladder import NoiseLadder
from basinet.structures.batch import Batch
from basinet.structures.geometry import best_rotation
from basinet.structures.segment import centre_per_molecule, sum_per_molecule


class RiemannianNoise(Perturbation):
    r"""Noise whose way back leads to the nearest copy of the clean molecule, wherever it was turned or shifted.

    The target of 3D-EMGP (Jiao et al., AAAI 2023) is the score of a density over Gram matrices of the centred clean and
    noisy positions :math:`O, P` (rows are atoms), rescaled:

    .. math:: F = s / \sigma, \qquad
              s = -2\,\frac{P P^\top P - O O^\top P}{\|P^\top P\|_F + \|O^\top P\|_F}, \qquad
              p_\sigma \propto \exp\Big(-\frac{\|P P^\top - O O^\top\|_F^2}{4 \sigma^2}\Big)

    ==============  =======================================================
    :math:`F`       ``perturbed.target``
    :math:`\sigma`  ``perturbed.scale``, Å, of level ``perturbed.level``
    :math:`s`       :func:`riemannian_target`, Å
    ==============  =======================================================

    It turns with the noisy molecule, does not change when the clean one is turned, mirrored or shifted, and has no net
    force and no torque: like the gradient of an invariant energy, and unlike :math:`-\epsilon`. The denominator is that
    of the published code; it depends on the noisy positions, so the target is not itself a gradient.

    Positions are drawn by ``n_steps`` steps of Langevin dynamics from the clean ones, with steps
    :math:`a_t = 2^{-t} \sigma^2`, to which the 4 belongs. The first step starts where the score vanishes, so one step,
    the published setting, is isotropic Gaussian noise of deviation :math:`\sigma`.

    Args:
        ladder: sizes of the noise, one drawn for each molecule.
        n_steps: of the Langevin dynamics.
    """

    def __init__(self, ladder: NoiseLadder, n_steps: int = 1) -> None:
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        self.ladder = ladder
        self.n_steps = n_steps

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        """Return a noisy copy."""
        drawn = self.ladder.draw(batch, generator)
        sigma = drawn.sigma[batch.molecule][:, None]
        displacement = torch.zeros_like(batch.positions)
        for t in range(1, self.n_steps + 1):
            a = 2.0**-t
            drift = a * riemannian_target(batch, displacement)
            displacement = displacement + drift + (2 * a) ** 0.5 * sigma * _normal(batch, generator)
        target = riemannian_target(batch, displacement) / sigma
        noisy = batch.without_labels().replace(positions=batch.positions + displacement)
        return Perturbed(noisy, target, drawn.sigma, drawn.level)


class LadderNoise(Perturbation):
    r"""Isotropic Gaussian noise on a ladder of sizes, and straight back: the target is :math:`-\epsilon`."""

    def __init__(self, ladder: NoiseLadder) -> None:
        self.ladder = ladder

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        """Return a noisy copy."""
        drawn = self.ladder.draw(batch, generator)
        epsilon = _normal(batch, generator)
        positions = batch.positions + drawn.sigma[batch.molecule][:, None] * epsilon
        return Perturbed(batch.without_labels().replace(positions=positions), -epsilon, drawn.sigma, drawn.level)


class SuperposedNoise(Perturbation):
    """Gaussian noise on a ladder of sizes, after which the noisy molecule is superposed on the clean one (Kabsch).

    The target is the rest of the way back, in units of sigma, without shift and rotation. The "kabsch" variant of
    3D-EMGP; there the superposition may mirror the molecule, here it may not.
    """

    def __init__(self, ladder: NoiseLadder) -> None:
        self.ladder = ladder

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        """Return a noisy copy."""
        drawn = self.ladder.draw(batch, generator)
        sigma = drawn.sigma[batch.molecule][:, None]
        positions = superpose(batch.positions + sigma * _normal(batch, generator), batch)
        noisy = batch.without_labels().replace(positions=positions)
        return Perturbed(noisy, (batch.positions - positions) / sigma, drawn.sigma, drawn.level)


def riemannian_target(clean: Batch, displacement: Float[Tensor, "n_atoms 3"]) -> Float[Tensor, "n_atoms 3"]:
    r"""Return the way back :math:`s` in Å from the clean positions plus a displacement (:class:`RiemannianNoise`).

    With the centred displacement :math:`d = P - O`, the numerator is

    .. math:: P P^\top P - O O^\top P = O\,(d^\top P) + d\,(P^\top P)

    which subtracts nothing: in float32 the relative error stays at rounding for any size of the noise, where the form
    on the left loses it as :math:`d` becomes small. Only 3 x 3 matrices are formed. One atom, or all atoms in one
    place, have no way back: zero.
    """
    o = centre_per_molecule(clean.positions, clean)
    d = centre_per_molecule(displacement, clean)
    p = o + d
    pp, op, dp = (_product_per_molecule(x, p, clean) for x in (p, o, d))  # [B, 3, 3]
    size = torch.linalg.matrix_norm(pp) + torch.linalg.matrix_norm(op)
    size = size.clamp_min(torch.finfo(size.dtype).tiny)  # zero only where the numerator is zero too
    of_atom = clean.molecule
    numerator = (o[:, None] @ dp[of_atom] + d[:, None] @ pp[of_atom])[:, 0]  # [N, 3]
    return -2 * numerator / size[of_atom][:, None]


def superpose(mobile: Float[Tensor, "n_atoms 3"], fixed: Batch) -> Float[Tensor, "n_atoms 3"]:
    """Return positions turned and shifted, not mirrored, so that each molecule is closest to that of a batch."""
    o, p = centre_per_molecule(fixed.positions, fixed), centre_per_molecule(mobile, fixed)
    rotation = best_rotation(_product_per_molecule(p, o, fixed))  # [B, 3, 3]
    centre = fixed.positions - o
    return centre + (p[:, None] @ rotation[fixed.molecule])[:, 0]


def _product_per_molecule(
    x: Float[Tensor, "n_atoms 3"], y: Float[Tensor, "n_atoms 3"], batch: Batch
) -> Float[Tensor, "n_molecules 3 3"]:
    """Return the matrix x.T @ y of each molecule."""
    return sum_per_molecule(x[:, :, None] * y[:, None], batch)


def _normal(batch: Batch, generator: torch.Generator) -> Float[Tensor, "n_atoms 3"]:
    x = batch.positions
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
