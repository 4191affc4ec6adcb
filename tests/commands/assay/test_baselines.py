"""Errors as drug discovery reports them, and the baselines beside them."""

import math

import numpy as np
import pytest
from scipy import stats

from basinet.commands.assay.baselines import baseline_predictions, ecfp4, regression_errors


def test_errors_equal_their_definitions_ties_included() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 9, 60).astype(np.float64)
    values = np.round(labels + generator.normal(size=60))
    found = regression_errors(values, labels)
    assert found.spearman == pytest.approx(stats.spearmanr(values, labels).statistic)
    assert found.rmse == pytest.approx(math.sqrt(np.mean((values - labels) ** 2)))
    assert found.r2 == pytest.approx(1 - np.var(values - labels) / np.var(labels), abs=0.05)
    assert found.mae == pytest.approx(np.abs(values - labels).mean())


def test_what_is_not_defined_is_nan_and_null_in_json() -> None:
    constant = regression_errors(np.ones(3), np.array([1.0, 2.0, 3.0]))
    assert math.isnan(constant.spearman) and constant.numbers()["spearman"] is None
    assert regression_errors(np.array([1.0]), np.array([2.0])).numbers()["r2"] is None
    assert regression_errors(np.zeros(0), np.zeros(0)).numbers() == {
        "n": 0, "mae": None, "rmse": None, "r2": None, "spearman": None,
    }  # fmt: skip


def test_the_mean_predictor_has_an_r2_of_zero_on_its_own_labels() -> None:
    labels = np.array([1.0, 4.0, 5.0])
    found = baseline_predictions(["C", "CC", "CCC"], labels, [])["mean of the labels"]
    assert len(found) == 0
    assert regression_errors(np.full(3, labels.mean()), labels).r2 == pytest.approx(0.0)


def test_fingerprints_know_the_compounds_they_were_fitted_to() -> None:
    pytest.importorskip("sklearn")
    smiles = [f"{'C' * k}O" for k in range(1, 30)]
    labels = np.arange(29, dtype=np.float64)
    found = baseline_predictions(smiles, labels, smiles)
    assert set(found) == {"mean of the labels", "ECFP4 + random forest", "ECFP4 + ridge"}
    mean = regression_errors(found["mean of the labels"], labels).mae
    assert all(regression_errors(found[name], labels).mae < mean for name in found if name.startswith("ECFP4"))
    assert np.array_equal(ecfp4(["OCC"]), ecfp4(["CCO"]))
