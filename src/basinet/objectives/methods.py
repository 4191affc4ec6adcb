"""Compose objectives: the published methods, each with its citation, options and weights."""

import math
from typing import Annotated, Literal

from pydantic import Field

from basinet.config import NonNegative, Positive, settings
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise, RotorNoise
from basinet.noise.ladder import geometric_ladder
from basinet.noise.riemannian import LadderNoise, RiemannianNoise, SuperposedNoise
from basinet.noise.vibration import AS_RELEASED, IN_RADIANS, VibrationRotationNoise
from basinet.objectives.base import Method, Objective
from basinet.objectives.combine import WeightedSum, Where
from basinet.objectives.denoising import ROOM_TEMPERATURE, Denoising, ForceDenoising
from basinet.objectives.distances import DistanceDenoising
from basinet.objectives.noise_level import EnergyGradientDenoising, NoiseLevel
from basinet.objectives.properties import NoisyNodesConfig, PropertyConfig
from basinet.objectives.supervised import EnergyForces, ForceLoss, Forces, ZeroForce
from basinet.structures.topology import WhichRotors

MINIMUM = "is_equilibrium"


@settings
class ForcesConfig(Method):
    """Forces alone; energies are right up to the reference energies, which are fitted."""

    kind: Literal["forces"] = "forces"
    """Kind of objective."""
    loss: ForceLoss = "norm"
    """norm: length of the error of an atom; l1, mse: of its components."""

    def build(self) -> Objective:
        """Return the objective."""
        return Forces(self.loss)


@settings
class EnergyForcesConfig(Method):
    """Energies and forces together."""

    kind: Literal["energy_forces"] = "energy_forces"
    """Kind of objective."""
    energy: Positive = 1.0
    """Weight of the absolute error of the energy per atom, eV."""
    forces: Positive = 1.0
    """Weight of the error of the forces, eV/Å."""
    loss: ForceLoss = "norm"
    """Loss of the forces. norm: length of the error of an atom; l1, mse: of its components."""

    def build(self) -> Objective:
        """Return the objective."""
        return EnergyForces(self.energy, self.forces, self.loss)


@settings
class CoordinateDenoisingConfig(Method):
    """Coordinate denoising of equilibrium structures (Zaidi et al., ICLR 2023)."""

    kind: Literal["coordinate_denoising"] = "coordinate_denoising"
    """Kind of objective."""
    sigma: Positive = 0.04
    """Standard deviation of the noise, Å."""

    def build(self) -> Objective:
        """Return the objective."""
        return Where(MINIMUM, Denoising(CoordinateNoise(self.sigma)))


@settings
class ForceAndDenoiseConfig(Method):
    """Forces where there are labels; at equilibrium a vanishing force, and denoising.

    Our default for pre-training: the force-centric idea of ET-OREO (Feng et al., NeurIPS 2023) with the denoising of
    Zaidi et al. (ICLR 2023) on a head of its own.
    """

    kind: Literal["force_and_denoise"] = "force_and_denoise"
    """Kind of objective."""
    forces: Positive = 1.0
    """Weight of the error of labelled forces (per-atom norm, eV/Å)."""
    zero_force: Positive = 0.1
    """Weight of the force predicted at equilibrium, where it must vanish."""
    denoising: Positive = 0.1
    """Weight of denoising at equilibrium."""
    sigma: Positive = 0.04
    """Standard deviation of the noise, Å."""

    def build(self) -> Objective:
        """Return the objective."""
        return WeightedSum(
            forces=(self.forces, Forces()),
            zero_force=(self.zero_force, Where(MINIMUM, ZeroForce())),
            denoising=(self.denoising, Where(MINIMUM, Denoising(CoordinateNoise(self.sigma)))),
        )


@settings
class FradConfig(Method):
    """Fractional denoising of equilibrium structures with bonds (Frad, Feng et al., ICML 2023).

    Rotors turn, then atoms move, and only the latter is recovered.
    """

    kind: Literal["frad"] = "frad"
    """Kind of objective."""
    rotor_sigma: Positive = math.radians(2)
    """Standard deviation of the angle of each rotor, rad (published: 2 degrees)."""
    rotors: WhichRotors = "all"
    """all: methyl, hydroxyl and amino groups turn too; heavy: rotors of the molecule without its hydrogens."""
    sigma: Positive = 0.04
    """Standard deviation of the Gaussian noise that is recovered, Å."""

    def build(self) -> Objective:
        """Return the objective."""
        noise = HybridNoise(RotorNoise(self.rotor_sigma, self.rotors), CoordinateNoise(self.sigma))
        return Where(MINIMUM, Denoising(noise))


