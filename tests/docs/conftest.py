"""What the pages take for granted: a pre-trained model, a fine-tuned one, molecules and tables."""

import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule as g2

from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.objectives.methods import ForceAndDenoiseConfig
from small_runs import finetune_recipe, frames, make_store, make_xyz, pretrain_recipe, training, without_labels

ROOT = Path(__file__).parents[2]
RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1", "c1ccccc1", "c1ccoc1", "c1ccc[nH]1", "c1ccncc1", "C1CCOC1", "C1CNC1"]
SMILES = [head + ring for ring in RINGS for head in ("", "C", "CC", "O", "N")]


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the files that the commands of the pages name."""
    place = tmp_path_factory.mktemp("given")
    make_store(place / "molecules", frames())
    make_xyz(place / "mols.extxyz", frames(["CH3OH", "H2CO"], per_compound=20))
    recipe = pretrain_recipe(place / "molecules", objective=ForceAndDenoiseConfig(), training=training(n_steps=30))
    model = pretrain(recipe, place / "pretrained").model
    finetune(finetune_recipe(place / "mols.extxyz", start=str(model), training=training(n_steps=4)), place / "tuned")
    make_xyz(place / "test.extxyz", frames(["CH3OH"], per_compound=5))
    make_xyz(place / "new.extxyz", [without_labels(m, "energy", "forces") for m in frames(["CH3OH"], per_compound=3)])
    ase.io.write(place / "start.xyz", g2("CH3OH"))
    numbers = np.random.default_rng(0).normal(size=len(SMILES))
    rows = [f"{smiles},{number:.3f}" for smiles, number in zip(SMILES, numbers, strict=True)]
    (place / "homo500.csv").write_text("\n".join(["smiles,homo_eV", *rows]) + "\n")
    (place / "new.csv").write_text("name,smiles\nbutanol,CCCCO\nbroken,C(((\n")
    (place / "list.smi").write_text("CO\nC=O\n")
    for example in ("my_noise.py", "my_net.py"):
        shutil.copy(ROOT / "examples" / example, place)
    return place
