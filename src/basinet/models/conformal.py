r"""Compute split-conformal intervals of predictions from molecules that were kept apart.

For :math:`n` calibration molecules with scores :math:`s_i = |y_i - \hat y_i| / u_i`, the interval of a new molecule
is :math:`\hat y \pm u\,s_{(k)}` with :math:`k = \lceil (n + 1)(1 - \alpha) \rceil`, the :math:`k`-th smallest score
(Vovk et al., 2005; Lei et al., J. Am. Stat. Assoc. 113, 1094, 2018). If the new molecule and those of the calibration
are exchangeable (drawn from one distribution, in any order), it holds the true value with a probability of at least
:math:`1 - \alpha`, on average over both. A molecule unlike them all has no such promise, and a calibration set of
other scaffolds than the new molecules has it only approximately. With fewer than :math:`1/\alpha - 1` molecules,
:math:`k > n`, and the interval is infinite.

=================  ====================================================================
:math:`u`          1 for one model; with an ensemble, the deviation of its members plus a floor
:math:`s_{(k)}`    :meth:`Calibration.quantile`
=================  ====================================================================
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = 0.05
"""Floor of the uncertainty of an ensemble, in units of the spread of the training labels: members that agree by chance
must not give an interval of no width. Fixed before calibration, so that the scores stay exchangeable."""
ROUNDING = 1e-9
"""Tolerance by which (n + 1)(1 - alpha) may exceed an integer."""


class Calibration(NamedTuple):
    """Scores of the molecules that a model was calibrated on."""

    scores: Float[Tensor, " n_calibration"]
    """Ascending, float64; in the unit of the property, or in units of the uncertainty of the ensemble."""
    floor: float | None
    """Added to the deviation of the members, in the unit of the property; ``None``: all intervals are equally wide."""

    def quantile(self, coverage: float) -> float:
        """Return the score that a new molecule exceeds with a probability of at most ``1 - coverage``; or infinity."""
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be between 0 and 1, got {coverage}")
        rank = math.ceil((len(self.scores) + 1) * coverage - ROUNDING)
        return math.inf if rank > len(self.scores) else float(self.scores[rank - 1])

    def radius(self, deviation: Float[Tensor, " n"] | None, n: int, coverage: float) -> Float[Tensor, " n"]:
        """Return half the width of the interval of each molecule."""
        return self.quantile(coverage) * uncertainty(deviation, self.floor, n)


def calibrate(
    values: Float[Tensor, " n"], labels: Float[Tensor, " n"], deviation: Float[Tensor, " n"] | None, spread: float
) -> Calibration:
    """Return the calibration of predictions against labels.

    Args:
        values: Predictions for molecules used neither for training nor for selecting the model.
        labels: Labels of the same molecules.
        deviation: Standard deviation of the members of an ensemble; ``None`` for one model.
        spread: Spread of the training labels, for the floor of the uncertainty of an ensemble.
    """
    floor = None if deviation is None else FLOOR * spread
    scores = (values.double() - labels.double()).abs() / uncertainty(deviation, floor, len(values))
    return Calibration(scores.sort().values, floor)


def smallest_calibration(coverage: float) -> int:
    """Return the number of molecules that a finite interval needs."""
    return math.ceil(coverage / (1 - coverage) - ROUNDING)


def uncertainty(deviation: Float[Tensor, " n"] | None, floor: float | None, n: int) -> Float[Tensor, " n"]:
    """Return the expected size of errors, up to the calibrated factor."""
    if (deviation is None) != (floor is None):
        raise ValueError("the intervals of an ensemble need the deviation of its members, and those of one model none")
    if deviation is None or floor is None:
        return torch.ones(n, dtype=torch.float64)
    return deviation.double() + floor
