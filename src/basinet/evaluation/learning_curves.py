"""Compare starts by their errors against the number of labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from scipy.stats import t as student_t

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class LearningCurves:
    """The error of every start, with every number of labels, for every seed.

    The seeds of different starts are pairs: same labels, same test set, same steps.
    """

    starts: Sequence[str]
    """Names; the others are compared with the first."""
    sizes: Sequence[int]
    """Numbers of labels, increasing."""
    errors: Float64[np.ndarray, "n_starts n_sizes n_seeds"]
    quantity: str
    """Quantity of the errors: force, energy, or a property."""
    unit: str

    def __post_init__(self) -> None:
        """Check shapes, signs and order."""
        shape = len(self.starts), len(self.sizes)
        if self.errors.shape[:2] != shape or not self.errors.shape[2]:
            raise ValueError(f"expected errors of {shape} starts and sizes, got {list(self.errors.shape)}")
        if not (np.isfinite(self.errors).all() and (self.errors > 0).all()):
            raise ValueError("errors must be positive and finite")
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must increase, got {list(self.sizes)}")

    @cached_property
    def means(self) -> Float64[np.ndarray, "n_starts n_sizes"]:
        """Means over seeds."""
        return self.errors.mean(2)

    @property
    def n_seeds(self) -> int:
        """Number of repetitions with different labels and initial weights."""
        return self.errors.shape[2]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


def interval(values: Float64[np.ndarray, " n"]) -> Interval:
    """Return the mean of independent values with the interval of Student's t; infinite for a single one."""
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(value=mean, low=-math.inf, high=math.inf)
    half = float(student_t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(value=mean, low=mean - half, high=mean + half)


def change(curves: LearningCurves, start: int, size: int) -> Interval:
    """Return the relative change of the error from the first start to another, a geometric mean over pairs of seeds.

    -0.2: an error lower by a fifth. The interval is that of the mean of log ratios. Pairs see the same labels, so the
    variation from the choice of labels cancels.
    """
    found = interval(np.log(curves.errors[start, size] / curves.errors[0, size]))
    return Interval(value=math.expm1(found.value), low=math.expm1(found.low), high=_expm1(found.high))


def verdict(found: Interval) -> str:
    """Return ``helps``, ``harms``, ``not shown`` (the interval holds zero), or ``one seed``."""
    if math.isinf(found.high):
        return "one seed"
    if found.high < 0:
        return "helps"
    return "harms" if found.low > 0 else "not shown"


def equivalent_labels(curves: LearningCurves, start: int, size: int) -> "Equivalent":
    """Return the number of labels with which the first start would have the mean error of another.

    The error of the first start is interpolated as a power of the number of labels. Beyond the measured sizes only a
    bound is returned.
    """
    # Where a curve is not monotonic, the smallest number of labels that reaches an error counts.
    reached = np.minimum.accumulate(curves.means[0])
    target = curves.means[start, size]
    sizes = np.array(curves.sizes, dtype=np.float64)
    if target > reached[0]:
        return Equivalent(labels=float(sizes[0]), bound="fewer")
    if target < reached[-1]:
        return Equivalent(labels=float(sizes[-1]), bound="more")
    after = int(np.argmax(reached <= target))
    if reached[after] == target or after == 0:
        return Equivalent(labels=float(sizes[after]), bound="")
    x, y = np.log(sizes[after - 1 : after + 1]), np.log(reached[after - 1 : after + 1])
    share = (y[0] - math.log(target)) / (y[0] - y[1])
    return Equivalent(labels=float(np.exp(x[0] + share * (x[1] - x[0]))), bound="")


@dataclass(frozen=True, kw_only=True)
class Equivalent:
    """Number of labels that an error is worth."""

    labels: float
    bound: str
    """``more`` or ``fewer`` than ``labels``, or empty."""

    def beyond(self, size: int) -> str:
        """Return the number of additional labels beyond ``size``, as text."""
        difference = round(self.labels - size)
        if self.bound == "fewer":
            return "fewer than measured"
        if self.bound == "more":
            return f"more than {difference} more" if difference > 0 else "more, beyond the measured sizes"
        return f"{difference} more" if difference >= 0 else f"{-difference} fewer"


def _expm1(value: float) -> float:
    return math.inf if math.isinf(value) else math.expm1(value)
