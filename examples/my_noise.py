"""A pre-training objective in one file: denoising with noise that moves light atoms further than heavy ones.

basinet pretrain molecules plugin=my_noise.py plugin_options.sigma=0.08 --out mine
basinet compare mols.extxyz from=scratch,mine/model.safetensors --out compared
"""

import torch
from ase.data import atomic_masses

from basinet.noise.base import Perturbation, Perturbed
from basinet.objectives.base import Objective
from basinet.objectives.combine import Where
from basinet.objectives.denoising import Denoising
from basinet.structures import Batch


class ThermalNoise(Perturbation):
    """Gaussian noise of deviation sigma / sqrt(mass of the atom / mass of hydrogen), Å."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        """Return a noisy copy, and the way back in units of sigma."""
        x = batch.positions
        masses = torch.tensor(atomic_masses[batch.atomic_numbers.cpu().numpy()], device=x.device)
        width = (atomic_masses[1] / masses).sqrt().to(x.dtype)[:, None]
        epsilon = width * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        noisy = batch.without_labels().replace(positions=x + self.sigma * epsilon)
        return Perturbed(noisy, -epsilon, x.new_full((batch.n_molecules,), self.sigma), level=None)


def objective(sigma: float = 0.08) -> Objective:
    """Return what is learned; its arguments are the plugin_options of a run."""
    return Where("is_equilibrium", Denoising(ThermalNoise(sigma)))
