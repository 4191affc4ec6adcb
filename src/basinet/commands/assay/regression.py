"""Errors of predicted numbers as drug discovery reports them."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionErrors:
    """Of predictions against labels."""

    n: int
    mae: float
    rmse: float
    r2: float
    """1 - sum of squared errors / sum of squares about the mean of these labels; NaN if all labels are equal."""
    spearman: float
    """Rank correlation, ties sharing their mean rank; NaN if all labels or all predictions are equal."""

    def numbers(self) -> dict[str, float | int | None]:
        """Return everything for JSON: what is not defined is ``None``."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def regression_errors(values: Float64[np.ndarray, " n"], labels: Float64[np.ndarray, " n"]) -> RegressionErrors:
    """Return the errors of predictions; NaN for no molecules."""
    if len(labels) == 0:
        return RegressionErrors(n=0, mae=math.nan, rmse=math.nan, r2=math.nan, spearman=math.nan)
    error = values - labels
    about_mean = float(np.square(labels - labels.mean()).sum())
    return RegressionErrors(
        n=len(labels),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt(np.square(error).mean())),
        r2=1 - float(np.square(error).sum()) / about_mean if about_mean > 0 else math.nan,
        spearman=_correlation(_ranks(values), _ranks(labels)),
    )


def _ranks(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place].astype(np.float64)


def _correlation(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / size if size > 0 else math.nan
