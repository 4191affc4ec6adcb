"""From a table of SMILES to a model with intervals, in one command; interrupted, small, and wrong tables."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from basinet.cli import app
from basinet.commands.assay.finetune import AssayResult, finetune_assay, label_of
from basinet.commands.assay.recipe import AssayRecipe
from basinet.commands.recipe import load_recipe
from basinet.models.checkpoint import load_ensemble
from small_runs import ON_CPU, TINY, differences, training

ALCOHOLS = [f"{'C' * a}{tail}" for a in range(1, 9) for tail in ("O", "N", "C=O", "C#N", "OC", "Cc1ccccc1", "C1CC1")]


LEARNING = training(n_steps=120, batch_size=8, validate_every=40, save_every=60)


def write_table(path: Path, smiles: list[str], extra: str = "") -> Path:
    """Write a table of a number that grows with the molecule."""
    lines = [f"{i},{s},{len(s) + s.count('O') * 3}" for i, s in enumerate(smiles)]
    path.write_text("id,Smiles,p IC50\n" + "\n".join(lines) + "\n" + extra)
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def recipe(data: Path, **changes: Any) -> AssayRecipe:
    given = {"target": "p IC50", "split": "random", "model": TINY, "training": training(n_steps=4, batch_size=8)}
    given |= {"launch": ON_CPU, "conformers": 2, "processes": 1, "baselines": False}
    return AssayRecipe(data=data, **given | changes)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("assay")


@pytest.fixture(scope="module")
def data(directory: Path) -> Path:
    return write_table(directory / "assay.csv", ALCOHOLS, "90,OC,70\n91,C1C,3\n92,CCC,\n93,C*,4\n")


@pytest.fixture(scope="module")
def done(data: Path, directory: Path) -> tuple[AssayResult, list[str]]:
    said: list[str] = []
    wanted = recipe(data, ensemble=2, coverage=0.5, baselines=True, training=LEARNING)
    return finetune_assay(wanted, directory / "run", say=said.append), said


def test_every_row_and_rule_is_reported(done: Any, directory: Path) -> None:
    said = "\n".join(done[1])
    assert "60 rows, " in said and "1 (no p IC50)" in said and "1 (SMILES: does not parse)" in said
    assert "compounds have several rows; the labels of" in said and "their median is taken" in said
    assert "1 compounds have no conformer: 1 (atom without an element)" in said
    rows = read_table(directory / "run" / "rows.csv")
    assert len(rows) == 60 and rows[-1]["reason"] == "conformers: atom without an element"
    by_compound: dict[str, set[str]] = {}
    for row in rows:
        if row["status"] == "used":
            by_compound.setdefault(row["compound"], set()).add(row["part"])
    assert all(len(parts) == 1 for parts in by_compound.values())


def test_it_learns_and_says_what_others_get(done: Any, directory: Path) -> None:
    result, said = done
    assert list(result.test) == ["basinet", "mean of the labels", "ECFP4 + random forest", "ECFP4 + ridge"]
    record = json.loads((directory / "run" / "results.json").read_text())
    assert record["test"]["basinet"]["mae"] == result.test["basinet"].mae
    assert result.test["basinet"].mae < result.test["mean of the labels"].mae
    assert any("intervals of 50% hold" in line and "drawn alike" in line for line in said)


def test_predictions_of_the_test_part_are_those_of_the_table(done: Any, directory: Path) -> None:
    rows = read_table(directory / "run" / "predictions.csv")
    errors = [abs(float(r["predicted"]) - float(r["p IC50"])) for r in rows]
    assert np.mean(errors) == pytest.approx(done[0].test["basinet"].mae)
    inside = [float(r["lower"]) <= float(r["p IC50"]) <= float(r["upper"]) for r in rows]
    assert np.mean(inside) == done[0].coverage


def test_the_model_holds_its_members_and_intervals(done: Any) -> None:
    file = load_ensemble(done[0].model)
    assert len(file.members) == 2
    assert differences(file.members[0].state_dict(), file.members[1].state_dict())
    assert len(file.calibration["p_IC50"].scores) >= 4 and file.calibration["p_IC50"].floor is not None
    assert file.metadata["assay"]["target"] == "p IC50"


def test_an_interrupted_run_goes_on_to_the_same_model(data: Path, directory: Path) -> None:
    wanted = recipe(data, ensemble=2, training=training(n_steps=6, batch_size=8))

    class GoneError(Exception):
        pass

    def stop_in_second(number: int) -> Any:
        def watch(progress: Any) -> None:
            if number == 1 and progress.step == 4:
                raise GoneError

        return watch

    whole = finetune_assay(wanted, directory / "whole")
    with pytest.raises(GoneError):
        finetune_assay(wanted, directory / "cut", on_member=stop_in_second)
    seen: list[int] = []
    cut = finetune_assay(wanted, directory / "cut", resume=True, on_member=lambda n: lambda p: seen.append(p.step))
    assert seen[0] > 1, "the second member goes on, the first is not trained again"
    for a, b in zip(load_ensemble(whole.model).members, load_ensemble(cut.model).members, strict=True):
        assert not differences(a.state_dict(), b.state_dict())
    assert whole.test == cut.test


def test_a_table_that_changed_is_not_gone_on_with(directory: Path) -> None:
    path = write_table(directory / "changing.csv", ALCOHOLS)
    finetune_assay(recipe(path), directory / "changing")
    write_table(path, ALCOHOLS[1:])
    with pytest.raises(ValueError, match="made from another table"):
        finetune_assay(recipe(path), directory / "changing", resume=True)


def test_fifty_rows_work_and_too_few_calibration_compounds_are_said(directory: Path) -> None:
    said: list[str] = []
    path = write_table(directory / "fifty.csv", ALCOHOLS[:50])
    result = finetune_assay(recipe(path), directory / "fifty", say=said.append)
    assert result.coverage is None
    assert any("infinite: " in line and "90% needs 9" in line for line in said)
    none = finetune_assay(recipe(path, calibration_fraction=0.0, test_fraction=0.0), directory / "all")
    assert not none.test and not load_ensemble(none.model).calibration
    assert "no calibration part" in none.lines[0]


def test_a_scaffold_split_keeps_scaffolds_apart(directory: Path) -> None:
    counts = {"c1ccccc1": 14, "C1CC1": 2, "C1CCC1": 2, "c1ccncc1": 2}
    ringed = [f"{'C' * k}{ring}" for ring, n in counts.items() for k in range(1, n + 1)]
    path = write_table(directory / "rings.csv", ringed)
    finetune_assay(recipe(path, split="scaffold"), directory / "rings")
    rows = read_table(directory / "rings" / "rows.csv")
    assert {r["part"] for r in rows[:14]} == {"train"}
    assert "train" not in {r["part"] for r in rows[14:]}
    one = write_table(directory / "one.csv", [f"{'C' * k}c1ccccc1" for k in range(1, 20)])
    with pytest.raises(ValueError, match="scaffolds are too few or too unequal: use split=random"):
        finetune_assay(recipe(one, split="scaffold"), directory / "one")


def test_a_model_starts_from_another_and_refuses_elements_it_does_not_know(done: Any, directory: Path) -> None:
    start = str(done[0].model)
    path = write_table(directory / "more.csv", [*ALCOHOLS[:30], "CS", "CCS"])
    with pytest.raises(ValueError, match=r"does not know some elements of 2 of \d+ compounds \(S in 2\).*=drop"):
        finetune_assay(recipe(path, start=start), directory / "strange")
    said: list[str] = []
    kept = recipe(path, start=start, unknown_elements="drop")
    finetune_assay(kept, directory / "dropped", say=said.append)
    assert any("2 (the model does not know S)" in line for line in said)
    with pytest.raises(FileNotFoundError, match="no model file"):
        finetune_assay(recipe(path, start="nowhere"), directory / "nowhere")
    assert not (directory / "nowhere").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "time"}, "needs the column of dates"),
        ({"time": "when"}, "is for split=time"),
        ({"test_fraction": 0.9}, "leave nothing to train on"),
        ({"ensemble": 0}, "ensemble must be at least 1"),
        ({"coverage": 1.0}, "coverage must be less than 1"),
        ({"validation_fraction": 0.0}, "validation_fraction must be positive"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(Path("a.csv"), **changes)


@pytest.mark.parametrize(
    ("target", "label"),
    [("pIC50", "pIC50"), ("IC50 (nM)", "IC50_nM"), ("energy", "target_energy"), ("3D", "target_3D"), ("%", "target")],
)
def test_any_column_gives_a_name(target: str, label: str) -> None:
    assert label_of(target) == label


def test_the_command_does_the_same(data: Path, directory: Path) -> None:
    small = ["model.n_features=8", "model.n_layers=1", "model.n_heads=2", "training.n_steps=2", "conformers=1"]
    small += ["launch.accelerator=cpu", "processes=1", "split=random", "smiles=Smiles", "target=p IC50"]
    ran = CliRunner().invoke(app, ["finetune", str(data), *small, "--out", str(directory / "typed")])
    assert ran.exit_code == 0, ran.output
    assert "ECFP4 + ridge" in ran.stdout and "test compounds" in ran.stdout
    wrong = CliRunner().invoke(app, ["finetune", str(data), "target=pIC50", "--out", str(directory / "wrong")])
    assert "the columns are: id, Smiles, p IC50" in str(wrong.exception)
    helped = CliRunner().invoke(app, ["finetune", "--help-all"])
    assert "OPTIONS FOR A TABLE OF SMILES" in helped.stdout


def test_a_recipe_file_may_hold_all_of_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("target: p IC50\nensemble: 3\n")
    found = load_recipe(AssayRecipe, tmp_path / "r.yaml", ["split=random"], data=str(data))
    assert found.ensemble == 3 and math.isclose(sum(found.fractions), 1)
