"""The published methods, each as a composition of the same parts, with its citation."""

from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import Objective
from basinet.objectives.combine import WeightedSum, Where
from basinet.objectives.denoising import Denoising
from basinet.objectives.supervised import Forces, ZeroForce


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
