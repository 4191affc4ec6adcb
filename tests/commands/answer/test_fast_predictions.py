"""Predictions with tables and compiled are those of the network, for molecules of all sizes and every kind of file."""

import csv
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule as g2
from typer.testing import CliRunner

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.cli import app
from basinet.commands import predict_file, predict_table
from basinet.commands.answer import predictor
from basinet.commands.answer.predictor import AS_IT_IS, Faster
from basinet.commands.answer.records import TableOptions, sizes_of
from basinet.data.chemistry.compounds import ConformerTask, conformers, count_atoms
from basinet.data.chemistry.conformers import GenerationError
from basinet.errors import RunError
from basinet.models import fast
from basinet.models.file import save_model
from basinet.models.heads.property import PropertyForm, build_property_head
from basinet.models.joint import interpreted
from basinet.models.model import build_model
from basinet.models.scope import Scope
from basinet.structures.layouts import DENSE_LIMIT
from small_runs import TINY, GoneError, frames, make_store, make_xyz, tiny_model

WAYS = {"tables": Faster(tables=True), "compiled": Faster(compiled=True), "both": Faster(tables=True, compiled=True)}
KNOWN = Scope(frozenset({1, 6, 7, 8}), "springs", frozenset({0}), (1, 40))
ENERGY, FORCE = 1e-5, 1e-4
"""Relative, and eV/Å: tables that change a force by more are refused."""


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are recorded, cut and checked as ever, and run operation by operation: compiling takes minutes."""
    monkeypatch.setattr(predictor, "compiler_for", lambda device: interpreted())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    members = [tiny_model(seed=seed) for seed in range(2)]
    for member in members:
        member.scope = KNOWN
    save_model(members[0], place / "one.safetensors", TINY)
    save_model(members[0], place / "two.safetensors", TINY, further=members[1:])
    head = build_property_head(PropertyForm("mean", "1"), members[0].backbone)
    save_model(members[0].with_heads(y=head, energy=None), place / "property.safetensors", TINY)
    save_model(members[0].with_heads(y=head), place / "joint.safetensors", TINY)
    config = EGNNConfig(n_features=8, n_layers=1)
    torch.manual_seed(0)
    save_model(build_model(build_backbone(config), ["energy"]), place / "bonds.safetensors", config)
    return {path.stem: path for path in place.iterdir()}


@pytest.fixture(scope="module")
def sorted_by_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules of 1 to 12 atoms in the order of their size, as QM9 has them, and a last one too large for a block."""
    path = tmp_path_factory.mktemp("data") / "in.xyz"
    chain = Atoms(f"C{DENSE_LIMIT + 1}", positions=1.5 * np.arange(DENSE_LIMIT + 1)[:, None] * [1.0, 0.1, 0.0])
    few = [Atoms("He"), *map(g2, ("H2O", "CH3OH", "C6H6"))]
    ase.io.write(path, [*(atoms for atoms in few for _ in range(20)), chain])
    return path


def check(found: Path, expected: Path, names: tuple[str, ...]) -> None:
    pairs = list(zip(ase.io.read(found, ":"), ase.io.read(expected, ":"), strict=True))
    for one, other in pairs:
        scale = max(1.0, abs(other.get_potential_energy()))
        assert abs(one.get_potential_energy() - other.get_potential_energy()) < ENERGY * scale
        assert np.abs(one.get_forces() - other.get_forces()).max() < FORCE
        assert one.info.keys() == other.info.keys() and one.info.get("outside_scope") == other.info.get("outside_scope")
        for name in names:
            apart = one.arrays[name] - other.arrays[name] if name in other.arrays else one.info[name] - other.info[name]
            assert np.abs(apart).max() < FORCE, name


