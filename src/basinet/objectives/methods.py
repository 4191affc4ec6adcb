"""The published methods, each as a composition of the same parts, with its citation."""

import math

from basinet.noise.base import Perturbation
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise, RotorNoise
from basinet.noise.ladder import NoiseLadder, geometric_ladder
from basinet.noise.riemannian import LadderNoise, RiemannianNoise, SuperposedNoise
from basinet.noise.vibration import AS_RELEASED, InternalScales, VibrationRotationNoise
from basinet.objectives.base import LabelObjective, Objective
from basinet.objectives.combine import WeightedSum, Where
from basinet.objectives.denoising import Denoising, ForceDenoising
from basinet.objectives.distances import DistanceDenoising
from basinet.objectives.noise_level import EnergyGradientDenoising, NoiseLevel
from basinet.objectives.noisy_nodes import NoisyNodes
from basinet.objectives.supervised import Forces, ZeroForce
from basinet.structures.topology import WhichRotors


def coordinate_denoising(sigma: float = 0.04) -> Objective:
    """Pre-training via denoising (Zaidi et al., ICLR 2023): coordinate noise on equilibrium structures.

    Args:
        sigma: deviation of the noise, Å.
    """
    return Where("is_equilibrium", Denoising(CoordinateNoise(sigma)))


def force_and_denoise(
    forces: float = 1.0, zero_force: float = 0.1, denoising: float = 0.1, sigma: float = 0.04
) -> Objective:
    """Learn forces where there are labels, and from equilibrium structures that the force vanishes and where they lie.

    Our default for pre-training: the force-centric idea of ET-OREO (Feng et al., NeurIPS 2023) with the denoising of
    Zaidi et al. on a head of its own.

    Args:
        forces: weight of the force labels.
        zero_force: weight of the vanishing force at equilibrium.
        denoising: weight of denoising at equilibrium.
        sigma: deviation of the noise, Å.
    """
    return WeightedSum(
        forces=(forces, Forces()),
        zero_force=(zero_force, Where("is_equilibrium", ZeroForce())),
        denoising=(denoising, coordinate_denoising(sigma)),
    )


def frad(rotor_sigma: float = math.radians(2), sigma: float = 0.04, rotors: WhichRotors = "all") -> Objective:
    """Fractional denoising (Frad, Feng et al., ICML 2023): rotors turn, then atoms move, and only that is recovered.

    Args:
        rotor_sigma: deviation of the angle of each rotor, rad; published as 2°.
        sigma: deviation of the Gaussian noise, Å.
        rotors: all, or those of the molecule without its hydrogens.
    """
    return Where("is_equilibrium", Denoising(HybridNoise(RotorNoise(rotor_sigma, rotors), CoordinateNoise(sigma))))


def frad_vrn(scales: InternalScales = AS_RELEASED, sigma: float = 0.04) -> Objective:
    """Fractional denoising with vibration and rotation noise (Ni et al., Nature Machine Intelligence 2024).

    Args:
        scales: deviations of bonds, angles and torsions.
        sigma: deviation of the Gaussian noise, Å.
    """
    return Where("is_equilibrium", Denoising(HybridNoise(VibrationRotationNoise(scales), CoordinateNoise(sigma))))


def noisy_nodes(labels: Objective, noise: Perturbation, weight: float = 0.1) -> Objective:
    """Fine-tune on noisy molecules and recover the noise (Noisy Nodes, Godwin et al., ICLR 2022; Zaidi et al., 2023).

    For labels that small noise leaves alone; for forces see :func:`decoupled_noisy_nodes`.

    Args:
        labels: what is fine-tuned, a label of the molecule.
        noise: how molecules are noised.
        weight: of the noise term.
    """
    if not isinstance(labels, LabelObjective):
        raise ValueError(
            "forces belong to the clean positions and mean nothing on noisy ones; learn them on clean positions and "
            "the noise beside them (methods.decoupled_noisy_nodes)"
        )
    return NoisyNodes(labels, noise, weight)


def decoupled_noisy_nodes(labels: Objective, noise: Perturbation, weight: float = 0.1) -> Objective:
    """Fine-tune on clean molecules and recover noise beside it (Frad's Noisy Nodes, Feng et al., ICML 2023).

    Energies and forces belong to the clean positions, so they are predicted there; the noise term is a second pass that
    builds no forces.

    Args:
        labels: what is fine-tuned.
        noise: how molecules are noised; published for MD17: rotors by 20°, then 0.005 Å.
        weight: of the noise term; zero leaves it out, for comparison.
    """
    if weight == 0:
        return WeightedSum(labels=(1.0, labels))
    return WeightedSum(labels=(1.0, labels), noise=(weight, Denoising(noise)))