@settings
class FradVRNConfig(Method):
    """Frad with noise on bonds, angles and torsions (Ni et al., Nature Machine Intelligence 2024)."""

    kind: Literal["frad_vrn"] = "frad_vrn"
    """Kind of objective."""
    scales: Literal["released", "radians"] = "released"
    """released: angles of the noise in degrees, as the released code has them; radians: the same numbers as radians."""
    sigma: Positive = 0.04
    """Standard deviation of the Gaussian noise that is recovered, Å."""

    def build(self) -> Objective:
        """Return the objective."""
        vibration = VibrationRotationNoise(AS_RELEASED if self.scales == "released" else IN_RADIANS)
        return Where(MINIMUM, Denoising(HybridNoise(vibration, CoordinateNoise(self.sigma))))


@settings
class FradNoisyNodesConfig(Method):
    """Energies and forces on clean positions; beside them Frad's noise recovered from noisy ones. Needs bonds.

    Frad's Noisy Nodes (Feng et al., ICML 2023): energies and forces belong to the clean positions, so they are
    predicted there; the noise term is a second pass that builds no forces.
    """

    kind: Literal["frad_noisy_nodes"] = "frad_noisy_nodes"
    """Kind of objective."""
    energy: Positive = 0.2
    """Weight of the absolute error of the energy per atom, eV."""
    forces: Positive = 0.8
    """Weight of the error of the forces, eV/Å."""
    loss: ForceLoss = "norm"
    """Loss of the forces. norm: length of the error of an atom; l1, mse: of its components."""
    denoising: NonNegative = 0.1
    """Weight of the noise term; 0 leaves it out."""
    rotor_sigma: Positive = math.radians(20)
    """Standard deviation of the angle of each rotor, rad (published for MD17: 20 degrees)."""
    rotors: WhichRotors = "all"
    """all: methyl, hydroxyl and amino groups turn too; heavy: rotors of the molecule without its hydrogens (MD17 as
    published)."""
    sigma: Positive = 0.005
    """Standard deviation of the Gaussian noise that is recovered, Å."""

    def build(self) -> Objective:
        """Return the objective."""
        noise = HybridNoise(RotorNoise(self.rotor_sigma, self.rotors), CoordinateNoise(self.sigma))
        labels = EnergyForces(self.energy, self.forces, self.loss)
        if self.denoising == 0:
            return WeightedSum(labels=(1.0, labels))
        return WeightedSum(labels=(1.0, labels), noise=(self.denoising, Denoising(noise)))


@settings
class EtOreoConfig(Method):
    """Forces where there are labels; at equilibrium a vanishing force, and denoising as a force (ET-OREO, 2023).

    Feng et al., NeurIPS 2023. The three terms are published; their weights, norms and the size of the noise are our
    choices.
    """

    kind: Literal["et_oreo"] = "et_oreo"
    """Kind of objective."""
    forces: Positive = 1.0
    """Weight of the error of labelled forces (per-atom norm, eV/Å)."""
    zero_force: Positive = 1.0
    """Weight of the force predicted at equilibrium, where it must vanish."""
    denoising: Positive = 0.1
    """Weight of the error of the force that pulls a noisy molecule back."""
    sigma: Positive = 0.04
    """Standard deviation of the noise, Å."""
    temperature: Positive = ROOM_TEMPERATURE
    """Temperature, K; the pull is kT/sigma² times the displacement."""

    def build(self) -> Objective:
        """Return the objective."""
        pull = ForceDenoising(CoordinateNoise(self.sigma), self.temperature)
        return WeightedSum(
            forces=(self.forces, Forces()),
            zero_force=(self.zero_force, Where(MINIMUM, ZeroForce())),
            denoising=(self.denoising, Where(MINIMUM, pull)),
        )


