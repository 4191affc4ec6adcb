import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from multiprocessing import active_children, parent_process
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as g2
from ase.calculators.lj import LennardJones

from basinet.data.chemistry.conformers import GenerationError, embed
from basinet.data.generation.calculators import make_calculator
from basinet.data.generation.generate import GenerateConfig, generate
from basinet.data.generation.trajectory import TrajectoryConfig, chain_of, trajectory
from basinet.data.store.store import MoleculeStore
from basinet.data.workers import THREAD_VARIABLES, map_in_order, one_thread
from basinet.errors import RunError

pytest.importorskip("rdkit")
with one_thread():
    pytest.importorskip("tblite.ase")

SMILES = "O CCO [C-]#[O+] not-a-molecule [He] [NH4+] C[C@H](F)Cl N OCC C O.O CC=O C=C [CH3] C#N CO"
EXCLUDED = ("CC(F)Cl",)
N_TREATED, N_LABELLED = 14, 11


class DiesInWorkers(LennardJones):
    """Ends its process, as a crash or the kernel would."""

    def calculate(self, *args, **kwargs):
        if parent_process() is not None:
            os._exit(1)


@pytest.fixture(scope="module")
def smiles_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("smiles") / "molecules.smi"
    path.write_text(SMILES.replace(" ", "\n"))
    return path


def config_of(smiles_file, **changes):
    settings = dict(
        smiles_file=smiles_file, exclude=EXCLUDED, frames_per_conformer=3, displaced_frames=1, molecules_per_chunk=4
    )
    return GenerateConfig(**(settings | changes))


@pytest.fixture(scope="module")
def made(smiles_file, tmp_path_factory):
    """The store that two processes make without an interruption, and the progress they report."""
    seen = []
    store = generate(config_of(smiles_file, processes=2), tmp_path_factory.mktemp("made"), on_progress=seen.append)
    return store, seen


def test_each_molecule_gives_one_minimum_and_its_frames(made):
    store, _ = made
    assert len(store) == N_LABELLED * (1 + 1 + 3)
    minima = [m for m in store if m.is_equilibrium]
    assert len({m.smiles for m in minima}) == len(minima) == N_LABELLED
    assert [m.name for m in store if m.smiles == "CC=O"] == [
        "CC=O minimum", "CC=O displaced 0", "CC=O frame 0", "CC=O frame 1", "CC=O frame 2"
    ]  # fmt: skip


def test_forces_vanish_at_minima_and_only_there(made):
    store, _ = made
    for m in store:
        largest = np.linalg.norm(m.labels["forces"], axis=1).max()
        if m.is_equilibrium:
            assert largest < GenerateConfig().fmax
        elif m.n_atoms > 1:
            assert largest > 0.1, m.name


def test_minima_are_the_lowest_of_their_molecule(made):
    store, _ = made
    minimum = {m.smiles: m.labels["energy"] for m in store if m.is_equilibrium}
    assert all(m.labels["energy"] > minimum[m.smiles] for m in store if not m.is_equilibrium and m.n_atoms > 1)


def test_labels_are_those_of_the_calculator(made):
    store, _ = made
    for m in list(store)[:10]:
        atoms = Atoms(m.atomic_numbers, m.positions)
        atoms.calc = make_calculator("gfn2-xtb", charge=m.charge)
        assert abs(atoms.get_potential_energy() - m.labels["energy"]) < 1e-4  # positions are stored in float32
        np.testing.assert_allclose(atoms.get_forces(), m.labels["forces"], atol=2e-3)


def test_bonds_and_charges_are_kept(made):
    store, _ = made
    ammonium = next(m for m in store if m.smiles == "[NH4+]")
    assert (ammonium.charge, len(ammonium.bonds)) == (1, 4)
    helium = next(m for m in store if m.smiles == "[He]")
    assert (helium.n_atoms, len(helium.bonds)) == (1, 0)


def test_an_excluded_compound_and_its_stereoisomers_never_appear(made):
    store, _ = made
    assert not any("Cl" in smiles for smiles in store.smiles)


def test_what_was_left_out_is_counted_by_reason(made):
    store, _ = made
    assert store.manifest.skipped == {
        "does not parse": 1, "excluded": 1, "listed before": 1, "more than one molecule": 1, "unpaired electrons": 1
    }  # fmt: skip


def test_progress_counts_molecules_frames_and_failures(made):
    _, seen = made
    assert [p.done for p in seen] == list(range(1, N_TREATED + 1))
    assert {p.total for p in seen} == {N_TREATED}
    assert (seen[-1].frames, seen[-1].failed) == (N_LABELLED * 5, N_TREATED - N_LABELLED)


