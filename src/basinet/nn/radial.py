"""Radial bases and cutoff functions."""

import math
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn


def cosine_cutoff(distance: Float[Tensor, "*edges"], cutoff: float) -> Float[Tensor, "*edges"]:
    r"""Return :math:`\frac12(\cos(\pi r/r_c) + 1)` inside the cutoff and zero outside (Behler, 2011)."""
    inside = 0.5 * (torch.cos(distance * (math.pi / cutoff)) + 1)
    return torch.where(distance < cutoff, inside, torch.zeros_like(inside))


class ExponentialNormalBasis(nn.Module):
    r"""Gaussians in :math:`e^{-\alpha r}`, times the cosine cutoff (PhysNet; TorchMD-NET's ``expnorm``).

    .. math:: \phi_k(r) = f_c(r)\, \exp\!\big(-\beta (e^{-\alpha r} - \mu_k)^2\big), \qquad \alpha = 5\,Å / r_c

    ================  ==========================================================
    :math:`\mu_k`     ``means``, ``n_basis`` points from :math:`e^{-5}` to 1
    :math:`\beta`     ``beta`` = :math:`(2 (1 - e^{-5}) / K)^{-2}`
    ================  ==========================================================

    The functions are fixed, not trained.
    """

    means: Tensor
    beta: Tensor

    def __init__(self, n_basis: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.alpha = 5.0 / cutoff
        start = math.exp(-5.0)
        self.register_buffer("means", torch.linspace(start, 1, n_basis))
        self.register_buffer("beta", torch.tensor((2 / n_basis * (1 - start)) ** -2))

    def forward(self, distance: Float[Tensor, "*edges"]) -> Float[Tensor, "*edges n_basis"]:
        """Evaluate all functions at distances in Å."""
        decay = torch.exp(-self.alpha * distance)[..., None]
        gaussians = torch.exp(-self.beta * (decay - self.means) ** 2)
        return cosine_cutoff(distance, self.cutoff)[..., None] * gaussians


class RadialFeatures:
    """Basis functions and cutoff of the distances of pairs, each computed once, when first used."""

    def __init__(self, distance: Float[Tensor, "*pairs"], basis: ExponentialNormalBasis) -> None:
        self.distance = distance
        """Å."""
        self._basis = basis

    @cached_property
    def basis(self) -> Float[Tensor, "*pairs n_basis"]:
        """Radial functions."""
        return self._basis(self.distance)

    @cached_property
    def fade(self) -> Float[Tensor, "*pairs"]:
        """Cosine cutoff: 1 at distance zero, 0 from the cutoff on."""
        return cosine_cutoff(self.distance, self._basis.cutoff)