def et_oreo(
    forces: float = 1.0,
    zero_force: float = 1.0,
    denoising: float = 0.1,
    sigma: float = 0.04,
    temperature: float = 298.15,
) -> Objective:
    """Force-centric pre-training (ET-OREO, Feng et al., NeurIPS 2023): forces, vanishing forces, denoising as a force.

    The three terms are published; their weights, norms and the size of the noise are our choices.

    Args:
        forces: weight of the force labels.
        zero_force: weight of the vanishing force at equilibrium.
        denoising: weight of the force that pulls a noisy molecule back to equilibrium.
        sigma: deviation of the noise, Å.
        temperature: K, of the spring that pulls.
    """
    pull = ForceDenoising(CoordinateNoise(sigma), temperature)
    return WeightedSum(
        forces=(forces, Forces()),
        zero_force=(zero_force, Where("is_equilibrium", ZeroForce())),
        denoising=(denoising, Where("is_equilibrium", pull)),
    )


UNIFIED_LADDER = geometric_ladder(largest=0.3, smallest=0.01)
"""Levels between motions smaller than those of the stiffest bond at 300 K and noise that breaks bonds, Å."""


def unified(
    forces: float = 1.0,
    zero_force: float = 0.1,
    denoising: float = 0.1,
    noise_level: float = 0.2,
    rotor_sigma: float = math.radians(2),
    sigma: float = 0.04,
    ladder: NoiseLadder = UNIFIED_LADDER,
) -> Objective:
    r"""Learn forces where there are labels; from minima, that the force vanishes, how Frad noised them, and how far.

    Ours: the force terms of ET-OREO, the noise of Frad, the noise level of 3D-EMGP beside an energy that stays one in
    eV. Minima need bonds.

    **Weights.** Fixed, in round numbers: after a few hundred steps the gradient of each auxiliary term in the backbone
    is a tenth to a half of that of the forces, so that forces lead and nothing vanishes. ``docs/methods/unified.md``
    has the measurement, and what other rules would give.

    **Levels.** They span what is near a minimum. At 10 Å, the largest of 3D-EMGP, a molecule is a gas, and to tell that
    teaches nothing about a minimum. With 0.3 Å on every coordinate bonds change by :math:`\sqrt2 \cdot 0.3 = 0.42` Å,
    past the inflection of a Morse bond at :math:`\ln 2 / a \approx 0.35` Å (:math:`a \approx 2` Å⁻¹), where the force
    begins to fall. At the other end, 0.01 Å is less than the 0.03 Å by which a bond of 30 eV/Å² deviates at 300 K. A
    level is 7 % larger than the next, and the deviation of 3N - 6 coordinates tells the size to 10 % at N = 18: no
    classifier can be sure, and the loss ends well above zero.

    Args:
        forces: weight of the force labels.
        zero_force: weight of the vanishing force at equilibrium.
        denoising: weight of denoising at equilibrium.
        noise_level: weight of telling the size of Gaussian noise at equilibrium.
        rotor_sigma: deviation of the angle of each rotor, rad.
        sigma: deviation of the Gaussian noise that is recovered, Å.
        ladder: sizes of the noise whose level is told.
    """
    return WeightedSum(
        forces=(forces, Forces()),
        zero_force=(zero_force, Where("is_equilibrium", ZeroForce())),
        denoising=(denoising, frad(rotor_sigma, sigma)),
        noise_level=(noise_level, Where("is_equilibrium", NoiseLevel(LadderNoise(ladder)))),
    )


def distance_denoising(view_sigma: float = 0.3, ladder: NoiseLadder | None = None) -> Objective:
    """Denoising of distances on equilibrium structures (SE(3)-DDM, Liu, Guo, Tang, ICLR 2023).

    Args:
        view_sigma: deviation of the Gaussian noise that makes the second view of a molecule, Å.
        ladder: sizes of the noise on distances; by default as in the released code, 50 levels from 10 to 0.01 Å.
    """
    levels = geometric_ladder() if ladder is None else ladder
    return Where("is_equilibrium", DistanceDenoising(CoordinateNoise(view_sigma), levels))


def emgp(
    noise: RiemannianNoise | LadderNoise | SuperposedNoise | None = None, gradient: float = 1.0, level: float = 0.2
) -> Objective:
    """Energy-motivated pre-training (3D-EMGP, Jiao et al., AAAI 2023): the way back as a force, and how far it is.

    Published, both terms see the same noisy molecule; here each draws its own, which gives the same expected loss.

    Args:
        noise: how molecules are noised; by default as published, Riemannian on 50 levels from 10 to 0.01 Å.
        gradient: weight of minus the gradient of the energy.
        level: weight of the level of the noise.
    """
    chosen = RiemannianNoise(geometric_ladder()) if noise is None else noise
    return WeightedSum(gradient=(gradient, EnergyGradientDenoising(chosen)), level=(level, NoiseLevel(chosen)))
