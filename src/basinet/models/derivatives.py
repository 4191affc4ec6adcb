"""Compute second derivatives of the energy of one molecule."""

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.backbones.base import Layout
from basinet.models.model import Model
from basinet.structures.batch import Batch
from basinet.structures.layouts import neighbors_of

ROWS_AT_ONCE = 96
"""Rows of the Hessian in one pass: bounds its memory to that many copies of the molecule."""


def hessian(
    model: Model, batch: Batch, *, rows_at_once: int = ROWS_AT_ONCE, layout: Layout = neighbors_of
) -> Float[Tensor, "n_coordinates n_coordinates"]:
    r"""Return :math:`\partial^2 E / \partial r_i \partial r_j` of a batch of one molecule, eV/Å², float64.

    A pass takes as many copies of the molecule as it computes rows: row k is the gradient of force component k of copy
    k, and one backward pass through the forces of all copies gives them together.
    """
    if batch.n_molecules != 1:
        raise ValueError(f"a Hessian is that of one molecule, got {batch.n_molecules}")
    n = 3 * batch.n_atoms
    rows = [_rows(model, batch, first, min(first + rows_at_once, n), layout) for first in range(0, n, rows_at_once)]
    found = torch.cat(rows)
    return (found + found.T) / 2


def _rows(model: Model, batch: Batch, first: int, last: int, layout: Layout) -> Float[Tensor, "n_rows n_coordinates"]:
    n_rows, n_atoms = last - first, batch.n_atoms
    copies = batch.without_labels().select([0] * n_rows)
    with torch.enable_grad():
        positions = copies.positions.detach().requires_grad_()
        energy = model(copies.replace(positions=positions), ["energy"], layout=layout)["energy"]
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True, materialize_grads=True)
        component = torch.arange(first, last, device=positions.device)
        chosen = gradient.reshape(n_rows, 3 * n_atoms)[torch.arange(n_rows, device=positions.device), component]
        if not chosen.requires_grad:
            return positions.new_zeros(n_rows, 3 * n_atoms, dtype=torch.float64)
        (second,) = torch.autograd.grad(chosen.sum(), positions, materialize_grads=True)
    return second.reshape(n_rows, 3 * n_atoms).double()
