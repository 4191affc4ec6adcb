"""Atomic reference energies and the energy scale: what is fitted, not trained."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from basinet.nn.exact import ExactBuffers
from basinet.structures.batch import Batch
from basinet.structures.molecule import N_ELEMENTS
from basinet.structures.segment import sum_per_molecule


class ReferenceFit(NamedTuple):
    """Result of a least-squares fit of one energy per element."""

    energies: Float[Tensor, "100"]
    """eV; zero for elements that do not occur."""
    present: Bool[Tensor, "100"]
    """Elements that occur in the data."""
    rank: int
    """Rank of the composition matrix; below ``n_elements`` single energies mean nothing, only their sums do."""
    n_elements: int
    """Elements that occur."""
    residual: float
    """Root mean square of what the fit leaves, eV per molecule."""


class AtomicReferences(ExactBuffers):
    r"""Turn the raw energy of a molecule, as an energy head gives it, into its total energy.

    .. math:: E = s\,e + \sum_i E_0(Z_i)

    :math:`E_0` are reference energies in eV, fitted by least squares on the training set; :math:`s` is the scale of the
    network's output in eV. Both stay float64: a total energy of some thousand eV does not fit into float32.
    """

    energies: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("energies", torch.zeros(N_ELEMENTS, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, raw: Float[Tensor, " n_molecules"], batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the energy of each molecule, eV, float64."""
        return self.scale * raw.double() + sum_per_molecule(self.energies[batch.atomic_numbers], batch)


def fit_references(
    counts: Float[Tensor, "n_molecules 100"], energies: Float[Tensor, " n_molecules"], ridge: float = 0.0
) -> ReferenceFit:
    """Return the energy per element that explains total energies best.

    Minimises ``|counts @ x - energies|² + ridge |x|²``; with a composition matrix that does not determine all elements
    (one molecule, say) the solution of least norm is taken, which splits the energy over its atoms.

    Args:
        counts: atoms of each element, per molecule.
        energies: eV.
        ridge: pulls energies to zero; use it for corrections of energies that are nearly right.
    """
    present = counts.sum(0) > 0
    matrix = counts[:, present].double()
    target = energies.double()
    n_elements = matrix.shape[1]
    if ridge > 0:
        matrix_used = torch.cat([matrix, ridge**0.5 * torch.eye(n_elements, dtype=torch.float64)])
        target_used = torch.cat([target, target.new_zeros(n_elements)])
    else:
        matrix_used, target_used = matrix, target
    # gelsd: by singular values, the least-norm solution where the composition matrix has not full rank.
    solution = torch.linalg.lstsq(matrix_used, target_used[:, None], driver="gelsd").solution[:, 0]
    residual = (matrix @ solution - target).square().mean().sqrt()
    fitted = torch.zeros(N_ELEMENTS, dtype=torch.float64)
    fitted[present] = solution
    return ReferenceFit(fitted, present, int(torch.linalg.matrix_rank(matrix)), n_elements, float(residual))


def composition(batch: Batch) -> Float[Tensor, "n_molecules 100"]:
    """Count the atoms of each element in each molecule."""
    counts = torch.zeros(batch.n_molecules, N_ELEMENTS, dtype=torch.float64, device=batch.molecule.device)
    ones = counts.new_ones(batch.n_atoms)
    return counts.index_put((batch.molecule, batch.atomic_numbers), ones, accumulate=True)
