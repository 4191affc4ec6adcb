"""Objectives with labels: forces, energies, and the force that must vanish at a minimum."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from basinet.models.model import Model
from basinet.objectives.base import LabelObjective, Objective
from basinet.objectives.combine import is_set, select_where
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


def energy_error(
    predicted: Float[Tensor, " n"], labels: Float[Tensor, " n"], n_atoms: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the absolute error of each energy divided by the number of atoms, eV."""
    return F.l1_loss(predicted, labels, reduction="none") / n_atoms


class Forces(Objective):
    """The error of the forces, averaged over the atoms that have a label, eV/Å (or its square)."""

    requires = frozenset({"forces"})
    labels = frozenset({"forces"})
    flags: frozenset[str] = frozenset()
    weights = {"forces": 1.0}

    def __init__(self, loss: ForceLoss = "norm") -> None:
        self.loss: ForceLoss = loss

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules with a force label."""
        return is_set(batch, "has_forces")

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of atoms with a force label."""
        return {"forces": float(select_where(batch, "has_forces").n_atoms)}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over atoms."""
        labelled = select_where(batch, "has_forces")
        if labelled.n_atoms == 0:
            return {"forces": batch.positions.new_zeros(())}
        predicted = model(labelled, ["forces"])["forces"]
        return {"forces": force_error(predicted - labelled.labels["forces"], self.loss).sum()}


class ZeroForce(Objective):
    """The size of the predicted force on molecules at equilibrium, where it must vanish, averaged over atoms.

    Part of ET-OREO (Feng et al., NeurIPS 2023); the norm is our choice, the same as that of :class:`Forces`.
    """

    requires = frozenset({"forces"})
    labels: frozenset[str] = frozenset()
    flags = frozenset({"is_equilibrium"})
    weights = {"zero_force": 1.0}

    def __init__(self, loss: ForceLoss = "norm") -> None:
        self.loss: ForceLoss = loss

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules at equilibrium."""
        return is_set(batch, "is_equilibrium")

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of atoms in molecules at equilibrium."""
        return {"zero_force": float(select_where(batch, "is_equilibrium").n_atoms)}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over atoms."""
        at_minimum = select_where(batch, "is_equilibrium")
        if at_minimum.n_atoms == 0:
            return {"zero_force": batch.positions.new_zeros(())}
        predicted = model(at_minimum, ["forces"])["forces"]
        return {"zero_force": force_error(predicted, self.loss).sum()}


class Energy(LabelObjective):
    """The absolute error of the energy per atom (eV), averaged over the molecules that have a label."""

    requires = frozenset({"energy"})
    labels = frozenset({"energy"})
    flags: frozenset[str] = frozenset()
    weights = {"energy": 1.0}

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules with an energy."""
        return is_set(batch, "has_energy")

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of molecules with an energy."""
        return {"energy": float(select_where(batch, "has_energy").n_molecules)}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over molecules."""
        labelled = select_where(batch, "has_energy")
        if labelled.n_molecules == 0:
            return {"energy": batch.positions.new_zeros(())}
        return self.compare(model, model(labelled, ["energy"]), labelled)

    def compare(self, model: Model, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the sum over molecules, all of which have an energy."""
        error = energy_error(outputs["energy"], batch.labels["energy"], batch.atoms_per_molecule)
        return {"energy": error.sum().to(batch.positions.dtype)}


class EnergyForces(Objective):
    """Energies and forces together, from one forward pass.

    The energy term is the absolute error per atom (eV) averaged over molecules, so that large molecules do not drown
    small ones; the force term is that of :class:`Forces`. A molecule may lack either label.

    Args:
        energy_weight: of the energy term.
        forces_weight: of the force term.
        loss: of the forces.
    """

    requires = frozenset({"energy", "forces"})
    labels = frozenset({"energy", "forces"})
    flags: frozenset[str] = frozenset()

    def __init__(self, energy_weight: float, forces_weight: float, loss: ForceLoss = "norm") -> None:
        if not (0 < energy_weight < math.inf and 0 < forces_weight < math.inf):
            raise ValueError(
                f"weights must be positive and finite, got energy {energy_weight} and forces {forces_weight}; "
                "for forces alone use Forces"
            )
        self.loss: ForceLoss = loss
        self.weights = {"energy": energy_weight, "forces": forces_weight}

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules with an energy or forces."""
        return is_set(batch, "has_energy") | is_set(batch, "has_forces")

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of molecules with an energy and of atoms with a force."""
        return {
            "energy": float(batch.flags["has_energy"].sum()) if "has_energy" in batch.flags else 0.0,
            "forces": float(select_where(batch, "has_forces").n_atoms),
        }

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over molecules and the sum over atoms."""
        zero = batch.positions.new_zeros(())
        if batch.n_molecules == 0:
            return {"energy": zero, "forces": zero}
        predicted = model(batch, ["energy", "forces"])
        return {"energy": self._energy(predicted["energy"], batch), "forces": self._forces(predicted["forces"], batch)}

    def _energy(self, predicted: Float[Tensor, " n_molecules"], batch: Batch) -> Float[Tensor, ""]:
        has = batch.flags.get("has_energy")
        if has is None:
            return predicted.new_zeros(())
        error = energy_error(predicted[has], batch.labels["energy"][has], batch.atoms_per_molecule[has])
        return error.sum().to(batch.positions.dtype)

    def _forces(self, predicted: Float[Tensor, "n_atoms 3"], batch: Batch) -> Float[Tensor, ""]:
        has = batch.flags.get("has_forces")
        if has is None:
            return predicted.new_zeros(())
        atoms = has[batch.molecule]
        return force_error(predicted[atoms] - batch.labels["forces"][atoms], self.loss).sum()
