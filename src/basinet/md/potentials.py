"""Make potentials from models and ASE calculators; relax molecules; watch the spread of a committee."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import FIRE
from jaxtyping import Bool, Float
from torch import Tensor

from basinet.md.dynamics import MDState
from basinet.md.integrators import Potential
from basinet.models.committee import Committee
from basinet.models.model import Model
from basinet.structures.batch import Batch
from basinet.structures.segment import max_norm


def model_potential(model: Model | Committee) -> Potential:
    """Return the potential of a model, or the mean of a committee, without gradients of the parameters.

    The model computes in the dtype of its weights, whatever the dtype of the positions.
    """
    model.eval()
    dtype = next(model.parameters()).dtype
    options = {} if isinstance(model, Committee) else {"create_graph": False}  # a committee never has one

    def potential(batch: Batch) -> tuple[Tensor, Tensor]:
        found = model(batch.to(dtype=dtype), ["energy", "forces"], **options)
        return found["energy"].detach(), found["forces"].detach().to(batch.positions.dtype)

    return potential


def calculator_potential(make: Callable[[], Any]) -> Potential:
    """Return the potential of an ASE calculator, called for one molecule after another.

    Args:
        make: returns a new calculator. Each molecule of a batch has its own, because calculators cache results.
    """
    calculators: list[Any] = []

    def potential(batch: Batch) -> tuple[Tensor, Tensor]:
        sizes = batch.atoms_per_molecule.tolist()
        while len(calculators) < len(sizes):
            calculators.append(make())
        energies: list[float] = []
        forces: list[np.ndarray] = []
        pieces = zip(batch.atomic_numbers.split(sizes), batch.positions.split(sizes), strict=True)
        for calculator, (numbers, positions) in zip(calculators, pieces, strict=False):
            atoms = Atoms(numbers=numbers.cpu().numpy(), positions=positions.detach().cpu().double().numpy())
            atoms.calc = calculator
            forces.append(np.asarray(atoms.get_forces(), dtype=np.float64))
            energies.append(float(atoms.get_potential_energy()))
        like = batch.positions
        energy = torch.tensor(energies, dtype=torch.float64, device=like.device)
        return energy, torch.from_numpy(np.concatenate(forces)).to(like)

    return potential


class PotentialCalculator(Calculator):
    """A potential as an ASE calculator, for ASE's optimisers."""

    implemented_properties = ("energy", "forces")  # pyright: ignore[reportAssignmentType]

    def __init__(self, potential: Potential, like: Batch) -> None:
        super().__init__()
        self.potential, self.like = potential, like

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = tuple(all_changes),
    ) -> None:
        """Evaluate the potential at the positions of ``atoms``."""
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        like = self.like
        batch = like.replace(positions=torch.from_numpy(atoms.positions).to(like.positions))
        energy, forces = self.potential(batch)
        self.results = {"energy": float(energy), "forces": forces.detach().cpu().double().numpy()}


def relax(potential: Potential, batch: Batch, *, largest_force: float, n_steps: int) -> tuple[Batch, list[float]]:
    """Relax molecules one after another with ASE's FIRE; return them and the largest force left on each, eV/Å.

    Args:
        potential: energies and forces of a batch.
        batch: the molecules.
        largest_force: force at which a molecule is relaxed, eV/Å.
        n_steps: largest number of steps.
    """
    positions, left = batch.positions.clone(), list[float]()
    for molecule in range(batch.n_molecules):
        one = batch.select([molecule])
        atoms = Atoms(numbers=one.atomic_numbers.cpu().numpy(), positions=one.positions.cpu().double().numpy())
        atoms.calc = PotentialCalculator(potential, one)
        with FIRE(atoms, logfile=os.devnull) as optimiser:
            optimiser.run(fmax=largest_force, steps=n_steps)
        positions[batch.molecule == molecule] = torch.from_numpy(atoms.positions).to(positions)
        left.append(max_norm(torch.from_numpy(atoms.get_forces())))
    return batch.replace(positions=positions), left


FORCES_APART = "members disagree"


class ForceSpread:
    """Largest standard deviation, among the models of a committee, of the force on an atom of each molecule, eV/Å."""

    def __init__(self, committee: Committee) -> None:
        self.committee = committee
        self.dtype = next(committee.parameters()).dtype
        self._last: tuple[Batch, Tensor] | None = None

    def __call__(self, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the spread; it is cached for the last batch, as tables and limits ask in turn."""
        if self._last is None or self._last[0] is not batch:
            each = self.committee(batch.to(dtype=self.dtype), ["forces"])["forces_std"].to(batch.positions.dtype)
            largest = each.new_zeros(batch.n_molecules).scatter_reduce(0, batch.molecule, each, "amax")
            self._last = batch, largest
        return self._last[1]


class SpreadLimit:
    """Stops a molecule when the spread of a force exceeds ``limit``, eV/Å (a :data:`~basinet.md.dynamics.StopWhen`)."""

    def __init__(self, spread: ForceSpread, limit: float) -> None:
        if not limit > 0:
            raise ValueError(f"limit must be positive (eV/Å), got {limit}")
        self.spread, self.limit = spread, limit

    def __call__(self, state: MDState) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules whose spread exceeds the limit or is not a number."""
        return ~(self.spread(state.batch) <= self.limit)
