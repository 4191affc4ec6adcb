"""Objectives as settings of a recipe."""

import math
from typing import Annotated, Literal

from pydantic import Field

from basinet.config import settings
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise, RotorNoise
from basinet.noise.ladder import geometric_ladder
from basinet.noise.riemannian import LadderNoise, RiemannianNoise, SuperposedNoise
from basinet.noise.vibration import AS_RELEASED, IN_RADIANS
from basinet.objectives.base import Objective
from basinet.objectives.methods import (
    coordinate_denoising,
    decoupled_noisy_nodes,
    distance_denoising,
    emgp,
    et_oreo,
    force_and_denoise,
    frad,
    frad_vrn,
    unified,
)
from basinet.objectives.properties import NoisyNodesConfig, PropertyConfig, build_noisy_nodes, build_property
from basinet.objectives.supervised import EnergyForces, ForceLoss, Forces
from basinet.structures.topology import WhichRotors


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


@settings
class FradConfig:
    """Fractional denoising of equilibrium structures with bonds (Frad, Feng et al., ICML 2023)."""

    kind: Literal["frad"] = "frad"
    """Which objective."""
    rotor_sigma: float = math.radians(2)
    """Standard deviation of the angle of each rotor, rad (published: 2 degrees)."""
    rotors: WhichRotors = "all"
    """all: methyl, hydroxyl and amino groups turn too; heavy: rotors of the molecule without its hydrogens."""
    sigma: float = 0.04
    """Standard deviation of the Gaussian noise that is recovered, Å."""

    def __post_init__(self) -> None:
        """Refuse noise that is not positive or cannot be meant."""
        _require_positive("sigma", self.sigma)
        RotorNoise(self.rotor_sigma)


@settings
class FradVRNConfig:
    """Frad with noise on bonds, angles and torsions (Ni et al., Nature Machine Intelligence 2024)."""

    kind: Literal["frad_vrn"] = "frad_vrn"
    """Which objective."""
    scales: Literal["released", "radians"] = "released"
    """released: angles of the noise in degrees, as the released code has them; radians: the same numbers as radians."""
    sigma: float = 0.04
    """Standard deviation of the Gaussian noise that is recovered, Å."""

    def __post_init__(self) -> None:
        """Refuse noise that is not positive."""
        _require_positive("sigma", self.sigma)


@settings
class FradNoisyNodesConfig:
    """Energies and forces on clean positions; beside them Frad's noise recovered from noisy ones. Needs bonds."""

    kind: Literal["frad_noisy_nodes"] = "frad_noisy_nodes"
    """Which objective."""
    energy: float = 0.2
    """Weight of the absolute error of the energy per atom, eV."""
    forces: float = 0.8
    """Weight of the error of the forces, eV/Å."""
    loss: ForceLoss = "norm"
    """Of the forces; norm: length of the error of an atom; l1, mse: of its components."""
    denoising: float = 0.1
    """Weight of the noise term; 0 leaves it out."""
    rotor_sigma: float = math.radians(20)
    """Standard deviation of the angle of each rotor, rad (published for MD17: 20 degrees)."""
    rotors: WhichRotors = "all"
    """all: methyl, hydroxyl and amino groups turn too; heavy: rotors of the molecule without its hydrogens (MD17 as
    published)."""
    sigma: float = 0.005
    """Standard deviation of the Gaussian noise that is recovered, Å."""

    def __post_init__(self) -> None:
        """Refuse weights and noise that are not positive or cannot be meant."""
        for name in ("energy", "forces", "sigma"):
            _require_positive(name, getattr(self, name))
        if self.denoising != 0:
            _require_positive("denoising", self.denoising)
        RotorNoise(self.rotor_sigma)


@settings
class EtOreoConfig:
    """Forces where there are labels; at equilibrium a vanishing force, and denoising as a force (ET-OREO, 2023)."""

    kind: Literal["et_oreo"] = "et_oreo"
    """Which objective."""
    forces: float = 1.0
    """Weight of the error of labelled forces (per-atom norm, eV/Å)."""
    zero_force: float = 1.0
    """Weight of the force predicted at equilibrium, where it must vanish."""
    denoising: float = 0.1
    """Weight of the error of the force that pulls a noisy molecule back."""
    sigma: float = 0.04
    """Standard deviation of the noise, Å."""
    temperature: float = 298.15
    """K; the pull is kT/sigma² times the displacement."""

    def __post_init__(self) -> None:
        """Refuse weights, noise and temperatures that are not positive."""
        for name in ("forces", "zero_force", "denoising", "sigma", "temperature"):
            _require_positive(name, getattr(self, name))