@pytest.mark.parametrize(
    ("way", "name", "further"),
    [*((way, "one", ()) for way in WAYS), *((way, "two", ("energy_std", "forces_std")) for way in ("tables", "both"))],
)
def test_frames_say_what_they_would_without(
    way: str, name: str, further: tuple[str, ...], models: dict[str, Path], sorted_by_size: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    for out, faster in (("plain.xyz", AS_IT_IS), ("fast.xyz", WAYS[way])):
        given = {"outside_scope": "warn", "faster": faster, "say": said.append}
        done = predict_file(models[name], sorted_by_size, tmp_path / out, **given)
        assert (done.n_records, done.n_outside) == (81, 21)
    check(tmp_path / "fast.xyz", tmp_path / "plain.xyz", further)
    assert (tmp_path / "fast.xyz").read_text() != (tmp_path / "plain.xyz").read_text()
    check_said(said, WAYS[way], 2 if further else 1)


def check_said(said: list[str], way: Faster, n_members: int) -> None:
    """What tables change, of each member, and the sizes in the whole file, which begins with the smallest."""
    slower = [line for line in said if "tables take the place of C++ kernels, which are faster" in line]
    assert len(slower) in ((0, n_members) if way.tables and not way.compiled else (0,))  # 0: without a compiler
    said = [line for line in said if line not in slower]
    certificates, rest = (said[:n_members], said[n_members:]) if way.tables else ([], said)
    assert all("filters from tables of up to" in line and "on 64 molecules" in line for line in certificates)
    if n_members > 1:
        assert [line.partition(":")[0] for line in certificates] == ["member 1 of 2", "member 2 of 2"]
    assert len(rest) == way.compiled
    assert all(line.startswith("compiling the network") and ", 12 atoms, 16 at a time" in line for line in rest)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["one", "two"])
