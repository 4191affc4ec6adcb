"""What makes the atoms move: a model of ours, or any calculator of ASE."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from torch import Tensor

from basinet.md.integrators import Potential
from basinet.models.committee import Committee
from basinet.models.model import Model
from basinet.structures.batch import Batch


def model_potential(model: Model | Committee) -> Potential:
    """Return the energies and forces of a model, or the mean of several; its parameters are not differentiated.

    The model computes in the dtype of its weights, whatever that of the positions is.
    """
    model.eval()
    dtype = next(model.parameters()).dtype
    options = {} if isinstance(model, Committee) else {"create_graph": False}  # a committee never has one

    def potential(batch: Batch) -> tuple[Tensor, Tensor]:
        found = model(batch.to(dtype=dtype), ["energy", "forces"], **options)
        return found["energy"].detach(), found["forces"].detach().to(batch.positions.dtype)

    return potential


def calculator_potential(make: Callable[[], Any]) -> Potential:
    """Return the energies and forces of a calculator of ASE, asked for one molecule after another.

    Args:
        make: gives a calculator; each molecule of a batch has its own, so that caches of one do not confuse another.
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
    """A potential as a calculator of ASE, for its optimisers."""

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
