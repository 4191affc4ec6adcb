"""Errors against the number of labels, for several starts: what one start is worth beside another."""

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
    """Names; the first is what the others are compared with."""
    sizes: Sequence[int]
    """Labels, rising."""
    errors: Float64[np.ndarray, "n_starts n_sizes n_seeds"]
    quantity: str
    """What the errors are of: force, energy, or a property."""
    unit: str

    def __post_init__(self) -> None:
        """Refuse errors that do not fit, or are no errors."""
        shape = len(self.starts), len(self.sizes)
        if self.errors.shape[:2] != shape or not self.errors.shape[2]:
            raise ValueError(f"expected errors of {shape} starts and sizes, got {list(self.errors.shape)}")
        if not (np.isfinite(self.errors).all() and (self.errors > 0).all()):
            raise ValueError("errors must be positive and finite")
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must rise, got {list(self.sizes)}")

    @cached_property
    def means(self) -> Float64[np.ndarray, "n_starts n_sizes"]:
        """Over seeds."""
        return self.errors.mean(2)

    @property
    def n_seeds(self) -> int:
        """Repetitions with other labels and other fresh weights."""
        return self.errors.shape[2]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


def interval(values: Float64[np.ndarray, " n"]) -> Interval:
    """Return the mean of independent values with the interval of Student's t; without end for a single one."""
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(value=mean, low=-math.inf, high=math.inf)
    half = float(student_t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(value=mean, low=mean - half, high=mean + half)


def change(curves: LearningCurves, start: int, size: int) -> Interval:
    """Return the relative change of the error that a start makes, as a geometric mean over the pairs of seeds.

    -0.2 is an error lower by a fifth. The interval is that of the mean of log ratios: pairs see the same labels, so
    what the draw of labels does to both of them is not counted.
    """
    found = interval(np.log(curves.errors[start, size] / curves.errors[0, size]))
    return Interval(value=math.expm1(found.value), low=math.expm1(found.low), high=_expm1(found.high))


def verdict(found: Interval) -> str:
    """Say whether a change is shown: ``helps``, ``harms``, ``not shown``, or ``one seed``."""
    if math.isinf(found.high):
        return "one seed"
    if found.high < 0:
        return "helps"
    return "harms" if found.low > 0 else "not shown"


def equivalent_labels(curves: LearningCurves, start: int, size: int) -> "Equivalent":
    """Return the number of labels with which the first start would have the mean error of another.

    Between two sizes the error of the first start is a power of the number of labels. Beyond the sizes that were
    measured nothing is said but the bound.
    """
    # Of a curve that rises somewhere, the smallest number of labels counts that reaches an error.
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
    """How many labels an error is worth."""

    labels: float
    bound: str
    """``more`` or ``fewer`` than ``labels``, or empty."""

    def beyond(self, size: int) -> str:
        """Say how many labels more that is than those that were used."""
        difference = round(self.labels - size)
        if self.bound == "fewer":
            return "fewer than there were"
        if self.bound == "more":
            return f"more than {difference} more" if difference > 0 else "more, but how many was not measured"
        return f"{difference} more" if difference >= 0 else f"{-difference} fewer"


def _expm1(value: float) -> float:
    return math.inf if math.isinf(value) else math.expm1(value)