@settings
class UnifiedConfig(Method):
    r"""Forces where there are labels; at equilibrium a vanishing force, Frad and the level of noise. Minima need bonds.

    Ours: the force terms of ET-OREO, the noise of Frad, the noise level of 3D-EMGP beside an energy in eV.

    **Weights.** Fixed, in round numbers: after a few hundred steps the gradient of each auxiliary term in the backbone
    is a tenth to a half of that of the forces, so that forces lead and nothing vanishes. ``docs/methods/unified.md``
    has the measurement, and what other rules would give.

    **Levels.** They span what is near a minimum. At 10 Å, the largest of 3D-EMGP, a molecule is a gas, and its level
    says nothing about a minimum. With 0.3 Å on every coordinate bonds change by :math:`\sqrt2 \cdot 0.3 = 0.42` Å, past
    the inflection of a Morse bond at :math:`\ln 2 / a \approx 0.35` Å (:math:`a \approx 2` Å⁻¹), where the force begins
    to fall. At the other end, 0.01 Å is less than the 0.03 Å by which a bond of 30 eV/Å² deviates at 300 K. A level is
    7 % larger than the next, and the deviation of 3N - 6 coordinates gives the size to 10 % at N = 18: no classifier
    can be sure, and the loss ends well above zero.
    """

    kind: Literal["unified"] = "unified"
    """Kind of objective."""
    forces: Positive = 1.0
    """Weight of the error of labelled forces (per-atom norm, eV/Å)."""
    zero_force: Positive = 0.1
    """Weight of the force predicted at equilibrium, where it must vanish."""
    denoising: Positive = 0.1
    """Weight of denoising at equilibrium."""
    noise_level: Positive = 0.2
    """Weight of the cross entropy of the level, one of 50, of the noise on a minimum."""
    rotor_sigma: Positive = math.radians(2)
    """Standard deviation of the angle of each rotor, rad."""
    sigma: Positive = 0.04
    """Standard deviation of the Gaussian noise that is recovered, Å."""
    largest_sigma: Positive = 0.3
    """Standard deviation of the noise at the first level, Å."""
    smallest_sigma: Positive = 0.01
    """The same at the last level, Å."""

    def build(self) -> Objective:
        """Return the objective."""
        frad = HybridNoise(RotorNoise(self.rotor_sigma), CoordinateNoise(self.sigma))
        levels = LadderNoise(geometric_ladder(self.largest_sigma, self.smallest_sigma))
        return WeightedSum(
            forces=(self.forces, Forces()),
            zero_force=(self.zero_force, Where(MINIMUM, ZeroForce())),
            denoising=(self.denoising, Where(MINIMUM, Denoising(frad))),
            noise_level=(self.noise_level, Where(MINIMUM, NoiseLevel(levels))),
        )


@settings
class EMGPConfig(Method):
    """The way back from noise of many sizes as a force, and how far it is (3D-EMGP, Jiao et al., AAAI 2023).

    As published, both terms see the same noisy molecule; here each draws its own, which gives the same expected loss.
    """

    kind: Literal["emgp"] = "emgp"
    """Kind of objective."""
    largest_sigma: Positive = 10.0
    """Standard deviation of the noise at the first of 50 levels, Å."""
    smallest_sigma: Positive = 0.01
    """The same at the last level, Å."""
    target: Literal["riemannian", "gaussian", "superposed"] = "riemannian"
    """riemannian: back to the nearest copy of the molecule, however it is turned; gaussian: straight back; superposed:
    straight back from the noisy molecule superposed on the clean one."""
    gradient: Positive = 1.0
    """Weight of the error of minus the gradient of the energy (sum over atoms, in units of the noise)."""
    level: Positive = 0.2
    """Weight of the cross entropy of the level."""

    def build(self) -> Objective:
        """Return the objective."""
        kinds = {"riemannian": RiemannianNoise, "gaussian": LadderNoise, "superposed": SuperposedNoise}
        noise = kinds[self.target](geometric_ladder(self.largest_sigma, self.smallest_sigma))
        return WeightedSum(
            gradient=(self.gradient, EnergyGradientDenoising(noise)), level=(self.level, NoiseLevel(noise))
        )


@settings
class DistanceDenoisingConfig(Method):
    """Denoising of the distances between atoms of equilibrium structures (SE(3)-DDM, Liu, Guo, Tang, ICLR 2023)."""

    kind: Literal["distance_denoising"] = "distance_denoising"
    """Kind of objective."""
    view_sigma: Positive = 0.3
    """Standard deviation of the noise on positions that makes the second view, Å."""
    largest_sigma: Positive = 10.0
    """Standard deviation of the noise on distances at the first of 50 levels, Å (as in the released code)."""
    smallest_sigma: Positive = 0.01
    """The same at the last level, Å."""

    def build(self) -> Objective:
        """Return the objective."""
        ladder = geometric_ladder(self.largest_sigma, self.smallest_sigma)
        return Where(MINIMUM, DistanceDenoising(CoordinateNoise(self.view_sigma), ladder))


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
"""Settings of any objective, distinguished by ``kind``."""


def property_settings(config: AnyObjectiveConfig) -> PropertyConfig | None:
    """Return the property that an objective learns; ``None`` if it learns energies, forces or noise."""
    match config:
        case PropertyConfig():
            return config
        case NoisyNodesConfig():
            return config.labels
        case _:
            return None
