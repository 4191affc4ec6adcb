"""Random numbers of replicas: each replica has a stream of its own.

A number depends on the seed of the replica, the step, the atom and the axis, and on nothing else: not on the replicas
beside it, not on the device, not on where a run was interrupted. So there is no state of a generator to save. The
numbers come from numpy's Philox, a generator made to be entered at any place (Salmon et al., SC'11).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from basinet.structures.batch import Batch

BLOCK = 32
"""Steps whose numbers are drawn together: to enter a stream costs more than to read it."""
MAX_SEED = 2**63
"""Seeds and numbers of replicas are below it, so that two of them make one key of 128 bits."""


def replica_seeds(seed: int, n_replicas: int) -> tuple[int, ...]:
    """Return the seeds of replicas 0, 1, 2 ... of a run: the first of them are the same for any number of replicas."""
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed must be 0 to 2^63 - 1, got {seed}")
    return tuple(seed * MAX_SEED + replica for replica in range(n_replicas))


class Streams:
    """Normal random numbers for the atoms of a batch.

    Args:
        batch: the replicas; gives the number of atoms of each, device and dtype.
        seeds: one per replica, as :func:`replica_seeds` makes them.
    """

    def __init__(self, batch: Batch, seeds: Sequence[int]) -> None:
        if len(seeds) != batch.n_molecules:
            raise ValueError(f"expected one seed per replica, got {len(seeds)} for {batch.n_molecules}")
        self.seeds = tuple(seeds)
        self._n_atoms = batch.atoms_per_molecule.tolist()
        self._like = batch.positions
        self._block = -1
        self._numbers: Tensor | None = None

    def at_start(self) -> Float64[Tensor, "n_atoms 3"]:
        """Return the numbers for the velocities at the start."""
        return self._draw(0, 1)[0]

    def at(self, step: int) -> Float64[Tensor, "n_atoms 3"]:
        """Return the numbers of a step."""
        block, place = divmod(step, BLOCK)
        if block != self._block or self._numbers is None:
            self._numbers, self._block = self._draw(block + 1, BLOCK), block
        return self._numbers[place]

    def _draw(self, block: int, n_steps: int) -> Float64[Tensor, "n_steps n_atoms 3"]:
        """Draw on the CPU, where the streams are, and move the numbers to the replicas."""
        drawn = [
            np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, block])).standard_normal((n_steps, n, 3))
            for seed, n in zip(self.seeds, self._n_atoms, strict=True)
        ]
        return torch.from_numpy(np.concatenate(drawn, axis=1)).to(self._like.device)