def test_rows_say_what_they_would_without(way: str, name: str, models: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "in.csv"
    data.write_text("smiles,x\n" + "O,1\nCCCCCO,2\nC1C,3\nCS,4\n,5\nC.O,6\nCC=O,7\n" * 3)
    rows: list[list[dict[str, str]]] = []
    for out, faster in (("plain.csv", AS_IT_IS), ("fast.csv", WAYS[way])):
        done = predict_table(models[name], data, tmp_path / out, n_conformers=2, outside_scope="warn", faster=faster)
        assert (done.n_records, done.n_failed, done.n_outside) == (21, 9, 3)
        rows.append(list(csv.DictReader((tmp_path / out).read_text().splitlines())))
    for plain, found in zip(*rows, strict=True):
        assert plain.keys() == found.keys()
        for key, cell in plain.items():
            if cell and key in ("energy_predicted", "energy_std"):
                assert float(found[key]) == pytest.approx(float(cell), rel=ENERGY, abs=1e-6)
            else:
                assert found[key] == cell


def test_a_network_that_reads_bonds_is_compiled(models: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "in.xyz"
    ase.io.write(data, [g2(name) for name in ("H2O", "CH3OH", "C6H6")])
    for out, faster in (("plain.xyz", AS_IT_IS), ("fast.xyz", WAYS["compiled"])):
        predict_file(models["bonds"], data, tmp_path / out, faster=faster)
    check(tmp_path / "fast.xyz", tmp_path / "plain.xyz", ())


def test_properties_beside_an_energy_are_compiled_too(models: dict[str, Path], tmp_path: Path) -> None:
    data = make_xyz(tmp_path / "in.xyz", frames(["H2O", "CH3OH"], 3))
    for out, faster in (("plain.xyz", AS_IT_IS), ("fast.xyz", WAYS["compiled"])):
        predict_file(models["joint"], data, tmp_path / out, faster=faster)
    check(tmp_path / "fast.xyz", tmp_path / "plain.xyz", ("y",))


def test_a_killed_run_goes_on_to_the_same_bytes(models: dict[str, Path], sorted_by_size: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int | None, note: str) -> None:
        raise GoneError

    given = {"outside_scope": "warn", "faster": WAYS["both"]}
    predict_file(models["one"], sorted_by_size, tmp_path / "whole.xyz", **given)
    with pytest.raises(GoneError):
        predict_file(models["one"], sorted_by_size, tmp_path / "cut.xyz", show=stop, **given)
    done = predict_file(models["one"], sorted_by_size, tmp_path / "cut.xyz", **given)
    assert done.n_before == 64
    assert (tmp_path / "cut.xyz").read_bytes() == (tmp_path / "whole.xyz").read_bytes()


def test_what_was_begun_without_tables_does_not_go_on_with_them(models: dict[str, Path], tmp_path: Path) -> None:
    def stop(done: int, total: int | None, note: str) -> None:
        raise GoneError

    data = make_xyz(tmp_path / "in.xyz", frames(["H2O"], 70))
    with pytest.raises(GoneError):
        predict_file(models["one"], data, tmp_path / "o.xyz", show=stop)
    assert predict_file(models["one"], data, tmp_path / "o.xyz", faster=WAYS["tables"]).n_before == 0


@pytest.mark.parametrize(
    "smiles", ["O", "CCO", "[NH4+]", "[He]", "c1ccccc1[N+](=O)[O-]", "[2H]C([2H])[2H]", "C#N", "[H][H]"]
)
def test_atoms_are_counted_as_conformers_have_them(smiles: str) -> None:
    (made,) = conformers(ConformerTask(smiles, 1, 0))
    assert count_atoms(smiles) == made.n_atoms


def test_sizes_of_any_input(tmp_path: Path) -> None:
    molecules = frames(["H2O", "CH3OH", "CH4"], 1)
    assert sizes_of(make_xyz(tmp_path / "in.xyz", molecules), TableOptions()).tolist() == [3, 6, 5]
    assert sizes_of(make_store(tmp_path / "store", molecules), TableOptions()).tolist() == [3, 6, 5]
    (tmp_path / "in.csv").write_text("S,smiles\nC,O\nC,C1C\nC,CO\nC,C.CO\n,\n")
    assert sizes_of(tmp_path / "in.csv", TableOptions()).tolist() == [3, 6]
    assert sizes_of(tmp_path / "in.csv", TableOptions(fragments="largest")).tolist() == [3, 6, 6]
    assert sizes_of(tmp_path / "in.csv", TableOptions(smiles="S")).tolist() == [5, 5, 5, 5]
    with pytest.raises(GenerationError, match="no SMILES"):
        count_atoms("")


def test_molecules_that_are_all_too_large_are_computed_by_the_network(models: dict[str, Path], tmp_path: Path) -> None:
    said: list[str] = []
    n = DENSE_LIMIT + 1
    ase.io.write(tmp_path / "in.xyz", Atoms(f"O{n}", positions=1.4 * np.arange(n)[:, None] * [1.0, 0.0, 0.0]))
    given = {"outside_scope": "warn", "say": said.append}
    for out, faster in (("plain.xyz", AS_IT_IS), ("fast.xyz", WAYS["compiled"])):
        predict_file(models["one"], tmp_path / "in.xyz", tmp_path / out, faster=faster, **given)
    assert said == [f"nothing is compiled: all molecules are of more than {DENSE_LIMIT} atoms"]
    check(tmp_path / "fast.xyz", tmp_path / "plain.xyz", ())


def test_what_cannot_be_faster_is_refused_before_anything_is_written(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_xyz(tmp_path / "in.xyz", frames(["H2O"], 1))
    for name, way, message in (
        ("property", "compiled", "are for energies and forces, and the model offers y; leave them out"),
        ("property", "tables", "are for energies and forces, and the model offers y; leave them out"),
        ("joint", "tables", "certified for energies and forces, .* offers energy, forces, y; leave --tables out"),
        ("bonds", "tables", "this network is EGNN"),
    ):
        for predict, out in ((predict_file, tmp_path / "o.xyz"), (predict_table, tmp_path / "o.csv")):
            with pytest.raises(ValueError, match=message):
                predict(models[name], data, out, faster=WAYS[way])
    monkeypatch.setattr(predictor, "compiler_for", fast.compiler_for)
    monkeypatch.setattr(fast, "missing_compiler", lambda device: "a C++ compiler")
    with pytest.raises(RunError, match="cannot be compiled for cpu here: a C.. compiler is missing; leave compiling"):
        predict_file(models["one"], data, tmp_path / "o.xyz", faster=WAYS["compiled"])
    assert [path.name for path in tmp_path.iterdir()] == ["in.xyz"]


def test_the_command_has_the_options_of_a_simulation(models: dict[str, Path], tmp_path: Path) -> None:
    data = make_xyz(tmp_path / "in.xyz", frames(["H2O"], 3))
    for out in ("o.xyz", "o.csv"):
        ran = CliRunner().invoke(
            app, ["predict", str(models["one"]), str(data), str(tmp_path / out), "--tables", "--compiled"]
        )
        assert ran.exit_code == 0, ran.output
        assert "on 3 molecules forces changed by up to" in ran.output
        assert "compiling the network for molecules of up to 3 atoms, 3 at a time" in ran.output
