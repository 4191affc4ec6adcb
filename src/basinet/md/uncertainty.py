"""Dynamics stopped where the members of a committee no longer agree."""

from jaxtyping import Bool, Float
from torch import Tensor

from basinet.md.dynamics import MDState
from basinet.models.committee import Committee
from basinet.structures.batch import Batch

FORCES_APART = "members disagree"


class ForceSpread:
    """The largest standard deviation of a force among the atoms of each molecule, eV/Å.

    Args:
        committee: at least two models with forces; see :class:`~basinet.models.committee.Committee` for the deviation.
    """

    def __init__(self, committee: Committee) -> None:
        self.committee = committee
        self.dtype = next(committee.parameters()).dtype
        self._last: tuple[Batch, Tensor] | None = None

    def __call__(self, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the spread; that of the batch asked about last is remembered, for tables and limits ask in turn."""
        if self._last is None or self._last[0] is not batch:
            each = self.committee(batch.to(dtype=self.dtype), ["forces"])["forces_std"].to(batch.positions.dtype)
            largest = each.new_zeros(batch.n_molecules).scatter_reduce(0, batch.molecule, each, "amax")
            self._last = batch, largest
        return self._last[1]


class SpreadLimit:
    """Stops a molecule when the spread of a force is too large (a :data:`~basinet.md.dynamics.StopWhen`).

    Args:
        spread: of a committee.
        limit: largest deviation allowed, eV/Å.
    """

    def __init__(self, spread: ForceSpread, limit: float) -> None:
        if not limit > 0:
            raise ValueError(f"the limit of the spread of forces must be positive (eV/Å), got {limit}")
        self.spread, self.limit = spread, limit

    def __call__(self, state: MDState) -> Bool[Tensor, " n_molecules"]:
        """Tell which molecules are where the members disagree; a spread that is no number is a disagreement."""
        return ~(self.spread(state.batch) <= self.limit)
