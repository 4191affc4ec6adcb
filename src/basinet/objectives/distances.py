"""Denoise distances between atoms (SE(3)-DDM)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from basinet.models.model import Model
from basinet.noise.base import Perturbation, perturb
from basinet.noise.ladder import NoiseLadder
from basinet.objectives.base import Term
from basinet.structures.batch import Batch
from basinet.structures.pairs import AtomPairs, all_pairs


class DistanceDenoising(Term):
    r"""The squared error of the score of noised distances, averaged over all pairs of atoms of a molecule.

    A molecule :math:`r` has a second view :math:`r'`, moved a little. The distances of one view are noised, and from
    the node features :math:`h` of the *other* the network predicts where they came from:

    .. math:: \tilde d_{ij} = d_{ij}(r') + \sigma \epsilon_{ij}, \qquad
              L = \frac1{n_\text{pairs}} \sum_{i<j} \big( s(h_i + h_j, \tilde d_{ij}) + \epsilon_{ij} \big)^2

    and the same with the views exchanged. :math:`s / \sigma` is the score :math:`-(\tilde d - d) / \sigma^2` of
    Gaussian noise, and the weight :math:`\sigma^2` of score matching makes every level count the same. Predicting zero
    gives a loss of 1. Liu, Guo, Tang (ICLR 2023).

    Args:
        view: noise that makes the second view.
        ladder: sizes of the noise on distances (Å), one drawn for each molecule and view; not an input of the network.
    """

    name = "distance"
    requires = frozenset({"distance_score"})

    def __init__(self, view: Perturbation, ladder: NoiseLadder) -> None:
        self.view = view
        self.ladder = ladder

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that have a distance."""
        return batch.atoms_per_molecule > 1

    def count(self, batch: Batch) -> float:
        """Return the number of pairs, in both directions of the views."""
        n = batch.atoms_per_molecule
        return float((n * (n - 1)).sum())

    def loss(self, model: Model, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the sum over pairs and both directions."""
        pairs, view = all_pairs(batch), perturb(self.view, batch, generator).batch
        there = self._one_way(model, batch, view, pairs, generator)
        return there + self._one_way(model, view, batch, pairs, generator)

    def _one_way(
        self, model: Model, seen: Batch, other: Batch, pairs: AtomPairs, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        clean = pairs.distances(other.positions)
        sigma = self.ladder.draw(other, generator).sigma[other.molecule[pairs.first]]
        epsilon = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        score = model.distance_score(seen, pairs, clean + sigma * epsilon)
        return (score + epsilon).square().sum()
