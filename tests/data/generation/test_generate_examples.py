"""The files in examples/ that label molecules: an array of SLURM and a calculator from PySCF."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule as g2
from ase.units import Hartree

from basinet.data.generation.calculators import make_calculator
from basinet.data.generation.merge import merge
from basinet.data.store.store import MoleculeStore

EXAMPLES = Path(__file__).parents[3] / "examples"
ARRAY = EXAMPLES / "generate_array.sbatch"
PYSCF = f"{EXAMPLES / 'pyscf_calculator.py'}:density_functional"

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@needs_bash
def test_the_array_script_is_sound_bash():
    subprocess.run(["bash", "-n", ARRAY], check=True)


@needs_bash
def test_the_tasks_of_an_array_make_shards_that_merge(tmp_path):
    """As SLURM would run it, with a command ``basinet`` that is this checkout."""
    pytest.importorskip("rdkit")
    command = tmp_path / "bin" / "basinet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/bash\nexec {sys.executable} -m basinet "$@"\n')
    command.chmod(0o755)
    (tmp_path / "list.smi").write_text("O\nC\nN\n")
    path = os.pathsep.join([str(command.parent), os.environ["PATH"]])
    common = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    options = ["calculator=ase.calculators.lj:LennardJones", "frames_per_conformer=1", "max_relax_steps=500"]

    def task(number):
        environment = common | {
            "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_CPUS_PER_TASK": "1"
        }  # fmt: skip
        return subprocess.run(
            ["bash", ARRAY, "list.smi", "shards", *options],
            env=environment, cwd=tmp_path, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    for number in (1, 2):
        task(number)
    assert task(2) == "shard 2 is there\n"
    assert MoleculeStore.open(tmp_path / "shards" / "00002").manifest.settings["shard"] == "2/2"
    merged = merge(sorted((tmp_path / "shards").iterdir()), tmp_path / "merged")
    assert merged.manifest.settings["molecules"]["count"] == 3


def test_the_pyscf_example_gives_the_known_energy_of_water_and_forces_that_are_its_derivatives():
    pytest.importorskip("pyscf", reason="PySCF is not installed: pip install pyscf")
    water = g2("H2O")
    water.calc = make_calculator(PYSCF, options={"xc": "hf", "basis": "sto-3g"})
    assert abs(water.get_potential_energy() / Hartree - -74.963) < 2e-3  # Szabo and Ostlund: -74.963 Ha
    for xc in ("hf", "pbe"):
        water.calc = make_calculator(PYSCF, options={"xc": xc, "basis": "sto-3g", "conv_tol": 1e-11})
        forces, positions, step = water.get_forces(), water.get_positions(), 1e-3
        energies = []
        for sign in (1, -1):
            water.positions = positions
            water.positions[1, 2] += sign * step
            energies.append(water.get_potential_energy())
        water.positions = positions
        np.testing.assert_allclose(forces[1, 2], -(energies[0] - energies[1]) / (2 * step), atol=1e-3)


def test_the_pyscf_example_takes_the_charge():
    pytest.importorskip("pyscf", reason="PySCF is not installed: pip install pyscf")
    energies = []
    for charge in (0, 2):
        water = g2("H2O")
        water.calc = make_calculator(PYSCF, charge=charge, options={"xc": "hf", "basis": "sto-3g"})
        energies.append(water.get_potential_energy())
    assert energies[1] - energies[0] > 25
