"""basinet benchmark md17-md: what it measures, writes and refuses; interrupted, it goes on as if it had not stopped."""

import json
import os
import signal

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule as g2
from typer.testing import CliRunner

from basinet.cli import app
from basinet.commands.simulate.benchmark import prepare_md_benchmark, run_md_benchmark
from basinet.commands.simulate.benchmark_report import departures, report_benchmark
from basinet.commands.simulate.settings import MDBenchmarkConfig
from basinet.data.readers import read_molecules
from basinet.data.stream.splits import Split
from basinet.models.checkpoint import save_model
from basinet.models.scope import Scope
from basinet.structures import Molecule
from basinet.training.interrupt import InterruptedRunError
from small_runs import TINY, make_xyz, spring_molecule, tiny_model, without_labels

CALCULATOR = """
import sys
import numpy as np
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes

sys.path.insert(0, {tests!r})
from small_runs import springs

class Springs(Calculator):
    implemented_properties = ["energy", "forces"]
    spoilt_after = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.calls = getattr(self, "calls", 0) + 1
        energy, forces = springs(molecule("H2CO").positions, atoms.positions)
        if self.spoilt_after is not None and self.calls > self.spoilt_after:
            forces = forces * np.nan
        self.results = {{"energy": energy, "forces": forces}}

def make():
    return Springs()

def make_spoilt():
    made = Springs()
    made.spoilt_after = 20 + 10 + 1 + 1 + 250
    return made
"""


