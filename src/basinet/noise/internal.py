"""Turn the rotors of molecules at random, alone or followed by Gaussian noise (fractional denoising)."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from basinet.noise.base import Perturbation, Perturbed
from basinet.noise.coordinate import CoordinateNoise
from basinet.structures.batch import Batch
from basinet.structures.batch_topology import BatchTopology, Rotors
from basinet.structures.geometry import rotate_about_axis
from basinet.structures.topology import WhichRotors


class InternalNoise(ABC):
    """A random change of internal coordinates: a batch in, the batch moved along its bonds out.

    It has no target and may have any distribution: a network recovers the Gaussian noise that comes after it, see
    :class:`HybridNoise`.
    """

    flags: frozenset[str] = frozenset()
    """Flags a molecule must have set, as in :class:`basinet.noise.base.Perturbation`."""

    @abstractmethod
    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return a moved copy without labels; the clean batch stays as it is."""


class RotorNoise(InternalNoise):
    r"""Every rotor turned by a Gaussian angle (Frad, Feng et al., ICML 2023: "RN", "dihedral noise").

    .. math:: \tilde\psi_k = \psi_k + \sigma \epsilon_k, \qquad \epsilon_k \sim \mathcal N(0, 1)

    ======================  ==========================================================
    :math:`\psi_k`          dihedral about the ``k``-th rotor of a molecule, rad
    :math:`\sigma`          ``sigma``, rad; published in degrees: 2° is ``radians(2)``
    ======================  ==========================================================

    Bond lengths and angles stay; molecules without rotors stay as they are. Rotors are turned one after the other about
    their current axes, as RDKit's ``SetDihedralDeg`` does. The smaller side turns, which moves fewer atoms and leaves
    the internal geometry the same.

    Args:
        sigma: standard deviation of each angle, rad.
        which: all rotors, or those of the molecule without its hydrogens, as the released code has them on MD17.
        limit: largest ``sigma`` accepted, rad; more is nearly always degrees passed by mistake.

    Raises:
        ValueError: ``sigma`` is not positive or above ``limit``.
    """

    flags = frozenset({"has_rotors"})

    def __init__(self, sigma: float, which: WhichRotors = "all", *, limit: float = 1.0) -> None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be positive and finite (rad), got {sigma}")
        if sigma > limit:
            raise ValueError(
                f"sigma is in radians, and {sigma} rad are {math.degrees(sigma):.0f}°; for {sigma}° pass "
                f"math.radians({sigma}), or limit={sigma} if you mean it"
            )
        self.sigma = sigma
        self.which: WhichRotors = which

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return a copy with every rotor turned.

        Raises:
            ValueError: the rotors of a molecule are unknown.
        """
        if batch.n_molecules == 0:
            return batch.without_labels()
        topology = require_rotors(batch)
        rotors = topology.rotors if self.which == "all" else topology.heavy_rotors(batch.atomic_numbers)
        x = batch.positions
        epsilon = torch.randn(rotors.n_rotors, generator=generator, device=x.device, dtype=x.dtype)
        return batch.without_labels().replace(positions=turn_rotors(x, rotors, self.sigma * epsilon))


class HybridNoise(Perturbation):
    r"""Noise along internal coordinates, then Gaussian noise, of which only the latter is the target.

    Fractional denoising (Frad, Feng et al., ICML 2023; Ni et al., Nature Machine Intelligence 2024).

    .. math:: r \xrightarrow{\text{any distribution}} r' \xrightarrow{\mathcal N(0, \tau^2 I)} \tilde r, \qquad
              \mathbb E[r' - \tilde r \mid \tilde r] = \tau^2 \nabla \log p(\tilde r)

    ========================  =========================================
    :math:`\tilde r`          ``perturbed.batch.positions``
    :math:`r' - \tilde r`     ``perturbed.target * perturbed.scale``, Å
    :math:`\tau`              ``coordinate.sigma``, Å
    ========================  =========================================

    The identity (Tweedie's formula) holds for any distribution of :math:`r'`, so the best prediction is a force whose
    energy is soft along the rotors and stiff elsewhere. Denoising all of :math:`r - \tilde r` would not give a force:
    its covariance depends on the clean molecule.

    The Gaussian noise is drawn first, so a molecule without rotors gets the sample of ``coordinate`` alone.

    Args:
        chemical: the first step.
        coordinate: the second step.
    """

    def __init__(self, chemical: InternalNoise, coordinate: CoordinateNoise) -> None:
        self.chemical = chemical
        self.coordinate = coordinate
        self.flags = chemical.flags | coordinate.flags

    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        """Return a noisy copy."""
        gaussian = self.coordinate(batch, generator)
        moved = self.chemical(batch, generator)
        displacement = gaussian.scale[batch.molecule][:, None] * -gaussian.target
        return gaussian._replace(batch=moved.replace(positions=moved.positions + displacement))


def turn_rotors(
    positions: Float[Tensor, "n_atoms 3"], rotors: Rotors, angle: Float[Tensor, " n_rotors"]
) -> Float[Tensor, "n_atoms 3"]:
    """Return positions with every rotor turned by its angle (rad): its dihedrals grow by it, nothing else changes.

    All molecules at once, the first rotor of each, then the second, each about the axis where it then lies.
    """
    positions = positions.clone()
    rank = rotors.rank[rotors.moved_rotor]
    for pairs in torch.split(torch.argsort(rank, stable=True), torch.bincount(rank).tolist()):
        rotor, atom = rotors.moved_rotor[pairs], rotors.moved_atom[pairs]
        fixed, turning = positions[rotors.axis[rotor]].unbind(1)  # [n_pairs, 3]
        axis = F.normalize(turning - fixed, dim=-1)
        positions[atom] = rotate_about_axis(positions[atom], turning, axis, angle[rotor])
    return positions


def require_rotors(batch: Batch) -> BatchTopology:
    """Return the bond graph of a batch whose rotors are all known.

    Raises:
        ValueError: rotors of some molecules are unknown.
    """
    topology = batch.topology
    unknown = batch.n_molecules if topology is None else int((~topology.has_rotors).sum())
    if topology is None or unknown:
        raise ValueError(
            f"{unknown} of {batch.n_molecules} molecules have no bonds with bond orders on record, and this noise "
            "needs them; read the molecules from a format that has bonds (SDF, SMILES), or use coordinate noise"
        )
    return topology
