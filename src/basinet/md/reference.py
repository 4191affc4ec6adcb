"""What dynamics are compared with: the distances and bonds of a reference trajectory of one molecule.

Definitions are those of Fu et al., "Forces are not Enough" (TMLR 2023); see :mod:`basinet.md.observables`.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import covalent_radii
from jaxtyping import Float, Float64
from torch import Tensor

from basinet.md.bonds import Bonds, reference_bonds
from basinet.md.dynamics import Observer, Record
from basinet.md.observables import HISTOGRAM_BINS, count_distances, normalised
from basinet.md.running import DistanceCounts, FirstBroken
from basinet.structures import Molecule

TOPOLOGY_SKIN = 0.15
"""Å, per atom. Two atoms whose mean distance is below the sum of their covalent radii, each enlarged by it, are bonded:
a mean over thousands of frames needs less room than a single frame does, and a hydrogen bond (1.7 Å) is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGeometry:
    """The distances in a trajectory of one molecule."""

    histogram: Float64[Tensor, " n_bins"]
    """h(r) of all frames, 1/Å."""
    mean_distances: Float64[Tensor, "n_atoms n_atoms"]
    """Å; zero on the diagonal."""
    n_frames: int

    @classmethod
    def of(cls, chunks: Iterable[Float[Tensor, "_ n_atoms 3"]]) -> "ReferenceGeometry":
        """Look at frames, chunk by chunk; memory does not grow with their number.

        Raises:
            ValueError: there are none.
        """
        counts = torch.zeros((1, HISTOGRAM_BINS), dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        n_frames = 0
        for chunk in chunks:
            positions = chunk.double()
            count_distances(positions, torch.zeros(len(positions), dtype=torch.int64), counts)
            vectors = positions[:, :, None] - positions[:, None]
            total = total + torch.linalg.vector_norm(vectors, dim=-1).sum(0)
            n_frames += len(positions)
        if n_frames == 0:
            raise ValueError("there are no reference frames")
        return cls(histogram=normalised(counts)[0], mean_distances=total / n_frames, n_frames=n_frames)

    def bonds_of_start(self, starts: Sequence[Molecule]) -> Bonds:
        """Return the bonds of the benchmark: pairs that are close in the first frame, with their mean lengths."""
        return self._with_means([dataclasses.replace(m, bonds=None, bond_orders=None) for m in starts])

    def bonds_of_topology(self, starts: Sequence[Molecule]) -> Bonds:
        """Return the bonds of the molecule: pairs that are close in the mean, with their mean lengths.

        The first frame may have a pair too few, where a bond is stretched, or too many, where two atoms come close.
        """
        pairs = self._topology(starts[0].atomic_numbers)
        return self._with_means([dataclasses.replace(m, bonds=pairs, bond_orders=None) for m in starts])

    def _topology(self, atomic_numbers: np.ndarray) -> np.ndarray:
        radius = covalent_radii[atomic_numbers] + TOPOLOGY_SKIN
        close = self.mean_distances.numpy() < radius[:, None] + radius[None]
        first, second = np.nonzero(np.triu(close, k=1))
        return np.stack([first, second], axis=1).astype(np.int64)

    def _with_means(self, molecules: Sequence[Molecule]) -> Bonds:
        bonds = reference_bonds(molecules)
        local = bonds.pairs - (bonds.molecule * len(self.mean_distances))[:, None]
        return bonds.replace_lengths(self.mean_distances[local[:, 0], local[:, 1]])


class DistancesWhileWhole(Observer):
    """Counts distances for h(r) up to the first frame with a broken bond, that frame included.

    Args:
        counts: what counts.
        broken: says since when a molecule is broken; it has to look at each record first. Its first way is meant.
    """

    def __init__(self, counts: DistanceCounts, broken: FirstBroken) -> None:
        self.counts, self.broken = counts, broken

    def observe(self, record: Record) -> None:
        """Count the distances of one record."""
        whole = ~(self.broken.times[0] < record.time)
        self.counts.observe(record._replace(alive=record.alive & whole))

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return self.counts.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.counts.load_state_dict(state)
