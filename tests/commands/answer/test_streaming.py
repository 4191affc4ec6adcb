"""Predictions and embeddings of files: every record has its row, whatever fails, stops or does not fit into memory."""

import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from basinet.cli import app
from basinet.commands.answer import predict as predict_module
from basinet.commands.answer.embed import embed_file, index_path
from basinet.commands.answer.halving import Halving, OutOfMemoryError, is_out_of_memory
from basinet.commands.answer.predict import predict_file, predict_table
from basinet.commands.answer.records import TableOptions
from basinet.commands.answer.stream import Journal
from basinet.models.checkpoint import save_model
from basinet.models.conformal import Calibration
from basinet.models.heads.property import PropertyForm, build_property_head
from basinet.models.model import Model, Scope
from basinet.structures import Molecule
from basinet.structures.batch import collate
from molecules import SMALL
from small_runs import TINY, GoneError, frames, make_xyz, tiny_model

ROWS = ["O,a,1", "C1C,b,2", "CCO,c,3", ",d,4", "CS,e,5", '"CC=O","f, g",6', "C.O,h,7", "c1ccccc1,i,8"]
FAILS = [1, 3, 4, 6]


@pytest.fixture(scope="module")
def model() -> Model:
    found = tiny_model()
    found.scope = Scope(frozenset({1, 6, 7, 8}), "")
    return found.eval()


