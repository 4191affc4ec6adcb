"""What one gets without a network: fingerprints with a forest or a ridge, and the mean label."""

import importlib.util
from collections.abc import Sequence

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
    """Return the predictions of baselines by name, nothing in them tuned to the test set.

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
