"""Models are evaluated, used and fine-tuned on a file of any format, with the same numbers."""

import ase.io
import pytest

from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.answer.predict import predict_file
from basinet.commands.build import BuildRecipe, build
from basinet.commands.recipe import UnitsConfig
from basinet.commands.train.finetune import finetune
from basinet.data.chemistry.perception import Perceiver
from basinet.data.readers import load_store
from basinet.models.checkpoint import save_model
from data_files import LABELLED, conformations, write_file
from small_runs import TINY, finetune_recipe, tiny_model, training


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(tiny_model(), path, TINY)
    return path


@pytest.mark.parametrize("kind", LABELLED)
def test_every_format_is_evaluated_and_predicted_alike(kind, model, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    xyz, _ = write_file(tmp_path / "a", "extxyz", conformations())
    path, options = write_file(tmp_path / "b", kind, conformations())
    units = UnitsConfig(**options)
    expected, _ = evaluate_file(model, xyz, UnitsConfig())
    found, _ = evaluate_file(model, path, units)
    assert found.force_mae == pytest.approx(expected.force_mae, rel=1e-5)
    done = (
        predict_file(model, xyz, tmp_path / "a.xyz"),
        predict_file(model, path, tmp_path / "b.xyz", reading=units.reading()),
    )
    assert done[0].n_records == done[1].n_records
    energies = [[a.get_potential_energy() for a in ase.io.read(tmp_path / f, ":")] for f in ("a.xyz", "b.xyz")]
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)


@pytest.mark.parametrize("kind", ["lmdb", "parquet", "ani1", "padded-npz"])
def test_a_model_is_fine_tuned_on_a_file_as_it_is(kind, model, tmp_path):
    path, options = write_file(tmp_path, kind, conformations(12))
    recipe = finetune_recipe(path, start=str(model), units=UnitsConfig(**options), training=training(n_steps=2))
    assert finetune(recipe, tmp_path / "run").model.exists()


def test_bonds_that_a_build_finds_are_in_the_store_and_in_what_it_says(tmp_path):
    path, _ = write_file(tmp_path, "extxyz", conformations())
    built = build(BuildRecipe(data=(path,), perceive_bonds=True), tmp_path / "store")
    assert built.store.bond_counts == {"bonds": 6, "bond_orders": 6}
    assert "bonds: 6 of 6 perceived from coordinates" in str(built.reports[0])
    graph = Perceiver()(load_store(path)[0][0])
    assert graph is not None
    assert built.store[3].bonds is not None
    assert built.store[3].bonds.tolist() == graph.bonds.tolist()


def test_conformers_are_the_same_whatever_the_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("basinet.data.files.smiles_table.FEW", 3)
    monkeypatch.setattr("basinet.data.files.smiles_table.ROWS_AT_ONCE", 2)
    smiles = ["CCO", "C1", "CC", "N", "CO", "", "C=O", "CCC", "O"]
    (tmp_path / "t.csv").write_text("smiles\n" + "".join(f'"{one}"\n' for one in smiles))
    stores = [build(BuildRecipe(data=(tmp_path / "t.csv",), processes=n), tmp_path / f"store-{n}") for n in (1, 2)]
    assert stores[0].store.fingerprint == stores[1].store.fingerprint
    assert len(stores[0].store) == 7
    lists = [(tmp_path / f"store-{n}" / "skipped.csv").read_text() for n in (1, 2)]
    assert lists[0] == lists[1]
    assert "t.csv:1,skipped,SMILES: does not parse" in lists[0]


def test_a_number_of_processes_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        BuildRecipe(data=(tmp_path,), processes=0)