@pytest.fixture(scope="module")
def force_field(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "f.safetensors"
    save_model(model, path, TINY)
    return path


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members: list[Model] = []
    for seed in range(2):
        backbone = tiny_model(seed=seed).backbone
        members.append(Model(backbone, {"y": build_property_head(PropertyForm("mean", "1"), backbone)}))
        members[-1].scope = Scope(frozenset({1, 6, 7, 8}), "")
    calibration = {"y": Calibration(torch.linspace(0, 1, 20, dtype=torch.float64), 0.1)}
    path = tmp_path_factory.mktemp("models") / "e.safetensors"
    save_model(members[0], path, TINY, {}, further=members[1:], calibration=calibration)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("SMILES,name,x\n" + "\n".join(ROWS) + "\n")
    return path


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def moved(molecule: Molecule, seed: int) -> tuple[Molecule, np.ndarray]:
    """Return a molecule turned, mirrored, shifted and reordered, and the order of its atoms."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(molecule.n_atoms)
    turn = -Rotation.random(random_state=seed).as_matrix()
    positions = molecule.positions[order] @ turn.T + generator.normal(size=3)
    return Molecule(atomic_numbers=molecule.atomic_numbers[order], positions=positions), order


@pytest.mark.parametrize("seed", range(3))
def test_embeddings_do_not_change_when_a_molecule_is_moved_and_follow_the_order_of_atoms(seed: int) -> None:
    model = tiny_model().double().eval()
    for molecule in SMALL:
        other, order = moved(molecule, seed)
        first, second = (collate([m], torch.float64) for m in (molecule, other))
        with torch.no_grad():
            for pooling in ("mean", "sum"):
                error = (model.embed(first, "molecule", pooling) - model.embed(second, "molecule", pooling)).abs().max()
                assert float(error) < 1e-9, f"{molecule.formula}: {error}"
            error = (model.embed(first, "atom")[torch.from_numpy(order)] - model.embed(second, "atom")).abs().max()
        assert float(error) < 1e-9, f"{molecule.formula}: {error}"


def test_embeddings_of_a_batch_are_those_of_its_molecules_and_differ_between_them(model: Model) -> None:
    with torch.no_grad():
        together = model.embed(collate(SMALL))
        apart = torch.cat([model.embed(collate([m])) for m in SMALL])
        sums = model.embed(collate(SMALL), pooling="sum")
    assert torch.allclose(together, apart, atol=1e-5)
    assert float(torch.pdist(together).min()) > 1e-3, "a positive control: molecules are told apart"
    counts = torch.tensor([m.n_atoms for m in SMALL])
    assert torch.allclose(sums, together * counts[:, None], rtol=1e-4, atol=1e-5)


def test_a_table_of_predictions_has_a_row_for_each_row(ensemble: Path, table: Path, tmp_path: Path) -> None:
    done = predict_table(ensemble, table, tmp_path / "out.csv", n_conformers=2, coverage=0.5)
    rows = read(tmp_path / "out.csv")
    assert (done.n_records, done.n_failed) == (8, 4)
    assert [list(r.values())[:3] for r in rows] == list(csv.reader(ROWS))
    assert [i for i, r in enumerate(rows) if r["status"] == "failed"] == FAILS
    assert all((r["y_predicted"] == "") == (r["status"] == "failed") == bool(r["reason"]) for r in rows)
    assert "the model knows" in rows[4]["reason"] and rows[3]["reason"] == "SMILES: no SMILES"
    for row in (r for r in rows if r["status"] == "ok"):
        value, std, lower, upper = (float(row[f"y_{k}"]) for k in ("predicted", "std", "lower", "upper"))
        radius = 10 / 19 * (std + 0.1)  # of 20 scores from 0 to 1, that of rank 21 * 0.5, rounded up
        assert (value - lower, upper - value) == pytest.approx((radius, radius), rel=1e-4)


def test_a_prediction_depends_on_its_row_alone(ensemble: Path, table: Path, tmp_path: Path) -> None:
    predict_table(ensemble, table, tmp_path / "all.csv", n_conformers=2)
    (tmp_path / "one.csv").write_text("smiles\nOCC\n")
    predict_table(ensemble, tmp_path / "one.csv", tmp_path / "alone.csv", n_conformers=2)
    whole, alone = read(tmp_path / "all.csv")[2], read(tmp_path / "alone.csv")[0]
    assert float(whole["y_predicted"]) == pytest.approx(float(alone["y_predicted"]), abs=1e-5)


@pytest.mark.parametrize("kind", ["table", "molecules", "atoms"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    kind: str, ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "in.csv"
    data.write_text("smiles\n" + "\n".join(f"{'C' * (1 + i % 5)}{'O' if i % 7 else '1'}" for i in range(150)) + "\n")

    def run(out: Path, show: Any = lambda done, total, note: None) -> list[str]:
        said: list[str] = []
        if kind == "table":
            predict_table(ensemble, data, out.with_suffix(".csv"), show=show, say=said.append)
        else:
            level = "atom" if kind == "atoms" else "molecule"
            suffix = ".npz" if kind == "atoms" else ".npy"
            embed_file(ensemble, data, out.with_suffix(suffix), level=level, show=show, say=said.append)
        return said

    def stop(done: int, total: int | None, note: str) -> None:
        if done >= 128:
            raise GoneError

    run(tmp_path / "whole")
    with pytest.raises(GoneError):
        run(tmp_path / "cut", stop)
    (partial,) = tmp_path.glob("*.partial")
    biggest = max(partial.iterdir(), key=lambda path: path.stat().st_size)
    with open(biggest, "ab") as file:
        file.write(b"half a row")  # what a kill in the middle of a write leaves
    said = run(tmp_path / "cut")
    assert any(line.startswith("resuming after 128") for line in said)
    assert not list(tmp_path.glob("*.partial"))
    for path in tmp_path.glob("whole.*"):
        other = path.with_name(path.name.replace("whole", "cut"))
        if path.suffix == ".npz":
            a, b = np.load(path), np.load(other)
            assert all(np.array_equal(a[k], b[k], equal_nan=True) for k in ("features", "offsets"))
        else:
            assert path.read_bytes() == other.read_bytes(), path.name


def test_another_input_begins_anew(ensemble: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.csv", ["rows"], "other")
    journal.append({"rows": b"nonsense\n"}, 5)
    (tmp_path / "in.csv").write_text("smiles\nCO\n")
    assert predict_table(ensemble, tmp_path / "in.csv", tmp_path / "out.csv").n_before == 0
    assert len(read(tmp_path / "out.csv")) == 1


def test_a_file_of_molecules_becomes_a_table_too(force_field: Path, tmp_path: Path) -> None:
    data = make_xyz(tmp_path / "in.xyz", frames())
    predict_table(force_field, data, tmp_path / "out.csv")
    predict_file(force_field, data, tmp_path / "out.xyz")
    energies = [a.get_potential_energy() for a in ase.io.read(tmp_path / "out.xyz", ":")]
    assert [float(r["energy_predicted"]) for r in read(tmp_path / "out.csv")] == pytest.approx(energies, rel=1e-6)


def limited(limit: int, seen: list[int]) -> Callable[[Any], list[Any]]:
    def compute(items: Any) -> list[Any]:
        seen.append(len(items))
        if sum(items) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [2 * item for item in items]

    return compute


def test_what_does_not_fit_is_cut_in_half_until_it_does() -> None:
    seen: list[int] = []
    said: list[str] = []
    halved = Halving(limited(7, seen), 64, said.append)
    assert halved([1] * 30) == [2] * 30
    assert seen == [30, 15, 8, 4, 4, 4, 4, 4, 4, 4, 2] and len(said) == 3
    assert halved([]) == []
    with pytest.raises(OutOfMemoryError, match="one molecule alone"):
        halved([1, 9])


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("shapes do not match"))

    def broken(items: Any) -> list[Any]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Halving(broken, 4, lambda line: None)([1])


def test_predictions_survive_a_lack_of_memory_and_lose_only_the_molecule_that_is_too_large(
    ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.csv").write_text("smiles\n" + "CCO\n" * 6 + "C" * 20 + "\n" + "CO\n" * 3)
    whole, small = tmp_path / "whole.csv", tmp_path / "small.csv"
    predict_table(ensemble, tmp_path / "in.csv", whole)
    real = predict_module.predict_records

    def small_memory(predictor: Any, records: Any, coverage: float) -> Any:
        if sum(m.n_atoms for r in records for m in r.conformers) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(predictor, records, coverage)

    monkeypatch.setattr(predict_module, "predict_records", small_memory)
    done = predict_table(ensemble, tmp_path / "in.csv", small)
    assert done.n_failed == 1
    for a, b in zip(read(whole), read(small), strict=True):
        if len(a["smiles"]) < 20:
            assert float(a["y_predicted"]) == pytest.approx(float(b["y_predicted"]), abs=1e-5)
        else:
            assert b["reason"] == "one molecule alone does not fit into memory"


def test_molecules_stream_through_a_prediction(
    force_field: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more molecules have been read than are written, but for one chunk."""
    read_so_far, written = [0], [0]
    worst = [0]

    def many(*args: Any, **kwargs: Any) -> tuple[Iterator[Molecule], None]:
        def molecules() -> Iterator[Molecule]:
            for i in range(500):
                read_so_far[0] = i + 1
                worst[0] = max(worst[0], read_so_far[0] - written[0])
                yield dataclasses.replace(SMALL[0], labels={})

        return molecules(), None

    monkeypatch.setattr(predict_module, "open_unlabelled", many)
    data = make_xyz(tmp_path / "in.xyz", frames()[:1])
    done = predict_file(
        force_field, data, tmp_path / "out.xyz", show=lambda done, total, note: written.__setitem__(0, done)
    )
    assert done.n_records == 500 and worst[0] <= 65


def test_records_that_are_no_molecules_have_a_row_of_nan(force_field: Path, tmp_path: Path) -> None:
    data = make_xyz(tmp_path / "in.xyz", [frames()[0], SMALL[1], frames()[1]])
    text = data.read_text().splitlines()
    text[2] = text[3]  # two atoms at one place
    data.write_text("\n".join(text) + "\n")
    done = embed_file(force_field, data, tmp_path / "out.npy")
    features = np.load(tmp_path / "out.npy")
    rows = read_index(tmp_path / "out.npy")
    assert features.shape == (3, 8) and features.dtype == np.float32 and done.n_failed == 2
    assert np.isnan(features[:2]).all() and np.isfinite(features[2]).all()
    assert "apart" in rows[0][-1] and "the model knows" in rows[1][-1] and rows[2][-2:] == ["ok", ""]


def read_index(out: Path) -> list[list[str]]:
    return list(csv.reader(index_path(out).read_text().splitlines()))[1:]


def test_embeddings_of_atoms_are_ragged_with_offsets(force_field: Path, table: Path, tmp_path: Path) -> None:
    embed_file(force_field, table, tmp_path / "a.npz", level="atom")
    embed_file(force_field, table, tmp_path / "m.npy")
    atoms, whole = np.load(tmp_path / "a.npz"), np.load(tmp_path / "m.npy")
    offsets = atoms["offsets"]
    assert len(offsets) == 9 and offsets[-1] == len(atoms["features"])
    for i in range(8):
        rows = atoms["features"][offsets[i] : offsets[i + 1]]
        if i in FAILS:
            assert len(rows) == 0 and np.isnan(whole[i]).all()
        else:
            assert np.allclose(rows.mean(0), whole[i], atol=1e-5)


def test_conformers_are_averaged(force_field: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("smiles\nCCCCCO\n")
    one, four = (TableOptions(n_conformers=n) for n in (1, 4))
    embed_file(force_field, tmp_path / "in.csv", tmp_path / "1.npy", table=one)
    embed_file(force_field, tmp_path / "in.csv", tmp_path / "4.npy", table=four)
    first, mean = np.load(tmp_path / "1.npy"), np.load(tmp_path / "4.npy")
    assert 1e-6 < np.abs(first - mean).max() < 1
    with pytest.raises(ValueError, match="atoms have places in one conformer"):
        embed_file(force_field, tmp_path / "in.csv", tmp_path / "4.npz", level="atom", table=four)


def test_wrong_calls_are_one_line(force_field: Path, ensemble: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"written as \.npy, got \.csv"):
        embed_file(force_field, table, tmp_path / "out.csv")
    with pytest.raises(ValueError, match="is the input too"):
        predict_table(ensemble, table, table)
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        predict_table(ensemble, table, tmp_path / "nowhere" / "out.csv")
    (tmp_path / "again.csv").write_text("smiles,y_predicted\nC,1\n")
    with pytest.raises(ValueError, match="columns that predictions are written to: y_predicted; rename"):
        predict_table(ensemble, tmp_path / "again.csv", tmp_path / "out.csv")
    (tmp_path / "empty.csv").write_text("smiles\n")
    with pytest.raises(ValueError, match="holds no molecules"):
        predict_table(ensemble, tmp_path / "empty.csv", tmp_path / "out.csv")
    with pytest.raises(ValueError, match="the columns are: SMILES, name, x"):
        predict_table(ensemble, table, tmp_path / "out.csv", smiles="structure")
    with pytest.raises(ValueError, match="coverage must be between"):
        predict_table(ensemble, table, tmp_path / "out.csv", coverage=95.0)


def test_the_commands_do_the_same(ensemble: Path, table: Path, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["embed", str(ensemble), str(table), str(tmp_path / "o.npy"), "--processes", "1"])
    assert ran.exit_code == 0 and "8 molecules written" in ran.stdout and "4 of them failed" in ran.stdout
    out = tmp_path / "o.csv"
    ran = CliRunner().invoke(app, ["predict", str(ensemble), str(table), str(out), "--processes", "1"])
    assert ran.exit_code == 0 and "4 of them without a prediction" in ran.stdout
    wrong = CliRunner().invoke(
        app, ["predict", str(ensemble), str(table), str(tmp_path / "o.xyz"), "--coverage", "0.5"]
    )
    assert "are for a table (.csv)" in str(wrong.exception)
