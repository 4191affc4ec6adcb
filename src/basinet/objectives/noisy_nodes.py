"""Noisy Nodes: a label of the molecule and the noise, from one pass over a noisy molecule."""

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from basinet.models.model import Model
from basinet.noise.base import Perturbation
from basinet.objectives.base import LabelObjective, Objective
from basinet.objectives.combine import all_set
from basinet.objectives.denoising import Denoising, normalized_target
from basinet.structures.batch import Batch


class NoisyNodes(Objective):
    r"""A label is predicted from a noisy molecule, and beside it the noise (Godwin et al., ICLR 2022).

    .. math:: L = L_\text{label}(\hat y(\tilde r), y) + w\,L_\text{denoising}(\hat t(\tilde r), t)

    As in the released code of Zaidi et al. (ICLR 2023): both terms see the same noisy molecule in one pass, and in
    evaluation the label is predicted from the clean one. The noise term is for the molecules that have the label.

    Args:
        labels: the term of the label; of the molecule, for forces change with the positions.
        perturbation: how molecules are noised.
        weight: of the noise term.
    """

    def __init__(self, labels: LabelObjective, perturbation: Perturbation, weight: float) -> None:
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of the noise must be positive and finite, got {weight}; leave it out instead")
        self._labels = labels
        self._denoising = Denoising(perturbation)
        (term,) = labels.weights
        self._term = term
        self.requires = labels.requires | {"noise"}
        self.labels = labels.labels
        self.flags = labels.flags | perturbation.flags
        self.weights = {"labels": labels.weights[term], "noise": weight}

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that have the label and can be noised."""
        return self._labels.uses(batch) & all_set(batch, self._denoising.flags)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the count of the label term, and the number of components of the noise."""
        labelled = self._select(batch)
        return {"labels": self._labels.counts(labelled)[self._term], "noise": 3.0 * labelled.n_atoms}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sums of both terms."""
        labelled = self._select(batch)
        if not model.training:
            of_labels = self._labels.sums(model, labelled, generator)
            of_noise = self._denoising.sums(model, labelled, generator)
            return {"labels": of_labels[self._term], "noise": of_noise["denoising"]}
        perturbed = self._denoising.perturbation(labelled, generator)
        target = normalized_target(model, perturbed)
        if labelled.n_molecules == 0:
            zero = batch.positions.new_zeros(())
            return {"labels": zero, "noise": zero}
        outputs = model(perturbed.batch, self.requires)
        of_labels = self._labels.compare(model, outputs, labelled)
        return {"labels": of_labels[self._term], "noise": (outputs["noise"] - target).square().sum()}

    def _select(self, batch: Batch) -> Batch:
        chosen = self.uses(batch)
        return batch if bool(chosen.all()) else batch.select(chosen.nonzero()[:, 0])
