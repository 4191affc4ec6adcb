"""What a trained model knows of its limits, and what the commands make of that."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from typer.testing import CliRunner

from basinet.cli import app
from basinet.commands.answer.embed import embed_file, index_path
from basinet.commands.answer.predict import predict_file, predict_table
from basinet.commands.info import describe_model
from basinet.commands.train.finetune import finetune
from basinet.models.checkpoint import load_model
from basinet.models.scope import OutsideScopeError
from molecules import ETHANOL, WATER, molecule
from small_runs import finetune_recipe, frames, make_xyz, training

HYDRONIUM = molecule([8, 1, 1, 1], [[0, 0, 0.1], [0.9, 0, 0], [-0.5, 0.8, 0], [-0.5, -0.8, 0]], charge=1, name="H3O+")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scope")
    data = make_xyz(directory / "data.xyz", frames(["H2O", "HCN", "H2CO", "NH3"]))
    return finetune(finetune_recipe(data, training=training(n_steps=2)), directory / "run").model


def test_a_run_records_elements_charges_and_sizes(model_file: Path) -> None:
    scope = load_model(model_file).model.scope
    assert (scope.elements, scope.charges, scope.sizes) == (frozenset({1, 6, 7, 8}), frozenset({0}), (3, 4))


def test_molecules_outside_are_refused_or_marked(tmp_path: Path, model_file: Path) -> None:
    data = make_xyz(tmp_path / "in.xyz", [WATER, HYDRONIUM, ETHANOL])
    with pytest.raises(OutsideScopeError, match=r"is outside .*: charge \+1, the model knows 0"):
        predict_file(model_file, data, tmp_path / "out.xyz")
    assert not (tmp_path / "out.xyz").exists()
    arguments = ["predict", str(model_file), str(data), str(tmp_path / "out.xyz"), "--outside-scope", "warn"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "2 of them are unlike those the model was trained on" in done.output.replace("\n", " ")
    marks = [atoms.info.get("outside_scope") for atoms in read(tmp_path / "out.xyz", ":")]
    assert marks == [None, "charge +1, the model knows 0", "9 atoms, the model knows 3 to 4"]


def test_the_card_of_a_model_says_all_this(tmp_path: Path, model_file: Path) -> None:
    file = Path(shutil.copy(model_file, tmp_path / "m.safetensors"))
    facts = describe_model(file)
    assert (facts["elements"], facts["charges"], facts["atoms"]) == ("H C N O", "0", "3 to 4")
    assert facts["offers"] == "energy, forces"
    assert facts["certificate"].startswith("none (basinet certify ")
    runner = CliRunner()
    assert runner.invoke(app, ["certify", str(file)]).exit_code in (0, 1)
    assert describe_model(file)["certificate"].startswith(("passed", "not passed"))
    shown = runner.invoke(app, ["info", str(file)])
    assert shown.exit_code == 0
    assert "H C N O" in shown.output


def test_a_table_says_in_what_a_row_is_outside(tmp_path: Path, model_file: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("smiles\nO\n[OH3+]\nCCO\nnonsense\n")
    refused = predict_table(model_file, table, tmp_path / "refused.csv")
    answered = predict_table(model_file, table, tmp_path / "out.csv", outside_scope="warn")
    assert (refused.n_failed, refused.n_outside) == (3, 0)
    assert (answered.n_failed, answered.n_outside) == (1, 2)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["ok", "outside", "outside", "failed"]
    assert "charge +1, the model knows 0" in rows[1]["reason"]
    assert [bool(row["energy_predicted"]) for row in rows] == [True, True, True, False]


def test_embeddings_of_molecules_outside_are_marked(tmp_path: Path, model_file: Path) -> None:
    data = make_xyz(tmp_path / "in.xyz", [WATER, ETHANOL])
    done = embed_file(model_file, data, tmp_path / "out.npy", outside_scope="warn")
    assert (done.n_failed, done.n_outside) == (0, 1)
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()
    rows = list(csv.DictReader(index_path(tmp_path / "out.npy").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["ok", "outside"]
