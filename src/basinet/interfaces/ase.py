"""Use a model as a calculator of ASE: optimisers, dynamics, vibrations, reaction paths.

::

    atoms.calc = basinet.Calculator("model.safetensors", precision="float64")
    LBFGS(atoms).run(fmax=0.01)
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators import calculator as ase_calculator
from jaxtyping import Float64

from basinet.data.chemistry.perception import Perceiver
from basinet.devices import resolve_device
from basinet.interfaces.models import Precision, Sources, load_potential, members_of
from basinet.models.committee import Committee
from basinet.models.derivatives import hessian
from basinet.models.model import Model
from basinet.models.scope import OutsideScopeError
from basinet.structures.ase_labels import charge_of
from basinet.structures.batch import Batch, collate
from basinet.structures.molecule import Molecule

CHARGE = "charge"
"""Name of the charge among the changes of a system."""


class OutsideScopeWarning(UserWarning):
    """A molecule is unlike those in training, so its energy is a guess."""


class Calculator(ase_calculator.Calculator):
    """ASE calculator: energy (eV) and forces (eV/Å) of a model, or its properties by name.

    An ensemble returns the mean, with ``energy_std`` and ``forces_std`` (one number for each atom, eV/Å) among the
    results. The charge is ``atoms.info["charge"]``, or the sum of the initial charges: the network does not use it,
    but charges that were not in training are outside of the scope. Bonds, for networks that read them, are perceived
    from the first geometry and kept as long as they fit.

    Args:
        model: a model file, a model, or several of them, which are an ensemble. A model is copied.
        device: ``"cpu"`` or ``"cuda"``.
        precision: ``"float64"`` for vibrations and tight optimisations.
        outside_scope: ``"error"`` refuses molecules unlike those in training; ``"warn"`` computes, warns, and keeps
            the reasons in ``results["outside_scope"]``.

    Raises:
        ValueError: the model has neither an energy in eV nor a property, or there is no such device; in a calculation,
            the atoms are periodic or outside of the scope.

    Example:
        >>> atoms.calc = Calculator("model.safetensors")  # doctest: +SKIP
        >>> atoms.get_potential_energy()  # doctest: +SKIP
        -2080.1
    """

    def __init__(
        self,
        model: Sources,
        *,
        device: str = "cpu",
        precision: Precision = "float32",
        outside_scope: Literal["error", "warn"] = "error",
    ) -> None:
        super().__init__()
        self.device = resolve_device(device)
        self.model = load_potential(model, self.device, precision)
        self.precision: Precision = precision
        self.outside_scope: Literal["error", "warn"] = outside_scope
        self.implemented_properties = _names_of(self.model)
        self._bonds = Perceiver() if any(m.backbone.needs_bonds for m in members_of(self.model)) else None
        self._charge: int | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation; the charge in ``atoms.info`` is part of the system."""
        changes = super().check_state(atoms, tol=tol)
        return [*changes, CHARGE] if self.atoms is not None and charge_of(atoms, "atoms") != self._charge else changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = ase_calculator.all_changes,
    ) -> None:
        """Compute energy and forces together, or all properties."""
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        molecule = Molecule.from_ase(self.atoms, labels={}, name="atoms")
        self._charge = molecule.charge
        outside = self._outside(molecule)
        batch = self._batch(molecule)
        found = self.model(batch, self.model.offers & {"energy", "forces", *self.model.properties})
        self.results: dict[str, Any] = {name: _plain(name, value) for name, value in found.items()}
        if "energy" in self.results:
            self.results["free_energy"] = self.results["energy"]
        if outside:
            self.results["outside_scope"] = outside

    def get_hessian(self, atoms: Atoms | None = None) -> Float64[np.ndarray, "n_coordinates n_coordinates"]:
        """Return the second derivatives of the energy, eV/Å², as ``VibrationsData.from_2d`` takes them.

        Raises:
            ValueError: there are no atoms, or the model has no energy.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ValueError("there are no atoms to differentiate the energy of; call get_hessian(atoms)")
        members = members_of(self.model)
        if "energy" not in self.model.offers:
            raise ValueError(f"a Hessian needs an energy, and the model offers {sorted(self.model.offers)}")
        molecule = Molecule.from_ase(atoms, labels={}, name="atoms")
        self._outside(molecule)
        batch = self._batch(molecule)
        return torch.stack([hessian(member, batch) for member in members]).mean(0).cpu().numpy()

    def _outside(self, molecule: Molecule) -> str:
        """Return how a molecule differs from those in training, with a warning or an error."""
        reasons = self.model.scope.outside(molecule.atomic_numbers, molecule.charge)
        if reasons and self.outside_scope == "error":
            raise OutsideScopeError(molecule.formula, reasons)
        if reasons:
            warnings.warn(f"{molecule.formula} is outside of the scope: {'; '.join(reasons)}", OutsideScopeWarning, 2)
        return "; ".join(reasons)

    def _batch(self, molecule: Molecule) -> Batch:
        if self._bonds is not None:
            molecule = self._bonds.bonded(molecule)
        return collate([molecule], dtype=getattr(torch, self.precision)).to(self.device)


BasinetCalculator = Calculator
"""Name of :class:`Calculator` in version 0.1, for scripts."""


def _names_of(model: Model | Committee) -> list[str]:
    names = sorted(model.offers & {"energy", "forces", *model.properties})
    spread = [f"{name}_std" for name in names] if isinstance(model, Committee) else []
    return names + spread + (["free_energy"] if "energy" in names else [])


def _plain(name: str, value: torch.Tensor) -> float | np.ndarray:
    """Return a number of a molecule as a float, rows of its atoms as an array."""
    array = value.detach().double().cpu().numpy()
    return array if name.startswith("forces") else float(array[0])