@pytest.fixture
def calculator(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(CALCULATOR.format(tests=os.path.dirname(os.path.dirname(os.path.dirname(__file__)))))
    return path


@pytest.fixture
def data(tmp_path):
    return make_xyz(tmp_path / "frames.xyz", [spring_molecule("H2CO", 0.05, seed=k) for k in range(30)])


@pytest.fixture
def model(tmp_path):
    """Return a network of fresh weights: its forces are small, so atoms fly freely."""
    made = tiny_model(["energy", "forces"])
    made.scope = Scope(frozenset({1, 6, 8}), "", frozenset({0}), (1, 20))
    save_model(made, tmp_path / "model.safetensors", TINY)
    return tmp_path / "model.safetensors"


def config(data, **changes) -> MDBenchmarkConfig:
    return MDBenchmarkConfig(
        data=data, **{"split": "all", "picoseconds": 0.2, "replicas": 3, "test_frames": 8} | changes
    )


def run(given, out, resume=False, on_record=None):
    lines: list[str] = []
    before = prepare_md_benchmark(given, out, resume=resume, say=lines.append)
    return run_md_benchmark(before, out, resume=resume, on_record=on_record, say=lines.append)


@pytest.fixture(autouse=True)
def short_timing(monkeypatch):
    monkeypatch.setattr("basinet.commands.simulate.benchmark.SPEED_STEPS", 20)


def test_the_true_force_field_has_no_error_and_stays_whole(data, calculator, tmp_path):
    out = tmp_path / "out"
    options = ["--calculator", f"{calculator}:make", "--split", "all", "--picoseconds", "0.2", "--replicas", "2"]
    result = CliRunner().invoke(app, ["benchmark", "md17-md", "--data", str(data), "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    assert "not the full one" in result.output and "2 of 2 intact to the end" in result.output
    found = json.loads((out / "result.json").read_text())
    assert found["force_mae_meV_per_A"] < 0.01 and found["n_test_frames"] == 30
    assert found["stability_ps"] == {"mean": 0.2, "std": 0.0, "runs": 2} == found["stability_topology_ps"]
    assert 0 < found["h_error"]["mean"] < 2 and found["h_error"] == found["h_error_of_whole_runs"]
    assert not found["is_full_protocol"] and any("0.2 ps instead of 300" in line for line in found["departures"])
    assert found["steps_per_second_of_one"] > 0 and found["overhead_ms_per_step"] > 0
    assert "**Not the full protocol**" in (out / "result.md").read_text()
    for name in ("benchmark.png", "energy.png", "temperature.png", "bonds.png", "report.html", "records.csv"):
        assert (out / name).stat().st_size > 100
    assert [len(list(read_molecules(out / f"replica-00{i}.extxyz"))) for i in range(2)] == [5] * 2
    start = ase.io.read(data, index=found["runs"][0]["start"])
    first = ase.io.read(out / "replica-000.extxyz", index=0)
    assert first.get_all_distances() == pytest.approx(start.get_all_distances(), abs=1e-5)


def test_a_force_field_without_forces_breaks_and_the_first_bad_frame_is_its_time(data, model, tmp_path):
    done = run(config(data, model=model, picoseconds=1.0), tmp_path / "out")
    found = report_benchmark(done, tmp_path / "out")
    assert all(0 < r.stable_ps < 1.0 and r.reason == "a bond broke" for r in found.runs)
    assert all(r.stable_ps * 1000 % 50 == pytest.approx(0) for r in found.runs)  # a record is 50 fs
    counted = done.simulation.distances.counts.sum(dim=(0, 2)).tolist()
    assert counted == [6 * (round(r.stable_ps * 20) + 1) for r in found.runs]  # with the first bad frame
    assert "0 of 3 intact" in found.rows["stability"]
    assert len(ase.io.read(tmp_path / "out" / "bad_frames.extxyz", index=":")) == 3
    for one in found.runs:
        path = tmp_path / "out" / f"replica-00{one.run}.extxyz"
        frames = ase.io.read(path, index=f":{round(one.stable_ps * 20) + 1}")
        smallest = min(np.min(a.get_all_distances() + 9 * np.eye(4)) for a in frames)
        assert one.closest <= smallest + 1e-6 and smallest < one.closest + 0.02 + 1e-6


def test_a_force_that_is_no_number_ends_a_run_at_that_time(data, calculator, tmp_path):
    given = config(data, calculator=f"{calculator}:make_spoilt", replicas=1, test_frames=1, picoseconds=0.4)
    found = report_benchmark(run(given, tmp_path / "out"), tmp_path / "out")
    assert found.runs[0].reason == "a value is not finite"
    assert 0.1 < found.runs[0].stable_ps < 0.2 and found.runs[0].stable_topology_ps == found.runs[0].stable_ps


def test_ctrl_c_saves_and_the_rest_is_that_of_a_run_that_was_not_stopped(data, model, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    one = report_benchmark(run(config(data, model=model), whole), whole)

    def interrupt(record, seconds):
        if record.step == 100:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match=r"stopped at 0.05 of 0.2 ps; .* --resume"):
        run(config(data, model=model), part, on_record=interrupt)
    before = (part / "measured.json").read_text()
    other = report_benchmark(run(config(data, model=model), part, resume=True), part)
    assert (part / "measured.json").read_text() == before
    assert one.runs == other.runs
    assert (whole / "records.csv").read_bytes() == (part / "records.csv").read_bytes()
    states = [torch.load(d / "state.pt", weights_only=True) for d in (whole, part)]
    assert torch.equal(states[0]["positions"], states[1]["positions"])
    with pytest.raises(ValueError, match="started with other settings: replicas was 3, now 5"):
        run(config(data, model=model, replicas=5), part, resume=True)
    longer = report_benchmark(run(config(data, model=model, picoseconds=0.3), part, resume=True), part)
    assert [r.start for r in longer.runs] == [r.start for r in one.runs]


def test_only_the_published_numbers_are_the_full_protocol(data):
    aspirin = Molecule(
        atomic_numbers=np.array([6] * 9 + [1] * 8 + [8] * 4), positions=np.eye(21)[:, :3] * 3 + np.arange(21)[:, None]
    )
    full = MDBenchmarkConfig(data=data, calculator="x:y")
    assert departures(full, aspirin, 211_762, 10_000) == []
    short = MDBenchmarkConfig(data=data, calculator="x:y", picoseconds=10.0, replicas=2, split="mine.json")
    assert len(departures(short, aspirin, 5000, 100)) == 5
    water = Molecule(atomic_numbers=g2("H2O").numbers.astype(np.int64), positions=g2("H2O").positions)
    assert "H2O is not one of its molecules" in departures(full, water, 211_762, 10_000)[0]


def test_starts_and_errors_are_of_the_test_part(data, model, tmp_path):
    split = Split(train=np.arange(20), validation=np.arange(20, 24), test=np.arange(24, 30))
    split.save(tmp_path / "split.json")
    given = config(data, model=model, split=str(tmp_path / "split.json"), test_frames=100)
    before = prepare_md_benchmark(given, tmp_path / "out", say=lambda line: None)
    assert set(before.starts.tolist()) <= set(range(24, 30)) and before.measured.n_test == 6


def test_what_cannot_be_meant_is_refused_in_a_line_and_nothing_is_left(data, model, tmp_path):
    def refused(match: str, **changes) -> None:
        given = {"data": data, "model": model} | changes
        with pytest.raises(ValueError, match=match):
            run(config(**given), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused("one of the two", model=None)
    refused("one of the two", calculator="x:y")
    refused("picoseconds must be at least 0.05", picoseconds=0.01)
    refused("replicas must be at least 1", replicas=0)
    refused("too few for the split md17-mdsim", split="md17-mdsim")
    mixed = [spring_molecule("H2CO", 0.05, seed=0), spring_molecule("CH4", 0.05, seed=0)]
    refused("a trajectory of one molecule", data=make_xyz(tmp_path / "mixed.xyz", mixed))
    bare = [without_labels(m, "forces") for m in mixed]
    refused("0 of 2 frames have forces", data=make_xyz(tmp_path / "bare.xyz", bare))
    other = make_xyz(tmp_path / "hcn.xyz", [spring_molecule("HCN", 0.05, seed=k) for k in range(5)])
    refused("was not trained for CHN: elements N", data=other)
    atom = Molecule(atomic_numbers=np.array([6]), positions=np.zeros((1, 3)), labels={"forces": np.zeros((1, 3))})
    refused("a single atom", data=make_xyz(tmp_path / "atom.xyz", [atom]))
    Split(train=np.arange(20), validation=np.arange(20, 30), test=np.arange(0)).save(tmp_path / "none.json")
    refused("has no test frames", split=str(tmp_path / "none.json"))
    refused("cannot be imported", model=None, calculator="nowhere:make")
