"""What can go wrong with a generation of many molecules: deaths, full disks, bad molecules, bad calculators."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import active_children

import numpy as np
import pytest

from basinet.data.generation.configurations import GenerateConfig
from basinet.data.generation.generate import generate
from basinet.data.generation.parts import only_writer
from basinet.data.store.store import MoleculeStore
from basinet.errors import RunError
from molecules import packaged_smiles

pytest.importorskip("rdkit")

TOY = '''
import os, signal
from ase.calculators.calculator import Calculator

class Tethered(Calculator):
    """A spring from every atom to where it was first."""
    implemented_properties = ["energy", "forces"]
    def __init__(self, charge=0, stiffness=100.0, dies_of=None, knows=None, refuses_charge=False):
        super().__init__()
        if refuses_charge and charge:
            raise KeyError("charge")
        self.first, self.charge, self.stiffness, self.dies_of, self.knows = None, charge, stiffness, dies_of, knows
    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        if self.dies_of in self.atoms.symbols:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.knows and not set(self.atoms.symbols) <= set(self.knows):
            raise RuntimeError("no parameters for\\nthis element")
        if self.first is None:
            self.first = self.atoms.positions.copy()
        move = self.atoms.positions - self.first
        energy = 0.5 * self.stiffness * (move**2).sum() + 100.0 * self.charge
        self.results = {"energy": float(energy), "forces": -self.stiffness * move}

def make(charge=0, **options):
    return Tethered(charge, **options)
'''


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A directory to work in, with a calculator of one's own."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(work, smiles, *options, **changes):
    (work / "list.smi").write_text(smiles.replace(" ", "\n"))
    settings = dict(smiles_file=work / "list.smi", calculator="toy.py:make", processes=1, molecules_per_chunk=4)
    return GenerateConfig(**settings | changes, calculator_options=options)


def listed(store):
    with open(store / "skipped.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def basinet(work, *arguments, **changes):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "basinet", "data", "generate", *map(str, arguments)],
        env=environment, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **changes,
    )  # fmt: skip


def test_a_calculator_in_a_file_labels_molecules_and_is_known_by_its_content(work):
    store = generate(config_of(work, "O CO", "stiffness=200.0"), work / "out")
    assert store.manifest.level_of_theory == "toy.py:make(stiffness=200.0)"
    assert store.manifest.settings["calculator"] == "toy.py:make"
    assert store.manifest.settings["made_with"][0].startswith("toy.py sha256:")
    assert len(store) == 2 * 9


def test_a_calculator_that_was_changed_does_not_go_on_with_a_store(work):
    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(config_of(work, "O CO"), work / "out", interrupt)
    (work / "toy.py").write_text(TOY + "\n# better\n")
    with pytest.raises(ValueError, match="made_with was"):
        generate(config_of(work, "O CO"), work / "out")


def test_the_level_of_theory_can_be_named(work):
    store = generate(config_of(work, "O", level_of_theory="springs"), work / "out")
    assert store.manifest.level_of_theory == "springs"


def test_the_charge_of_the_smiles_reaches_the_calculator_and_the_store(work):
    smiles = ["O", "[NH4+]", "CC(=O)[O-]", "[NH3+]CC(=O)[O-]", "[Zn+2]"]
    store = generate(config_of(work, " ".join(smiles)), work / "out")
    minima = [m for m in store if m.is_equilibrium]
    assert [m.charge for m in minima] == [0, 1, -1, 0, 2]
    assert [round(m.labels["energy"] / 100.0) for m in minima] == [0, 1, -1, 0, 2]


def test_what_cannot_be_treated_is_counted_and_listed(work):
    smiles = "O nonsense [Na+].[Cl-] [CH3] [Cu+2] Cl[Fe](Cl)Cl [Xe] *C N [O][O] C1CC"
    store = generate(config_of(work, smiles), work / "out")
    assert {m.smiles for m in store} == {"O", "[Xe]", "N"}
    assert store.manifest.skipped == {
        "atom without an element": 1, "does not parse": 2, "more than one molecule": 1, "odd number of electrons": 1,
        "unpaired electrons": 3,
    }  # fmt: skip
    assert Counter(row["reason"] for row in listed(work / "out")) == Counter(store.manifest.skipped)
    assert [row["place"] for row in listed(work / "out")] == ["1", "2", "3", "4", "5", "7", "9", "10"]


def test_an_error_of_a_calculator_loses_a_molecule_with_what_it_said_and_not_the_run(work):
    store = generate(config_of(work, "O F CO", "knows=HCO"), work / "out")
    assert {m.smiles for m in store} == {"O", "CO"}
    assert store.manifest.skipped == {"conformer: calculation failed": 1, "no conformer is left": 1}
    assert listed(work / "out")[0]["detail"] == "RuntimeError: no parameters for this element"


def test_a_calculator_that_cannot_be_made_for_a_charge_loses_that_molecule(work):
    store = generate(config_of(work, "O [NH4+] CO", "refuses_charge=True"), work / "out")
    assert store.manifest.skipped == {"calculator cannot be made": 1}
    assert listed(work / "out")[0]["detail"] == "KeyError: 'charge'"


def test_a_calculator_that_never_works_is_an_error_at_once(work):
    config = config_of(work, "O CO CC C=O N C", "knows=X", molecules_per_chunk=8)
    with pytest.raises(
        RunError, match=r"toy.py:make failed for each of the first 4 molecules \(RuntimeError: no param"
    ):
        generate(config, work / "out")


def test_a_molecule_that_kills_its_process_is_given_up_and_the_run_goes_on(work):
    store = generate(config_of(work, "O F CO N CF C", "dies_of=F", processes=2), work / "out")
    assert {m.smiles for m in store} == {"O", "CO", "N", "C"}
    assert store.manifest.skipped == {"the process died, twice": 2}
    assert [(row["smiles"], row["lost"]) for row in listed(work / "out")] == [("F", "molecule"), ("CF", "molecule")]


def test_a_worker_killed_from_outside_loses_nothing(work):
    config = config_of(work, "O CO CC C=O N C", processes=2, frames_per_conformer=3)
    expected = generate(config, work / "expected").fingerprint

    def kill(progress):
        if progress.done == 2:
            os.kill(active_children()[0].pid, signal.SIGKILL)

    store = generate(config, work / "out", kill)
    assert (store.fingerprint, store.manifest.skipped) == (expected, {})


def test_a_killed_program_loses_at_most_a_chunk_and_its_list_goes_on(work):
    options = ["smiles_file=list.smi", "calculator=toy.py:make", "processes=1", "molecules_per_chunk=4"]
    config = config_of(work, " ".join(["O nope CO CC C=O nope2 C", *packaged_smiles()[:60]]))
    with basinet(work, "out", *options) as process:
        deadline = time.monotonic() + 60
        while not list((work / "out").glob("shard-0000[3-9]")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    n_shards = len(list((work / "out").glob("shard-*")))
    assert n_shards >= 4
    with open(work / "out" / "skipped.csv", "a", encoding="utf-8") as file:
        file.write("66,CCC,molecule,1,of a block that was never written,\n7")  # as a kill in the middle leaves it
    seen = []
    store = generate(config, work / "out", seen.append)
    assert seen[0].done >= 2 * (n_shards - 1) + 1
    assert store.fingerprint == generate(config, work / "whole").fingerprint
    assert (work / "out" / "skipped.csv").read_text() == (work / "whole" / "skipped.csv").read_text()


def test_two_processes_cannot_make_one_store(work):
    config = config_of(work, "O CO")
    with only_writer(work / "out"), pytest.raises(RunError, match="out is being written by another process; wait"):
        generate(config, work / "out")
    assert len(generate(config, work / "out")) == 18
    assert not (work / "out" / ".lock").exists()


def test_the_lock_goes_with_a_killed_process(work):
    code = f"""
