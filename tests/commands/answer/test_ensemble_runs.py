"""Several models in one file: the mean and the spread of their answers, and dynamics that stop where they disagree."""

import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule as g2
from typer.testing import CliRunner

from basinet.backbones.build import build_backbone
from basinet.cli import app
from basinet.commands.answer.embed import embed_file
from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.answer.predict import predict_file
from basinet.commands.ensemble import join_models
from basinet.commands.recipe import UnitsConfig
from basinet.commands.simulate.report import summarise
from basinet.commands.simulate.report_page import SPREAD_COLUMN
from basinet.commands.simulate.settings import SimulateConfig
from basinet.commands.simulate.simulate import RECORDS_FILE, simulate_file
from basinet.md.potentials import FORCES_APART
from basinet.models.checkpoint import load_ensemble, save_model
from basinet.models.committee import Committee
from basinet.models.model import build_model
from basinet.models.scope import Scope
from small_runs import TINY, frames, make_xyz


def fresh(path: Path, seed: int, sizes: tuple[int, int] = (1, 20), config=TINY, level: str = "springs") -> Path:
    torch.manual_seed(seed)
    model = build_model(build_backbone(config), ["energy", "forces"])
    model.scope = Scope(frozenset({1, 6, 7, 8}), level, frozenset({0}), sizes)
    save_model(model, path, config)
    return path


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("members")
    return [fresh(place / f"{seed}.safetensors", seed, (1, 10 + seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def ensemble(members: list[Path]) -> Path:
    out = members[0].with_name("ensemble.safetensors")
    done = CliRunner().invoke(app, ["ensemble", *map(str, members), str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_an_ensemble_holds_its_members_and_knows_what_all_know(members: list[Path], ensemble: Path) -> None:
    file = load_ensemble(ensemble)
    assert len(file.members) == 3
    for member, path in zip(file.members, members, strict=True):
        for key, value in load_ensemble(path).members[0].state_dict().items():
            assert torch.equal(member.state_dict()[key], value)
        assert member.scope.sizes == (1, 10)
    assert [Path(one["file"]).name for one in file.metadata["members"]] == [path.name for path in members]


def test_predictions_are_the_mean_with_the_spread(tmp_path: Path, members: list[Path], ensemble: Path) -> None:
    data = make_xyz(tmp_path / "in.xyz", frames(["H2O", "HCN"], 2))
    for i, model in enumerate([*members, ensemble]):
        predict_file(model, data, tmp_path / f"{i}.xyz")
    each = [ase.io.read(tmp_path / f"{i}.xyz", ":") for i in range(3)]
    for k, atoms in enumerate(ase.io.read(tmp_path / "3.xyz", ":")):
        energies = [one[k].get_potential_energy() for one in each]
        forces = np.stack([one[k].get_forces() for one in each])
        assert atoms.get_potential_energy() == pytest.approx(np.mean(energies), abs=1e-6)
        assert atoms.info["energy_std"] == pytest.approx(np.std(energies, ddof=1), abs=1e-6)
        assert np.abs(atoms.get_forces() - forces.mean(0)).max() < 1e-6
        deviation = np.sqrt(((forces - forces.mean(0)) ** 2).sum((0, 2)) / 2)
        assert np.abs(atoms.arrays["forces_std"] - deviation).max() < 1e-6


def test_errors_of_an_ensemble_are_those_of_its_mean(tmp_path: Path, members: list[Path], ensemble: Path) -> None:
    molecules = frames(["H2O"], 3)
    data = make_xyz(tmp_path / "in.xyz", molecules)
    predict_file(ensemble, data, tmp_path / "out.xyz")
    forces = [atoms.get_forces() for atoms in ase.io.read(tmp_path / "out.xyz", ":")]
    wanted = np.mean([np.abs(f - m.labels["forces"]).mean() for f, m in zip(forces, molecules, strict=True)])
    found, _ = evaluate_file(ensemble, data, UnitsConfig())
    assert found.force_mae == pytest.approx(wanted, rel=1e-5)
    assert evaluate_file(members[0], data, UnitsConfig())[0].force_mae != pytest.approx(wanted, rel=1e-5)


def simulation(model: Path, place: Path, **changes) -> SimulateConfig:
    start = place / "water.xyz"
    ase.io.write(start, g2("H2O"))
    given = {"picoseconds": 0.02, "replicas": 3, "record_every": 2, "temperature": 100.0, "bond_tolerance": 5.0}
    return SimulateConfig(model=model, molecules=start, **given | changes)


def test_dynamics_move_by_the_mean_and_record_the_spread(tmp_path: Path, ensemble: Path) -> None:
    done = simulate_file(simulation(ensemble, tmp_path), tmp_path / "md", say=lambda line: None)
    assert not done.dynamics.failures
    committee = Committee(load_ensemble(ensemble).members)
    state = done.dynamics.state
    batch = state.batch.to(dtype=torch.float32)
    found = committee(batch, ["forces"])
    assert torch.allclose(state.forces, found["forces"].double(), atol=1e-6)
    lines = (tmp_path / "md" / RECORDS_FILE).read_text().splitlines()
    column = lines[0].split(",").index(SPREAD_COLUMN)
    last = [float(line.split(",")[column]) for line in lines[-3:]]
    assert np.allclose(last, found["forces_std"].view(3, 3).amax(1).numpy(), rtol=1e-4)
    summary = summarise(done, tmp_path / "md")
    assert "force disagreement" in summary.rows
    assert (tmp_path / "md" / "uncertainty.png").exists()


def test_a_replica_stops_where_members_disagree(tmp_path: Path, ensemble: Path) -> None:
    done = simulate_file(simulation(ensemble, tmp_path, stop_force_std=1e-9), tmp_path / "md", say=lambda line: None)
    assert [(f.step, f.reason) for f in done.dynamics.failures] == [(0, FORCES_APART)] * 3
    assert (tmp_path / "md" / "bad_frames.extxyz").exists()


def test_members_that_agree_never_stop_it(tmp_path: Path, members: list[Path]) -> None:
    joined = [load_ensemble(members[0]).members[0] for _ in range(2)]
    path = tmp_path / "same.safetensors"
    save_model(joined[0], path, TINY, further=joined[1:])
    done = simulate_file(simulation(path, tmp_path, stop_force_std=1e-6), tmp_path / "md", say=lambda line: None)
    assert not done.dynamics.failures


def test_one_model_has_no_spread_to_limit(tmp_path: Path, members: list[Path]) -> None:
    with pytest.raises(ValueError, match="needs an ensemble, and .*0.safetensors is one model; .*ensemble A B C"):
        simulate_file(simulation(members[0], tmp_path, stop_force_std=0.1), tmp_path / "md", say=lambda line: None)
    assert not (tmp_path / "md").exists()


def test_embeddings_of_an_ensemble_say_whose_they_are(tmp_path: Path, members: list[Path], ensemble: Path) -> None:
    data = make_xyz(tmp_path / "in.xyz", frames(["H2O"], 1))
    said: list[str] = []
    embed_file(ensemble, data, tmp_path / "all.npy", say=said.append)
    assert said == ["these are the features of member 1 of 3 (--member)"]
    embed_file(members[0], data, tmp_path / "first.npy")
    assert np.array_equal(np.load(tmp_path / "all.npy"), np.load(tmp_path / "first.npy"))


def test_any_member_can_be_asked_for_embeddings(tmp_path: Path, members: list[Path], ensemble: Path) -> None:
    data, out = make_xyz(tmp_path / "in.xyz", frames(["H2O"], 1)), tmp_path / "third.npy"
    done = CliRunner().invoke(app, ["embed", str(ensemble), str(data), str(out), "--member", "3"])
    assert done.exit_code == 0 and "features of member 3 of 3" in done.output
    embed_file(members[2], data, tmp_path / "alone.npy")
    embed_file(members[0], data, tmp_path / "first.npy")
    assert np.array_equal(np.load(out), np.load(tmp_path / "alone.npy"))
    assert not np.array_equal(np.load(out), np.load(tmp_path / "first.npy"))
    for model, number, message in ((ensemble, 4, "members 1 to 3"), (ensemble, 0, "members 1"), (members[0], 2, "one")):
        with pytest.raises(ValueError, match=f"holds {message}.*, asked for member {number}; choose another --member"):
            embed_file(model, data, tmp_path / "none.npy", member=number)
    assert not list(tmp_path.glob("none*"))


def test_models_that_are_not_alike_are_not_joined(tmp_path: Path, members: list[Path]) -> None:
    out = tmp_path / "out.safetensors"
    copy = Path(shutil.copy(members[0], tmp_path / "copy.safetensors"))
    with pytest.raises(ValueError, match="copy.safetensors is given twice"):
        join_models([members[0], copy], out)
    wide = fresh(tmp_path / "wide.safetensors", 5, config=type(TINY)(n_features=16, n_layers=1, n_heads=2, n_basis=8))
    with pytest.raises(ValueError, match="different networks .*n_features 8 and 16"):
        join_models([members[0], wide], out)
    with pytest.raises(ValueError, match="levels of theory"):
        join_models([members[0], fresh(tmp_path / "b.safetensors", 7, level="other")], out)
    with pytest.raises(FileExistsError, match="exists already"):
        join_models(members, members[0])
    assert not out.exists()
    done = CliRunner().invoke(app, ["ensemble", str(members[0]), str(out)])
    assert isinstance(done.exception, ValueError) and "at least two models" in str(done.exception)
