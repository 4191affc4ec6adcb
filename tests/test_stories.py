"""A first day with basinet: the commands of the pages, as typed there, on small data and with few steps."""

import csv
import re
import shlex
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as g2

from basinet.commands import pretrain
from basinet.objectives.config import ForceAndDenoiseConfig
from small_runs import frames, make_store, make_xyz, pretrain_recipe, training, without_labels
from typed import basinet

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FEW_STEPS = ["training.n_steps=4", "training.validate_every=2", "training.save_every=2"]
SMALL = {
    "pretrain": [*FEW_STEPS, "launch.accelerator=cpu", "validation_fraction=0.2"],
    "finetune": [*FEW_STEPS, "launch.accelerator=cpu"],
    "compare": [*FEW_STEPS, "sizes=4,8", "seeds=2"],
    "simulate": ["--picoseconds", "0.02", "--replicas", "2"],
}
"""What is appended to a command so that it takes seconds."""
MAY_FAIL = {"certify": (0, 1), "simulate": (0, 1)}
"""Exit codes of commands that judge: a network of four steps need not be stable."""
RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1", "c1ccccc1", "c1ccoc1", "c1ccc[nH]1", "c1ccncc1", "C1CCOC1", "C1CNC1"]
SMILES = [head + ring for ring in RINGS for head in ("", "C", "CC", "O", "N")]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Return a directory with what the pages take for granted: a model, molecules, tables."""
    place = tmp_path_factory.mktemp("given")
    make_store(place / "molecules", frames())
    made = pretrain(
        pretrain_recipe(place / "molecules", objective=ForceAndDenoiseConfig(), training=training(n_steps=30)),
        place / "pretrained-run",
    )
    (place / "pre").mkdir()
    for name in ("pretrained.safetensors", "pre/model.safetensors", "ethanol.safetensors", "model.safetensors"):
        shutil.copy(made.model, place / name)
    make_xyz(place / "mols.extxyz", frames(["CH3OH", "H2CO"], per_compound=20))
    make_xyz(place / "new.extxyz", [without_labels(m, "energy", "forces") for m in frames(["CH3OH"], per_compound=3)])
    for name in ("start.xyz", "ethanol.xyz"):
        ase.io.write(place / name, g2("CH3OH"))
    numbers = np.random.default_rng(0).normal(size=len(SMILES))
    rows = [f"{smiles},{number:.3f}" for smiles, number in zip(SMILES, numbers, strict=True)]
    (place / "homo500.csv").write_text("\n".join(["smiles,homo_eV", *rows]) + "\n")
    (place / "new.csv").write_text("name,smiles\nbutanol,CCCCO\nbroken,C(((\n")
    shutil.copy(ROOT / "examples" / "my_noise.py", place)
    return place


@pytest.fixture
def day(given, tmp_path):
    """Return a fresh copy of that directory."""
    return shutil.copytree(given, tmp_path / "day")


def commands_of(page):
    """Return the basinet commands in the shell blocks of a page, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("basinet ")]


def run_page(page, place, monkeypatch):
    monkeypatch.chdir(place)
    said = {}
    commands = commands_of(page)
    assert commands, f"{page} has no commands"
    for command in commands:
        done = basinet(*command, *SMALL.get(command[0], []))
        allowed = MAY_FAIL.get(command[0], (0,))
        assert done.returncode in allowed, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        said[command[0]] = done.stdout
    return said


def test_a_chemist_with_labelled_conformations(day, monkeypatch):
    said = run_page("own-data.md", day, monkeypatch)
    assert "reference energies re-fitted" in said["finetune"]
    assert "the data determines" in said["finetune"] or "re-fitted:" in said["finetune"]
    predicted = ase.io.read(day / "predicted.extxyz", ":")
    assert len(predicted) == 3
    assert all(isinstance(atoms, Atoms) and np.isfinite(atoms.get_forces()).all() for atoms in predicted)
    assert "test errors" in said["compare"]
    assert (day / "compared" / "report.html").exists()
    assert (day / "check.html").exists()


def test_a_researcher_with_a_new_objective(day, monkeypatch):
    said = run_page("new-objective.md", day, monkeypatch)
    assert "loss: 1 denoising" in said["pretrain"]
    assert "mine" in said["compare"]


def test_a_scientist_with_a_table_of_smiles(day, monkeypatch):
    said = run_page("properties-from-csv.md", day, monkeypatch)
    assert "scaffold split of compounds" in said["finetune"]
    rows = list(csv.DictReader((day / "predicted.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert float(rows[0]["homo_eV_lower"]) < float(rows[0]["homo_eV_predicted"]) < float(rows[0]["homo_eV_upper"])
    embedded = np.load(day / "new.npy")
    assert np.isfinite(embedded[0]).all()
    assert np.isnan(embedded[1]).all()


def test_someone_who_asks_for_guarantees(day, monkeypatch):
    said = run_page("trust.md", day, monkeypatch)
    assert "passed, 2 not measured; card" in said["certify"]
    assert "3 members" in said["info"]
    assert "forces of members apart" in said["simulate"]
    assert (day / "md" / "report.html").exists()


def test_the_example_on_the_page_is_the_example_in_the_file():
    (shown,) = re.findall(r"```python\n(.*?)```", (DOCS / "new-objective.md").read_text(), re.DOTALL)
    assert shown.strip() in (ROOT / "examples" / "my_noise.py").read_text()
