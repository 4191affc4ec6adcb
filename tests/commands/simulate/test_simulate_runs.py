"""basinet simulate: what it writes, says and refuses; interrupted, it goes on as if it had not stopped."""

import json
import os
import signal
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule as g2
from typer.testing import CliRunner

from basinet.backbones.build import build_backbone
from basinet.cli import app
from basinet.commands.simulate.report import summarise
from basinet.commands.simulate.settings import SimulateConfig
from basinet.commands.simulate.simulate import simulate_file
from basinet.data.readers import read_molecules
from basinet.models.checkpoint import save_model
from basinet.models.model import build_model
from basinet.models.scope import Scope
from basinet.training.interrupt import InterruptedRunError
from small_runs import TINY


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a network of fresh weights: its forces are small, so atoms fly freely."""
    torch.manual_seed(0)
    made = build_model(build_backbone(TINY), ["energy", "forces"])
    made.scope = Scope(frozenset({1, 6, 8}), "", frozenset({0}), (1, 20))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(made, path, TINY)
    return path


@pytest.fixture
def water(tmp_path):
    path = tmp_path / "water.xyz"
    ase.io.write(path, g2("H2O"))
    return path


def config(model, molecules, **changes) -> SimulateConfig:
    given = {"picoseconds": 0.02, "replicas": 3, "record_every": 2, "temperature": 100.0, "bond_tolerance": 5.0}
    return SimulateConfig(model=model, molecules=molecules, **given | changes)


def run(model, molecules, out, said=None, resume=False, on_record=None, stop_when=None, **changes):
    lines = [] if said is None else said
    return simulate_file(
        config(model, molecules, **changes),
        out,
        resume=resume,
        on_record=on_record,
        stop_when=stop_when,
        say=lines.append,
    )


def test_the_command_leaves_frames_records_a_summary_and_a_report(model, water, tmp_path):
    out = tmp_path / "out"
    options = ["--replicas", "3", "--picoseconds", "0.02", "--record-every", "2", "--bond-tolerance", "5"]
    result = CliRunner().invoke(app, ["simulate", str(model), str(water), "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    assert "stayed intact" in result.output and "3 of 3" in result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n_failed"] == 0 and len(summary["replicas"]) == 3
    for name in ("report.html", "energy.png", "temperature.png", "bonds.png", "structure.png", "records.csv"):
        assert (out / name).stat().st_size > 100
    assert [len(list(read_molecules(out / f"replica-00{i}.extxyz"))) for i in range(3)] == [21] * 3
    assert "H-O_A" in (out / "records.csv").read_text().splitlines()[0]


def test_replicas_that_break_give_exit_code_one_and_a_table(model, water, tmp_path):
    out = tmp_path / "out"
    options = ["--replicas", "3", "--picoseconds", "0.05", "--temperature", "5000", "--bond-tolerance", "0.3"]
    result = CliRunner().invoke(
        app, ["simulate", str(model), str(water), "--out", str(out), *options, "--record-every", "2"]
    )
    assert result.exit_code == 1, result.output
    assert "a bond broke" in result.output
    assert len(ase.io.read(out / "bad_frames.extxyz", index=":")) == 3
    assert json.loads((out / "summary.json").read_text())["n_failed"] == 3


@pytest.mark.parametrize("frames", ["extxyz", "hdf5"])
def test_ctrl_c_saves_and_resume_ends_as_if_nothing_had_happened(model, water, tmp_path, frames):
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(model, water, whole, frames=frames)

    def interrupt(record, seconds):
        if record.step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match=r"stopped at 0.005 of 0.02 ps; .* --resume"):
        run(model, water, part, frames=frames, on_record=interrupt)
    run(model, water, part, frames=frames, resume=True)
    assert (whole / "records.csv").read_bytes() == (part / "records.csv").read_bytes()
    for path in whole.glob("*.extxyz"):
        assert path.read_bytes() == (part / path.name).read_bytes()
    one, other = (torch.load(d / "state.pt", weights_only=True) for d in (whole, part))
    assert torch.equal(one["positions"], other["positions"]) and torch.equal(one["velocities"], other["velocities"])


def test_a_finished_run_can_be_made_longer_but_not_be_another(model, water, tmp_path):
    out = tmp_path / "out"
    run(model, water, out)
    with pytest.raises(ValueError, match="started with other settings: temperature was 100.0, now 200.0"):
        run(model, water, out, resume=True, temperature=200.0)
    with pytest.raises(ValueError, match="longer, not shorter"):
        run(model, water, out, resume=True, picoseconds=0.01)
    with pytest.raises(ValueError, match="holds a simulation already"):
        run(model, water, out)
    longer = run(model, water, out, resume=True, picoseconds=0.04)
    assert longer.dynamics.time == 40.0
    whole = run(model, water, tmp_path / "whole", picoseconds=0.04)
    assert torch.equal(longer.dynamics.state.batch.positions, whole.dynamics.state.batch.positions)


def test_replicas_do_not_change_when_there_are_more_of_them(model, water, tmp_path):
    few, many = run(model, water, tmp_path / "a", replicas=2), run(model, water, tmp_path / "b", replicas=7)
    positions = many.dynamics.state.batch.positions[:6]
    assert torch.allclose(few.dynamics.state.batch.positions, positions, atol=1e-5, rtol=0)


def test_somebody_elses_reason_stops_a_replica(model, water, tmp_path):
    uncertain = {"the ensemble disagrees": lambda state: torch.arange(3) == (1 if state.step >= 6 else -1)}
    done = run(model, water, tmp_path / "out", stop_when=uncertain)
    assert [(f.molecule, f.time, f.reason) for f in done.dynamics.failures] == [(1, 3.0, "the ensemble disagrees")]
    found = summarise(done, tmp_path / "out")
    assert found.n_failed == 1 and "1: the ensemble disagrees" in found.rows["stayed intact"]


STARTS = {
    "one atom": Atoms("O"),
    "linear": Atoms("OCO", positions=[[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]]),
    "two far molecules": g2("H2O") + Atoms("CO", positions=[[30, 0, 0], [31.1, 0, 0]]),
    "no bonds": Atoms("H2", positions=[[0, 0, 0], [5, 0, 0]]),
}


@pytest.mark.parametrize("thermostat", ["langevin", "nve", "nose-hoover"])
@pytest.mark.parametrize("start", STARTS)
def test_unusual_molecules_are_simulated_and_reported(model, tmp_path, start, thermostat):
    path, out, said = tmp_path / "start.xyz", tmp_path / "out", []
    ase.io.write(path, STARTS[start])
    done = run(model, path, out, said, thermostat=thermostat)
    assert not done.dynamics.failures
    if thermostat == "langevin":
        assert summarise(done, out).report.exists()
    assert any("2 fragments" in line for line in said) == (start in ("two far molecules", "no bonds"))


def test_starts_that_cannot_be_meant_are_refused_or_said_in_a_line(model, tmp_path):
    path, said = tmp_path / "start.xyz", []
    water = g2("H2O")
    cases = {
        r"atoms 0 and 1 are 0.1 Å apart": Atoms("HH", positions=[[0, 0, 0], [0.1, 0, 0]]),
        r"the position of atom 1 is not finite": Atoms("HH", positions=[[0, 0, 0], [np.nan, 0, 0]]),
        r"outside of what the model was trained on: elements Cl": Atoms("HCl", positions=[[0, 0, 0], [1.3, 0, 0]]),
        r"27 atoms, the model knows 1 to 20": Atoms("O27", positions=3.0 * np.indices((3, 3, 3)).reshape(3, 27).T),
    }
    for message, atoms in cases.items():
        ase.io.write(path, atoms)
        with pytest.raises(ValueError, match=message):
            run(model, path, tmp_path / "never")
        assert not (tmp_path / "never").exists()
    water.info["charge"] = 1
    ase.io.write(path, water)
    with pytest.raises(ValueError, match=r"charge \+1, the model knows 0"):
        run(model, path, tmp_path / "never")
    run(model, path, tmp_path / "warned", said, outside_scope="warn")
    assert any("charge +1, the model knows 0" in line for line in said)
    path.write_text("")
    with pytest.raises(ValueError, match="no molecules in it"):
        run(model, path, tmp_path / "never")


def test_atoms_that_overlap_are_named_and_relaxing_is_offered(model, tmp_path):
    path, said = tmp_path / "start.xyz", []
    ase.io.write(path, Atoms("CO", positions=[[0, 0, 0], [0.5, 0, 0]]))
    run(model, path, tmp_path / "out", said)
    assert any("atoms 0 and 1 overlap, 0.50 Å apart; --relax" in line for line in said)
    run(model, path, tmp_path / "relaxed", said, relax=True)
    assert any("relaxed: the largest force left is" in line for line in said)


def test_replicas_start_from_several_molecules_in_turn(model, tmp_path):
    path, said = tmp_path / "start.xyz", []
    ase.io.write(path, [g2("H2O"), g2("CO"), g2("CH4")])
    done = run(model, path, tmp_path / "out", said, starts=2, replicas=5)
    assert [m.formula for m in done.molecules] == ["H2O", "CO", "H2O", "CO", "H2O"]
    assert any("has more molecules; replicas start from the first 2" in line for line in said)


def test_five_hundred_atoms_are_simulated(model, tmp_path):
    path, said = tmp_path / "start.xyz", []
    places = 3.0 * np.indices((8, 8, 8)).reshape(3, 512).T[:500]
    ase.io.write(path, Atoms("O500", positions=places))
    done = run(model, path, tmp_path / "out", said, replicas=2, picoseconds=0.003, outside_scope="warn")
    assert done.dynamics.state.batch.n_atoms == 1000 and not done.dynamics.failures
    assert any("500 atoms, the model knows 1 to 20" in line for line in said)


def test_settings_that_make_no_sense_are_refused(model, water):
    base = config(model, water)
    for change, message in (
        ({"replicas": 0}, "replicas must be at least 1"),
        ({"picoseconds": 0.0001}, "picoseconds must be at least one time step"),
        ({"dt": -1.0}, "dt must be positive"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(base, **change)
