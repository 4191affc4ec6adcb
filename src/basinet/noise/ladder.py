"""Define ladders of noise levels, of which one is drawn for each molecule."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from basinet.structures.batch import Batch

N_LEVELS = 50
"""Levels of the published ladder of 3D-EMGP, and classes of the noise-level head."""


class NoiseLadder:
    """Standard deviations of the noise in Å, from the largest (level 0) to the smallest.

    Raises:
        ValueError: there is no level, one is not positive, or they do not fall from each level to the next.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        if not sigmas:
            raise ValueError("a noise ladder needs at least one level, got none")
        for level, sigma in enumerate(sigmas):
            if not 0 < sigma < math.inf:
                raise ValueError(f"level {level} of the noise ladder must be positive and finite (Å), got {sigma}")
        for level, (above, below) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            if below >= above:
                raise ValueError(
                    f"a noise ladder must fall from each level to the next, got {above} Å at level {level} and "
                    f"{below} Å at level {level + 1}; sort it from the largest to the smallest"
                )
        self.sigmas = tuple(sigmas)

    def __len__(self) -> int:
        return len(self.sigmas)

    def draw(self, batch: Batch, generator: torch.Generator) -> "DrawnLevels":
        """Draw a level for each molecule, all with the same probability."""
        x = batch.positions
        level = torch.randint(len(self), (batch.n_molecules,), generator=generator, device=x.device)
        return DrawnLevels(level, torch.tensor(self.sigmas, dtype=x.dtype, device=x.device)[level])


class DrawnLevels(NamedTuple):
    """The noise chosen for each molecule of a batch."""

    level: Int[Tensor, " n_molecules"]
    sigma: Float[Tensor, " n_molecules"]
    """Å."""


def geometric_ladder(largest: float = 10.0, smallest: float = 0.01, n_levels: int = N_LEVELS) -> NoiseLadder:
    """Return levels with a constant ratio; the defaults are those of 3D-EMGP (Jiao et al., AAAI 2023).

    Args:
        largest: deviation at level 0, Å.
        smallest: deviation at the last level, Å.
        n_levels: at least two.
    """
    if n_levels < 2:
        raise ValueError(f"a ladder between two sizes needs at least 2 levels, got {n_levels}")
    if not 0 < smallest < largest < math.inf:
        raise ValueError(f"expected 0 < smallest < largest (Å), got smallest {smallest} and largest {largest}")
    log_ratio = math.log(smallest / largest) / (n_levels - 1)
    inner = [largest * math.exp(log_ratio * level) for level in range(1, n_levels - 1)]
    return NoiseLadder([largest, *inner, smallest])
