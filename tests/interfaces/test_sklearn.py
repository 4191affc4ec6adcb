"""Networks as estimators of scikit-learn: rows do not depend on spelling, batch or cache, and failures are told."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs scikit-learn")
pytest.importorskip("rdkit", reason="needs RDKit")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import (
    check_estimator,
    check_estimator_repr,
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

from basinet.backbones.build import build_backbone
from basinet.data.chemistry.compounds import ConformerTask, conformers
from basinet.interfaces.sklearn import Embedder, FailedMoleculesWarning, Regressor
from basinet.models.checkpoint import load_ensemble, load_model, save_model
from basinet.models.model import build_model
from basinet.models.scope import Scope
from basinet.structures.batch import collate
from small_runs import TINY, training

OF_PARAMETERS = [
    check_estimator_repr,
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
]
ALCOHOLS = ["CO", "CCO", "CCCO", "OCCO", "CC(C)O"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = build_model(build_backbone(TINY), ["energy", "forces"])
    made.scope = Scope(frozenset({1, 6, 7, 8}), "", frozenset({0}), (3, 20))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(made, path, TINY)
    return path


def test_a_row_is_the_mean_over_conformers_of_what_the_model_embeds(model: Path) -> None:
    found = Embedder(model, n_conformers=3).fit_transform(ALCOHOLS)
    assert found.shape == (5, 8)
    assert found.dtype == np.float32
    network = load_model(model).model.eval()
    for row, smiles in zip(found, ALCOHOLS, strict=True):
        made = conformers(ConformerTask(smiles, 3, 0))
        assert not isinstance(made, str)
        wanted = network.embed(collate(made)).double().mean(0)
        assert np.abs(row - wanted.detach().numpy()).max() < 1e-6


def test_a_compound_has_one_row_however_it_is_written_and_whatever_is_beside_it(model: Path) -> None:
    embedder = Embedder(model).fit(ALCOHOLS)
    first = embedder.transform(["CCO", "OCC", "C(C)O", "CCCCO"])
    assert np.array_equal(first[0], first[1])
    assert np.array_equal(first[0], first[2])
    assert np.allclose(first[0], embedder.transform(["CCO"])[0], atol=1e-6)


def test_molecules_that_fail_are_nan_with_a_reason(model: Path) -> None:
    rows = ["CCO", "C(((", None, "CCCl", "[NH4+]", float("nan"), "CC.O", "C" * 9]
    with pytest.warns(FailedMoleculesWarning, match=r"7 of 8 molecules failed, the first of them in row 1 \('C\(\(\('"):
        embedder = Embedder(model).fit(rows)
        found = embedder.transform(rows)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()
    assert list(embedder.failures_) == [1, 2, 3, 4, 5, 6, 7]
    for row, words in {2: "no SMILES", 3: "elements Cl", 4: r"charge +1", 6: "more than one", 7: "29 atoms"}.items():
        assert words in embedder.failures_[row]
    assert np.isfinite(Embedder(model, outside_scope="warn").fit_transform(["CCCl"])).all()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("CCO", ValueError, "put it into a list"),
        (np.zeros((3, 2)), ValueError, r"got an array of \(3, 2\)"),
        ([1.5, 2.0], TypeError, r"expected SMILES, got float 1.5 in row 0"),
    ],
)
def test_what_is_no_smiles_is_refused(model: Path, given, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Embedder(model).fit(given)


def test_a_column_of_an_array_is_taken(model: Path) -> None:
    column = np.array(ALCOHOLS, dtype=object)[:, None]
    assert np.array_equal(Embedder(model).fit_transform(column), Embedder(model).fit_transform(ALCOHOLS))


def test_a_cache_saves_the_work_for_the_same_model_and_settings_only(model: Path, tmp_path: Path, monkeypatch) -> None:
    cache = tmp_path / "features.sqlite"
    rows = [*ALCOHOLS, "CCCl"]
    with pytest.warns(FailedMoleculesWarning):
        first = Embedder(model, cache=cache).fit_transform(rows)
    made: list[str] = []
    module = "basinet.interfaces.sklearn.embedder"

    def counting(compounds, *rest):
        made.extend(compounds)
        return iter(())

    monkeypatch.setattr(f"{module}.records_of", counting)
    with pytest.warns(FailedMoleculesWarning):
        again = Embedder(model, cache=cache).fit_transform(["OC", *rows[1:]])
    assert np.array_equal(first, again, equal_nan=True)
    assert made == []
    for changed in ({"n_conformers": 2}, {"pooling": "sum"}, {"seed": 1}, {"outside_scope": "warn"}):
        made.clear()
        with pytest.raises(KeyError):  # there are no records to put into the row
            Embedder(model, cache=cache, **changed).fit_transform(["CO"])
        assert made == ["CO"]


def test_a_file_that_is_no_cache_is_named(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(ValueError, match=r"notes.txt is not a cache of features .*; delete it"):
        Embedder(model, cache=path).fit_transform(["CO"])
    assert path.read_text().startswith("not a database")


def test_a_model_that_changed_since_fitting_is_noticed(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.read_bytes())
    embedder = Embedder(path).fit(ALCOHOLS)
    save_model(build_model(build_backbone(TINY), ["energy"]), path, TINY)
    with pytest.raises(ValueError, match="is another file than when this was fitted"):
        embedder.transform(["CO"])


def test_it_works_in_pipelines_clones_and_pickles(model: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(Embedder(model, cache=tmp_path / "c.sqlite"), Ridge(alpha=1e-6))
    weights = [32.0, 46.1, 60.1, 62.1, 60.1]
    pipeline.fit(ALCOHOLS, weights)
    again = pickle.loads(pickle.dumps(pipeline))
    assert np.array_equal(again.predict(ALCOHOLS), pipeline.predict(ALCOHOLS))
    assert np.isfinite(cross_val_score(clone(pipeline), ALCOHOLS, weights, cv=2, scoring="r2")).all()
    assert list(pipeline[:-1].get_feature_names_out())[:2] == ["basinet0", "basinet1"]


@pytest.mark.parametrize("of", [Embedder, Regressor])
def test_the_checks_of_scikit_learn_that_apply_to_text_pass(model: Path, of: type) -> None:
    estimator = of(model)
    with pytest.warns(UserWarning, match="Can't test estimator"):  # the others feed tables of numbers
        found = check_estimator(estimator)
    assert {one["status"] for one in found} == {"passed"}
    for check in OF_PARAMETERS:
        check(of.__name__, estimator)


def test_nothing_is_transformed_before_fitting(model: Path) -> None:
    with pytest.raises(NotFittedError):
        Embedder(model).transform(["CO"])
    with pytest.raises(NotFittedError):
        Regressor(model).predict(["CO"])


def chain(n: int) -> str:
    return "C" * n + "O"


def test_a_regressor_learns_predicts_and_is_saved(model: Path, tmp_path: Path) -> None:
    smiles = [chain(n) for n in range(1, 6)] * 2 + [chain(n)[::-1] for n in range(1, 6)] + ["nonsense"]
    numbers = [float(n) for n in range(1, 6)] * 3 + [0.0]
    regressor = Regressor(
        model,
        n_conformers=1,
        ensemble=2,
        validation_fraction=0.2,
        readout="sum",
        training=training(n_steps=6, validate_every=6),
    )
    with pytest.warns(FailedMoleculesWarning, match="1 of 16 molecules failed"):
        regressor.fit(smiles, numbers)
    assert list(regressor.failures_) == [15]
    predicted = pickle.loads(pickle.dumps(regressor)).predict(ALCOHOLS)
    assert np.isfinite(predicted).all()
    both = regressor.predict_with_std(ALCOHOLS)
    assert np.array_equal(both[:, 0], predicted)
    assert (both[:, 1] > 0).all()
    with pytest.raises(ValueError, match="calibration_fraction"):
        regressor.predict_interval(ALCOHOLS)
    with pytest.warns(FailedMoleculesWarning):
        assert np.isnan(regressor.predict(["", "CO"])).tolist() == [True, False]
    regressor.save(tmp_path / "saved.safetensors")
    assert len(load_ensemble(tmp_path / "saved.safetensors").members) == 2


def test_intervals_are_calibrated(model: Path) -> None:
    smiles = [head + "C" * n + tail for n in range(1, 5) for head in ("", "O", "N") for tail in ("", "O", "N")]
    smiles = sorted(set(smiles))
    regressor = Regressor(
        model, n_conformers=1, validation_fraction=0.2, calibration_fraction=0.4, training=training(n_steps=2)
    ).fit(smiles, np.arange(len(smiles), dtype=float))
    narrow, wide = regressor.predict_interval(["CCO"], 0.2)[0], regressor.predict_interval(["CCO"], 0.7)[0]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    with pytest.raises(ValueError, match="no spread"):
        regressor.predict_with_std(["CCO"])


@pytest.mark.parametrize(
    ("y", "words"), [([1.0], r"one number for each of 2 SMILES"), ([1.0, float("nan")], "not finite in row 1")]
)
def test_labels_that_do_not_fit_are_refused(model: Path, y: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Regressor(model).fit(["CO", "CCO"], y)
