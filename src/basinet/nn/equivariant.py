"""Equivariant building blocks: the gated block of the output heads, and norms of vector features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from basinet.nn.modules import xavier
from basinet.nn.silu import silu


class GatedEquivariantBlock(nn.Module):
    r"""Mix scalars and vectors without leaving equivariance (Schütt et al., PaiNN, ICML 2021, figure 3).

    .. math:: (s', g) = \mathrm{MLP}([s; \|W_1 v\|]), \qquad v' = g \odot W_2 v

    Args:
        n_in: scalar features in.
        n_out: scalar and vector features out.
        n_vector: vector features in; ``None``: as many as scalar ones.
        activate: whether SiLU is applied to the scalars that leave.
    """

    def __init__(self, n_in: int, n_out: int, *, n_vector: int | None = None, activate: bool) -> None:
        super().__init__()
        self.n_in, self.n_out, self.activate = n_in, n_out, activate
        self.vector_projection = xavier(n_in if n_vector is None else n_vector, n_in, n_out, bias=False)
        self.hidden = xavier(2 * n_in, n_in)
        self.gates = xavier(n_in, 2 * n_out)

    def forward(
        self, scalar: Float[Tensor, "n_atoms n_in"], vector: Float[Tensor, "n_atoms 3 n_vector"]
    ) -> tuple[Float[Tensor, "n_atoms n_out"], Float[Tensor, "n_atoms 3 n_out"]]:
        """Return the new scalars and vectors."""
        for_norm, for_output = self.vector_projection(vector).split([self.n_in, self.n_out], dim=-1)
        features = torch.cat([scalar, safe_norm(for_norm)], dim=-1)
        out, gate = self.gates(silu(self.hidden(features))).split(self.n_out, dim=-1)
        return (silu(out) if self.activate else out), gate[:, None] * for_output


SMALL_NORM = 1e-3
"""Vectors shorter than this get a smoothed norm."""


def safe_norm(vector: Float[Tensor, "n_atoms 3 n"]) -> Float[Tensor, "n_atoms n"]:
    r"""Return the length of each vector, rounded off at the tip of the cone so that it has a gradient there.

    .. math:: n(v) = \|v\| \text{ for } \|v\| \ge \delta, \qquad
              n(v) = \tfrac{\delta}{8} (15 x - 10 x^2 + 3 x^3) \text{ with } x = \|v\|^2 / \delta^2 \text{ otherwise}

    Value, slope and curvature meet at :math:`\delta` (:data:`SMALL_NORM`). A vector vanishes by symmetry, up to
    rounding, on the carbon of methane; the gradient of the bare length is then the direction of the rounding error,
    and so would be the forces. It also vanishes on an isolated atom.
    """
    squared = vector.square().sum(1)
    is_small = squared < SMALL_NORM**2
    x = (squared / SMALL_NORM**2).clamp(max=1)
    rounded = SMALL_NORM / 8 * x * (15 - 10 * x + 3 * x.square())
    return torch.where(is_small, rounded, torch.sqrt(torch.where(is_small, torch.ones_like(squared), squared)))


class WhitenedNorm(nn.Module):
    r"""Whiten vector features over their channels, the same way in every frame of reference.

    .. math:: v \leftarrow w \odot (\Sigma + \epsilon I)^{-1/2} (v - \bar v), \qquad
              \Sigma = \frac1F (v - \bar v)(v - \bar v)^\top + 2 \epsilon I \in \mathbb R^{3 \times 3}

    Zaidi et al. (ICLR 2023) add :math:`\epsilon\,\mathrm{diag}(1, 2, 3)` where we add :math:`2\epsilon I`: theirs keeps
    an SVD differentiable but singles out the axes of the laboratory, so the network is not equivariant (see
    :class:`CompatibleWhitenedNorm`). The inverse root is a coupled Newton-Schulz iteration in float64: matrix products
    only, differentiable at degenerate eigenvalues.
    """

    EPSILON = 1e-5
    ITERATIONS = 30

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_features))

    def forward(self, vector: Float[Tensor, "n_atoms 3 n_features"]) -> Float[Tensor, "n_atoms 3 n_features"]:
        """Return whitened vectors."""
        centred, covariance = _covariance(vector)
        identity = torch.eye(3, dtype=torch.float64, device=vector.device)
        root = _inverse_square_root(covariance + 3 * self.EPSILON * identity, self.ITERATIONS)
        return (root @ centred).to(vector.dtype) * self.weight


class CompatibleWhitenedNorm(nn.Module):
    """The whitened norm exactly as released by Zaidi et al., for their weights: equivariant only to a few percent.

    A class of its own, so that the defect has to be chosen.
    """

    EPSILON = 1e-5

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_features))

    def forward(self, vector: Float[Tensor, "n_atoms 3 n_features"]) -> Float[Tensor, "n_atoms 3 n_features"]:
        """Return whitened vectors."""
        centred, covariance = _covariance(vector)
        axes = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, device=vector.device)
        shifted = covariance + self.EPSILON * torch.diag(axes + 1)
        eigenvalues, eigenvectors = torch.linalg.eigh(shifted)
        root = eigenvectors @ torch.diag_embed(eigenvalues.rsqrt()) @ eigenvectors.mT
        return (root @ centred).to(vector.dtype) * self.weight


def _covariance(vector: Float[Tensor, "n_atoms 3 n_features"]) -> tuple[Tensor, Tensor]:
    """Return the vectors minus their mean over channels, and their 3 x 3 covariance, both in float64."""
    double = vector.double()
    centred = double - double.mean(-1, keepdim=True)
    return centred, centred @ centred.mT / vector.shape[-1]


def _inverse_square_root(matrix: Float[Tensor, "n 3 3"], iterations: int) -> Float[Tensor, "n 3 3"]:
    """Return the inverse square root of symmetric positive matrices (coupled Newton-Schulz; Higham, 2008, eq. 6.35)."""
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    size = torch.linalg.matrix_norm(matrix)[:, None, None]
    y, z = matrix / size, identity.expand_as(matrix)
    for _ in range(iterations):
        step = 0.5 * (3 * identity - z @ y)
        y, z = y @ step, step @ z
    return z / size.sqrt()
