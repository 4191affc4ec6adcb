"""Learn energies and forces from labels, and a vanishing force from minima."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from basinet.models.model import Model
from basinet.objectives.base import NOTHING, LabelTerm, Objective, Term
from basinet.structures.batch import Batch

ForceLoss = Literal["norm", "l1", "mse"]
"""``norm``: Euclidean length of the error of each atom, eV/Å, robust and free of a preferred axis; ``l1``: its
components' absolute value; ``mse``: its components' square."""


def force_error(error: Float[Tensor, "n_atoms 3"], kind: ForceLoss) -> Float[Tensor, " n_atoms"]:
    """Return the loss of each atom; component losses are averaged over the three components."""
    match kind:
        case "norm":
            # The gradient of a length is undefined at zero; 1e-12 eV²/Å² is far below any label's precision.
            return torch.sqrt(error.square().sum(-1) + 1e-12)
        case "l1":
            return error.abs().mean(-1)
        case "mse":
            return error.square().mean(-1)


class Forces(LabelTerm):
    """The error of the forces, averaged over the atoms that have a label, eV/Å (or its square)."""

    name = "forces"
    per = "atom"
    requires = frozenset({"forces"})
    labels = frozenset({"forces"})

    def __init__(self, loss: ForceLoss = "norm") -> None:
        self.force_loss: ForceLoss = loss

    def compare(self, model: Model, outputs: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, " n_atoms"]:
        """Return the error of each atom."""
        return force_error(outputs["forces"] - batch.labels["forces"], self.force_loss)


class ZeroForce(Term):
    """The size of the predicted force on molecules at equilibrium, where it must vanish, averaged over atoms.

    Part of ET-OREO (Feng et al., NeurIPS 2023); the norm is our choice, the same as that of :class:`Forces`.
    """

    name = "zero_force"
    per = "atom"
    requires = frozenset({"forces"})
    flags = frozenset({"is_equilibrium"})

    def __init__(self, loss: ForceLoss = "norm") -> None:
        self.force_loss: ForceLoss = loss

    def loss(self, model: Model, batch: Batch, generator: torch.Generator) -> Float[Tensor, " n_atoms"]:
        """Return the size of the force on each atom."""
        return force_error(model(batch, ["forces"])["forces"], self.force_loss)


class Energy(LabelTerm):
    """The absolute error of the energy per atom (eV), averaged over the molecules that have a label."""

    name = "energy"
    requires = frozenset({"energy"})
    labels = frozenset({"energy"})

    def compare(self, model: Model, outputs: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the error of each energy divided by the number of atoms."""
        error = F.l1_loss(outputs["energy"], batch.labels["energy"], reduction="none")
        return error / batch.atoms_per_molecule


class EnergyForces(Objective):
    """Energies and forces together, from one forward pass.

    The energy term is that of :class:`Energy`, per atom so that large molecules do not dominate; the force term is that
    of :class:`Forces`. A molecule may lack either label.

    Args:
        energy_weight: of the energy term.
        forces_weight: of the force term.
        loss: of the forces.
    """

    requires = frozenset({"energy", "forces"})
    labels = frozenset({"energy", "forces"})
    flags = NOTHING

    def __init__(self, energy_weight: float, forces_weight: float, loss: ForceLoss = "norm") -> None:
        if not (0 < energy_weight < math.inf and 0 < forces_weight < math.inf):
            raise ValueError(
                f"weights must be positive and finite, got energy {energy_weight} and forces {forces_weight}; "
                "for forces alone use Forces"
            )
        self.weights = {"energy": energy_weight, "forces": forces_weight}
        self._terms: tuple[LabelTerm, LabelTerm] = (Energy(), Forces(loss))

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules with an energy or forces."""
        return batch.all_set(["has_energy"]) | batch.all_set(["has_forces"])

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of molecules with an energy and of atoms with a force."""
        return {name: count for term in self._terms for name, count in term.counts(batch).items()}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over molecules and the sum over atoms."""
        if batch.n_molecules == 0:
            return dict.fromkeys(self.weights, batch.positions.new_zeros(()))
        outputs = model(batch, self.requires)
        return {term.name: term.labelled_sum(model, outputs, batch) for term in self._terms}
