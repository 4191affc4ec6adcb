"""Objectives as settings of a recipe."""

import math
from typing import Annotated, Literal

from pydantic import Field

from basinet.config import settings
from basinet.objectives.base import Objective
from basinet.objectives.methods import coordinate_denoising, force_and_denoise
from basinet.objectives.supervised import EnergyForces, ForceLoss, Forces


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


@settings
class ForceAndDenoiseConfig:
    """Forces where there are labels; at equilibrium a vanishing force, and denoising."""

    kind: Literal["force_and_denoise"] = "force_and_denoise"
    """Which objective."""
    forces: float = 1.0
    """Weight of the error of labelled forces (per-atom norm, eV/Å)."""
    zero_force: float = 0.1
    """Weight of the force predicted at equilibrium, where it must vanish."""
    denoising: float = 0.1
    """Weight of denoising at equilibrium."""
    sigma: float = 0.04
    """Standard deviation of the noise, Å."""

    def __post_init__(self) -> None:
        """Refuse weights and noise that are not positive."""
        for name in ("forces", "zero_force", "denoising", "sigma"):
            _require_positive(name, getattr(self, name))


@settings
class CoordinateDenoisingConfig:
    """Coordinate denoising of equilibrium structures (Zaidi et al., ICLR 2023)."""

    kind: Literal["coordinate_denoising"] = "coordinate_denoising"
    """Which objective."""
    sigma: float = 0.04
    """Standard deviation of the noise, Å."""

    def __post_init__(self) -> None:
        """Refuse noise that is not positive."""
        _require_positive("sigma", self.sigma)


@settings
class EnergyForcesConfig:
    """Energies and forces together."""

    kind: Literal["energy_forces"] = "energy_forces"
    """Which objective."""
    energy: float = 1.0
    """Weight of the absolute error of the energy per atom, eV."""
    forces: float = 1.0
    """Weight of the error of the forces, eV/Å."""
    loss: ForceLoss = "norm"
    """Of the forces; norm: length of the error of an atom; l1, mse: of its components."""

    def __post_init__(self) -> None:
        """Refuse weights that are not positive."""
        for name in ("energy", "forces"):
            _require_positive(name, getattr(self, name))


@settings
class ForcesConfig:
    """Forces alone; energies are right up to the reference energies, which are fitted."""

    kind: Literal["forces"] = "forces"
    """Which objective."""
    loss: ForceLoss = "norm"
    """norm: length of the error of an atom; l1, mse: of its components."""


ObjectiveConfig = Annotated[
    ForceAndDenoiseConfig | CoordinateDenoisingConfig | EnergyForcesConfig | ForcesConfig, Field(discriminator="kind")
]
"""Settings of any objective, told apart by ``kind``."""


def build_objective(
    config: ForceAndDenoiseConfig | CoordinateDenoisingConfig | EnergyForcesConfig | ForcesConfig,
) -> Objective:
    """Return the objective that the settings describe."""
    match config:
        case ForceAndDenoiseConfig():
            return force_and_denoise(config.forces, config.zero_force, config.denoising, config.sigma)
        case CoordinateDenoisingConfig():
            return coordinate_denoising(config.sigma)
        case EnergyForcesConfig():
            return EnergyForces(config.energy, config.forces, config.loss)
        case ForcesConfig():
            return Forces(config.loss)