@settings
class UnifiedConfig:
    """Forces where there are labels; at equilibrium a vanishing force, Frad and the level of noise. Minima need bonds.

    The weights: docs/methods/unified.md.
    """

    kind: Literal["unified"] = "unified"
    """Which objective."""
    forces: float = 1.0
    """Weight of the error of labelled forces (per-atom norm, eV/Å)."""
    zero_force: float = 0.1
    """Weight of the force predicted at equilibrium, where it must vanish."""
    denoising: float = 0.1
    """Weight of denoising at equilibrium."""
    noise_level: float = 0.2
    """Weight of telling at which of 50 levels a minimum was noised (cross entropy)."""
    rotor_sigma: float = math.radians(2)
    """Standard deviation of the angle of each rotor, rad."""
    sigma: float = 0.04
    """Standard deviation of the Gaussian noise that is recovered, Å."""
    largest_sigma: float = 0.3
    """Standard deviation of the noise at the first level, Å."""
    smallest_sigma: float = 0.01
    """The same at the last level, Å."""

    def __post_init__(self) -> None:
        """Refuse weights and noise that are not positive or cannot be meant."""
        for name in ("forces", "zero_force", "denoising", "noise_level", "sigma"):
            _require_positive(name, getattr(self, name))
        RotorNoise(self.rotor_sigma)
        geometric_ladder(self.largest_sigma, self.smallest_sigma)


@settings
class EMGPConfig:
    """The way back from noise of many sizes as a force, and how far it is (3D-EMGP, Jiao et al., AAAI 2023)."""

    kind: Literal["emgp"] = "emgp"
    """Which objective."""
    largest_sigma: float = 10.0
    """Standard deviation of the noise at the first of 50 levels, Å."""
    smallest_sigma: float = 0.01
    """The same at the last level, Å."""
    target: Literal["riemannian", "gaussian", "superposed"] = "riemannian"
    """riemannian: back to the nearest copy of the molecule, however it is turned; gaussian: straight back; superposed:
    straight back from the noisy molecule superposed on the clean one."""
    gradient: float = 1.0
    """Weight of the error of minus the gradient of the energy (sum over atoms, in units of the noise)."""
    level: float = 0.2
    """Weight of the cross entropy of the level."""

    def __post_init__(self) -> None:
        """Refuse weights that are not positive and levels that do not fall."""
        for name in ("gradient", "level"):
            _require_positive(name, getattr(self, name))
        geometric_ladder(self.largest_sigma, self.smallest_sigma)


@settings
class DistanceDenoisingConfig:
    """Denoising of the distances between atoms of equilibrium structures (SE(3)-DDM, Liu, Guo, Tang, ICLR 2023)."""

    kind: Literal["distance_denoising"] = "distance_denoising"
    """Which objective."""
    view_sigma: float = 0.3
    """Standard deviation of the noise on positions that makes the second view, Å."""
    largest_sigma: float = 10.0
    """Standard deviation of the noise on distances at the first of 50 levels, Å."""
    smallest_sigma: float = 0.01
    """The same at the last level, Å."""

    def __post_init__(self) -> None:
        """Refuse noise that is not positive and levels that do not fall."""
        _require_positive("view_sigma", self.view_sigma)
        geometric_ladder(self.largest_sigma, self.smallest_sigma)


AnyObjectiveConfig = (
    ForceAndDenoiseConfig
    | CoordinateDenoisingConfig
    | EnergyForcesConfig
    | ForcesConfig
    | FradConfig
    | FradVRNConfig
    | FradNoisyNodesConfig
    | EtOreoConfig
    | UnifiedConfig
    | EMGPConfig
    | DistanceDenoisingConfig
    | PropertyConfig
    | NoisyNodesConfig
)
ObjectiveConfig = Annotated[AnyObjectiveConfig, Field(discriminator="kind")]
"""Settings of any objective, told apart by ``kind``."""


def build_objective(config: AnyObjectiveConfig) -> Objective:
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
        case FradConfig():
            return frad(config.rotor_sigma, config.sigma, config.rotors)
        case FradVRNConfig():
            return frad_vrn(AS_RELEASED if config.scales == "released" else IN_RADIANS, config.sigma)
        case FradNoisyNodesConfig():
            noise = HybridNoise(RotorNoise(config.rotor_sigma, config.rotors), CoordinateNoise(config.sigma))
            labels = EnergyForces(config.energy, config.forces, config.loss)
            return decoupled_noisy_nodes(labels, noise, config.denoising)
        case EtOreoConfig():
            return et_oreo(config.forces, config.zero_force, config.denoising, config.sigma, config.temperature)
        case UnifiedConfig():
            weights = config.forces, config.zero_force, config.denoising, config.noise_level
            ladder = geometric_ladder(config.largest_sigma, config.smallest_sigma)
            return unified(*weights, rotor_sigma=config.rotor_sigma, sigma=config.sigma, ladder=ladder)
        case EMGPConfig():
            return emgp(_emgp_noise(config), config.gradient, config.level)
        case DistanceDenoisingConfig():
            return distance_denoising(config.view_sigma, geometric_ladder(config.largest_sigma, config.smallest_sigma))
        case PropertyConfig():
            return build_property(config)
        case NoisyNodesConfig():
            return build_noisy_nodes(config)


def property_settings(config: AnyObjectiveConfig) -> PropertyConfig | None:
    """Return the property that an objective is about; ``None`` if it is about energies, forces or noise."""
    match config:
        case PropertyConfig():
            return config
        case NoisyNodesConfig():
            return config.labels
        case _:
            return None


def _emgp_noise(config: EMGPConfig) -> RiemannianNoise | LadderNoise | SuperposedNoise:
    ladder = geometric_ladder(config.largest_sigma, config.smallest_sigma)
    match config.target:
        case "riemannian":
            return RiemannianNoise(ladder)
        case "gaussian":
            return LadderNoise(ladder)
        case "superposed":
            return SuperposedNoise(ladder)
