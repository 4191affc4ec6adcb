"""Learn from noise of many sizes: the way back as minus the gradient of an energy, and the size (3D-EMGP)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from basinet.models.model import Model
from basinet.noise.base import Perturbed
from basinet.noise.ladder import N_LEVELS
from basinet.noise.riemannian import LadderNoise, RiemannianNoise, SuperposedNoise
from basinet.objectives.denoising import NoiseTerm
from basinet.structures.batch import Batch


class EnergyGradientDenoising(NoiseTerm):
    r"""Minus the gradient of the energy on a noisy molecule against the way back, in units of the noise.

    .. math:: L = \frac1B \sum_b \sum_{i \in b} \big\| -\nabla_i E(\tilde r) - t_i \big\|^2

    Summed over the atoms and components of a molecule and averaged over molecules, as in 3D-EMGP (Jiao et al., AAAI
    2023, "equivariant force prediction"): large molecules weigh more. The size of the noise is not an input, so
    the best gradient is the mean of the target over all sizes that may have led to the noisy molecule. It has no unit:
    the energy is the pooled energy of the paper, not one in eV.

    Args:
        perturbation: noise of the molecules.
    """

    name = "gradient"
    requires = frozenset({"forces", "pooled_energy"})

    def noise_loss(self, model: Model, batch: Batch, perturbed: Perturbed) -> Float[Tensor, "n_atoms 3"]:
        """Return the squared error of each component."""
        predicted = model(perturbed.batch, ["forces"])["forces"]
        return (predicted - perturbed.target).square()


class NoiseLevel(NoiseTerm):
    r"""The cross entropy of the level of the noise, from the clean and the noisy molecule; mean over molecules.

    .. math:: L = -\frac1B \sum_b \log p_{k_b}(r_b, \tilde r_b)

    A model that predicts all levels alike has :math:`\ln 50 = 3.912` ("invariant noise-scale prediction" of 3D-EMGP).
    The classes are levels without an order, as published. Two forward passes, clean and noisy, both with gradients.

    Args:
        perturbation: noise on a ladder with as many levels as the head has.
    """

    name = "noise_level"
    requires = frozenset({"noise_level"})

    def __init__(self, perturbation: RiemannianNoise | LadderNoise | SuperposedNoise) -> None:
        if len(perturbation.ladder) != N_LEVELS:
            raise ValueError(
                f"the head has {N_LEVELS} levels of noise, and this ladder has {len(perturbation.ladder)}; use "
                f"geometric_ladder(largest, smallest, {N_LEVELS})"
            )
        super().__init__(perturbation)

    def noise_loss(self, model: Model, batch: Batch, perturbed: Perturbed) -> Float[Tensor, ""]:
        """Return the summed cross entropy."""
        assert perturbed.level is not None
        return F.cross_entropy(model.noise_level(batch, perturbed.batch), perturbed.level, reduction="sum")