import time
from pathlib import Path
from basinet.data.generation.parts import only_writer
with only_writer(Path({str(work / "out")!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="another process"), only_writer(work / "out"):
            pass
        process.send_signal(signal.SIGKILL)
    with only_writer(work / "out"):
        pass
    assert not (work / "out").exists()


def test_a_file_in_the_way_is_refused_and_left(work):
    (work / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="out is a file; choose another path"):
        generate(config_of(work, "O"), work / "out")
    assert (work / "out").read_text() == "mine"


def test_a_refused_generation_leaves_no_directory(work):
    config = config_of(work, "")
    with pytest.raises(ValueError, match="no molecules, expected one SMILES per line"):
        generate(config, work / "out")
    assert not (work / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="limits file sizes with POSIX")
def test_a_full_disk_is_one_line_and_the_run_is_resumed(work):
    resource = pytest.importorskip("resource")
    config = config_of(work, " ".join(packaged_smiles()[:32]), frames_per_conformer=1)
    options = ["smiles_file=list.smi", "calculator=toy.py:make", "processes=1", "molecules_per_chunk=4"]
    limit = 4000  # bytes a file: the first shards fit, the later ones do not
    with basinet(
        work, "out", *options, "frames_per_conformer=1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    ) as process:  # fmt: skip
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "File too large" in stderr
    assert "run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    assert generate(config, work / "out").fingerprint == generate(config, work / "whole").fingerprint


def test_ctrl_c_is_one_line_and_the_run_is_resumed(work):
    config = config_of(work, " ".join(packaged_smiles()[:60]))
    options = ["smiles_file=list.smi", "calculator=toy.py:make", "processes=1", "molecules_per_chunk=4"]
    with basinet(work, "out", *options) as process:
        deadline = time.monotonic() + 300  # a busy machine takes long to start Python
        while not list((work / "out").glob("shard-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert stderr == "basinet: interrupted; what was finished is saved\n"
    assert not (work / "out" / ".lock").exists()
    with pytest.raises(ValueError, match="unfinished store"):
        MoleculeStore.open(work / "out")
    assert generate(config, work / "out").fingerprint == generate(config, work / "whole").fingerprint


def test_frames_of_several_temperatures_are_as_hot_as_they_say(work):
    temperatures = (100.0, 400.0, 1600.0)
    store = generate(
        config_of(work, "CCCCCC", "stiffness=100.0", temperatures=temperatures, frames_per_conformer=40), work / "out"
    )
    assert store.manifest.settings["temperatures"] == list(temperatures)
    names = Counter(" ".join(m.name.split()[1:4]) for m in store if not m.is_equilibrium)
    assert names == {"100 K frame": 40, "400 K frame": 40, "1600 K frame": 40}
    for temperature in temperatures:
        energies = [m.labels["energy"] for m in store if f" {temperature:g} K " in m.name]
        kt = 8.617333262145e-5 * temperature
        assert abs(np.mean(energies[10:]) / (0.5 * 60 * kt) - 1) < 0.3  # 20 atoms, all 60 coordinates are springs


def test_normal_mode_frames_have_names_of_their_own(work):
    config = config_of(
        work, "CCO", temperatures=(200.0, 400.0), frames_per_conformer=1, normal_mode_frames=3, displaced_frames=1
    )
    names = [m.name for m in generate(config, work / "out")]
    assert names == [
        "CCO minimum", "CCO displaced 0", "CCO 200 K frame 0", "CCO 400 K frame 0",
        "CCO 200 K mode 0", "CCO 200 K mode 1", "CCO 200 K mode 2",
        "CCO 400 K mode 0", "CCO 400 K mode 1", "CCO 400 K mode 2",
    ]  # fmt: skip


def test_conformers_each_have_a_minimum_and_frames(work):
    store = generate(config_of(work, "CCCCO", n_conformers=3, frames_per_conformer=2), work / "out")
    n_conformers = len({m.name.split()[2] for m in store})
    assert 2 <= n_conformers <= 3
    assert len(store) == 3 * n_conformers


def test_temperatures_must_differ():
    with pytest.raises(ValueError, match=r"temperatures must differ, got \[300.0, 300.0\]"):
        GenerateConfig(temperatures=(300.0, 300.0))
