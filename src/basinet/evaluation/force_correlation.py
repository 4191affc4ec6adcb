"""Correlate the forces that a model implies with reference forces, by the displacement of the molecule.

The noise that a denoiser predicts is the score of the noised molecules, and so a force up to a factor (Tweedie's
formula), which a correlation does not depend on. Frad (Feng et al., ICML 2023) compares kinds of noise by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

Rows = Float64[np.ndarray, "n_atoms 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationBin:
    """Implied against reference forces over the molecules of a range of displacements."""

    lower: float
    """Lower end of the range; NaN without molecules."""
    upper: float
    n_molecules: int
    n_atoms: int
    pearson: float
    """Correlation over all Cartesian components of all atoms, from -1 to 1; NaN if either side is constant."""
    cosine: float
    """Mean over atoms of the cosine between implied and reference force; atoms with zero reference force are skipped, a
    zero implied force counts as 0."""


class ForceCorrelation:
    """Collects a few sums of each molecule, and returns correlations over any range of displacements."""

    def __init__(self) -> None:
        self._displacements: list[float] = []
        self._sums: list[Float64[np.ndarray, " 9"]] = []

    def add(self, implied: Rows, reference: Rows, displacement: float) -> None:
        """Add one molecule.

        Args:
            implied: in any unit, the same for all molecules.
            reference: eV/Å.
            displacement: its place on the axis.

        Raises:
            ValueError: a number is not finite.
        """
        if not (np.isfinite(implied).all() and np.isfinite(reference).all() and math.isfinite(displacement)):
            raise ValueError("a force or displacement is not finite; expected finite numbers")
        x, y = implied.ravel(), reference.ravel()
        lengths = np.linalg.norm(reference, axis=1)
        directed = lengths > 0
        product = np.linalg.norm(implied[directed], axis=1) * lengths[directed]
        dot = (implied[directed] * reference[directed]).sum(axis=1)
        cosine = np.divide(dot, product, out=np.zeros_like(dot), where=product > 0)
        moments = [len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y]
        self._sums.append(np.array([*moments, cosine.sum(), directed.sum(), len(reference)], dtype=np.float64))
        self._displacements.append(displacement)

    def __len__(self) -> int:
        return len(self._displacements)

    @property
    def displacements(self) -> Float64[np.ndarray, " n_molecules"]:
        """Displacements of the molecules, in the order of addition."""
        return np.array(self._displacements, dtype=np.float64)

    def whole(self) -> CorrelationBin:
        """Return the correlation over all molecules."""
        return self._of(np.arange(len(self)))

    def bins(self, n_bins: int) -> list[CorrelationBin]:
        """Return the correlation over ranges of about equal numbers of molecules; fewer ranges where many coincide."""
        if n_bins < 1:
            raise ValueError(f"n_bins must be at least 1, got {n_bins}")
        if not len(self):
            return []
        place = self.displacements
        edges = np.unique(np.quantile(place, np.linspace(0, 1, n_bins + 1)))
        of_bin = np.searchsorted(edges[1:-1], place, side="right")
        return [self._of(np.flatnonzero(of_bin == b)) for b in np.unique(of_bin)]

    def _of(self, chosen: Int64[np.ndarray, " n_chosen"]) -> CorrelationBin:
        if not len(chosen):
            return CorrelationBin(
                lower=math.nan, upper=math.nan, n_molecules=0, n_atoms=0, pearson=math.nan, cosine=math.nan
            )
        n, x, y, xx, yy, xy, cosine, directed, atoms = np.sum([self._sums[i] for i in chosen], axis=0)
        spread = (xx - x * x / n) * (yy - y * y / n)
        place = self.displacements[chosen]
        return CorrelationBin(
            lower=float(place.min()),
            upper=float(place.max()),
            n_molecules=len(chosen),
            n_atoms=int(atoms),
            pearson=float((xy - x * y / n) / math.sqrt(spread)) if spread > 0 else math.nan,
            cosine=float(cosine / directed) if directed else math.nan,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationCurves:
    """Correlations of each force that a model implies, over the same molecules."""

    axis: str
    """Name of the displacement, with its unit."""
    n_left_out: int
    """Labelled frames of compounds without a minimum to measure from."""
    curves: dict[str, Sequence[CorrelationBin]]
    """Curves by the source of the force: ``energy`` (minus its gradient) or ``noise``."""
    whole: dict[str, CorrelationBin]
    """The same over all molecules."""