def test_the_manifest_says_how_it_was_made(made, smiles_file):
    store, _ = made
    manifest = store.manifest
    assert (manifest.level_of_theory, manifest.source) == ("GFN2-xTB", smiles_file.name)
    assert manifest.settings["temperatures"] == list(GenerateConfig().temperatures)
    assert manifest.settings["made_with"][0].startswith("tblite ")
    assert "processes" not in manifest.settings


def test_interrupted_and_resumed_by_one_process_it_is_the_same_store(made, smiles_file, tmp_path):
    store, _ = made

    def interrupt(progress):
        if progress.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(config_of(smiles_file, processes=1), tmp_path, on_progress=interrupt)
    assert not active_children()
    with pytest.raises(ValueError, match=r"settings.temperatures was \[600.0\], now \[300.0\]"):
        generate(config_of(smiles_file, temperatures=(300.0,)), tmp_path)
    seen = []
    resumed = generate(config_of(smiles_file, processes=1), tmp_path, on_progress=seen.append)
    assert seen[0].done == 5  # the first shard of four was kept
    assert resumed.fingerprint == store.fingerprint
    assert resumed.manifest.skipped == store.manifest.skipped


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_store_and_its_workers_end(made, smiles_file, tmp_path):
    store, _ = made
    code = f"""
import os, time
from pathlib import Path
from multiprocessing import active_children
from test_generate import config_of, generate
def wait(progress):
    if progress.done == 5:
        print(*[child.pid for child in active_children()], flush=True)
        time.sleep(60)
if __name__ == "__main__":
    generate(config_of(Path({str(smiles_file)!r}), processes=1), Path({str(tmp_path)!r}), on_progress=wait)
"""
    script = smiles_file.parent / "killed.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGKILL)
    assert len(workers) == 1
    deadline = time.monotonic() + 10
    while any(_is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_is_running(pid) for pid in workers)
    with pytest.raises(ValueError, match="unfinished store"):
        MoleculeStore.open(tmp_path)
    assert generate(config_of(smiles_file, processes=2), tmp_path).fingerprint == store.fingerprint


def _is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_worker_that_dies_is_an_error_and_not_a_wait(smiles_file, tmp_path):
    config = config_of(smiles_file, calculator=f"{__name__}:DiesInWorkers", processes=1)
    with pytest.raises(RunError, match="a worker process died"):
        generate(config, tmp_path / "store")
    assert not active_children()


def test_wrong_settings_are_named_all_at_once():
    with pytest.raises(ValueError, match=r"temperatures must be positive, got -1.0; stride must be at least 1, got 0$"):
        GenerateConfig(temperatures=(-1.0,), stride=0)
    with pytest.raises(ValueError, match="n_frames must be at least 1, got 0"):
        TrajectoryConfig(smiles="C", n_frames=0)
    with pytest.raises(ValueError, match="unknown calculator 'gfn3'"):
        generate(GenerateConfig(calculator="gfn3"), Path("never-made"))


def test_nothing_left_to_do_is_an_error(tmp_path):
    path = tmp_path / "one.smi"
    path.write_text("CCO")
    with pytest.raises(ValueError, match=r"no molecules to treat: \{'excluded': 1\}"):
        generate(GenerateConfig(smiles_file=path, exclude=("OCC",)), tmp_path / "store")


def test_the_chains_of_a_trajectory_are_independent_and_do_not_depend_on_processes():
    config = dict(smiles="CO", n_frames=5, n_chains=2, stride=2, equilibration=4)
    frames = trajectory(TrajectoryConfig(**config, processes=2))
    assert [chain_of(m) for m in frames] == [0, 0, 0, 1, 1]
    assert not any(m.is_equilibrium for m in frames)
    assert not np.allclose(frames[0].positions, frames[3].positions)
    again = trajectory(TrajectoryConfig(**config, processes=1))
    for one, other in zip(frames, again, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.labels["forces"], other.labels["forces"])


def test_a_trajectory_that_cannot_be_made_says_so():
    with pytest.raises(GenerationError, match="CC.C at 500 K with gfn2-xtb: more than one molecule"):
        trajectory(TrajectoryConfig(smiles="CC.C", n_chains=1, n_frames=1))
    with pytest.raises(ValueError, match="was not made by trajectory"):
        chain_of(embed("C", seed=0)[0])


def _threads(_):
    """Use the calculator, then count the threads of this process apart from ours and the pool's."""
    benzene = g2("C6H6")
    benzene.calc = make_calculator("gfn2-xtb")
    benzene.get_forces()
    return {name: os.environ.get(name) for name in THREAD_VARIABLES}, len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_workers_compute_on_one_thread_and_the_parent_keeps_its_environment():
    before = json.dumps(dict(os.environ))
    with closing(map_in_order(_threads, [0], processes=1)) as results:
        [(variables, n_threads)] = list(results)
    assert set(variables.values()) == {"1"}
    assert n_threads <= 2  # the main thread and the one that waits for the end of the parent
    assert json.dumps(dict(os.environ)) == before
