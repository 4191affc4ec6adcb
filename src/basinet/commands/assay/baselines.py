"""Predict without a network (fingerprints with a forest or a ridge, the mean label), and measure errors alike."""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64, UInt8

from basinet.data.chemistry.conformers import parse_smiles

ECFP_RADIUS = 2
ECFP_BITS = 2048
N_TREES = 300


def ecfp4(smiles: Sequence[str]) -> UInt8[np.ndarray, "n 2048"]:
    """Return extended-connectivity fingerprints of diameter 4 (Rogers and Hahn, J. Chem. Inf. Model. 50, 742, 2010)."""
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=ECFP_RADIUS, fpSize=ECFP_BITS)
    return np.stack([generator.GetFingerprintAsNumPy(parse_smiles(entry)) for entry in smiles])


def baseline_predictions(
    train: Sequence[str], labels: Float64[np.ndarray, " n_train"], test: Sequence[str]
) -> dict[str, Float64[np.ndarray, " n_test"]]:
    """Return the predictions of baselines by name; nothing is tuned to the test set.

    The mean label; where scikit-learn is installed, ECFP4 with a random forest and with a ridge, whose strength is
    chosen by leave-one-out on the training labels.
    """
    found: dict[str, np.ndarray] = {"mean of the labels": np.full(len(test), labels.mean())}
    if importlib.util.find_spec("sklearn") is None or len(test) == 0:
        return found
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import RidgeCV

    x, wanted = ecfp4(train).astype(np.float64), ecfp4(test).astype(np.float64)
    models = {
        "ECFP4 + random forest": RandomForestRegressor(N_TREES, random_state=0),
        "ECFP4 + ridge": RidgeCV(np.logspace(-1, 3, 9)),
    }
    for name, model in models.items():
        model.fit(x, labels)
        found[name] = np.asarray(model.predict(wanted), dtype=np.float64)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionErrors:
    """Errors of predictions against labels."""

    n: int
    mae: float
    rmse: float
    r2: float
    """1 - sum of squared errors / sum of squares about the mean of these labels; NaN if all labels are equal."""
    spearman: float
    """Rank correlation, ties sharing their mean rank; NaN if all labels or all predictions are equal."""

    def numbers(self) -> dict[str, float | int | None]:
        """Return all numbers for JSON; NaN becomes ``None``."""
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
