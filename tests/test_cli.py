"""What a person types, and the one line they get back when it cannot work."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as g2
from ase.calculators.singlepoint import SinglePointCalculator

from basinet.cli.entry import ORDER
from basinet.cli.recipes import HELP
from typed import Done, basinet

TINY = ("model.n_features=8", "model.n_layers=1", "model.n_heads=2", "model.n_basis=8", "launch.accelerator=cpu")
FEW = ("training.n_steps=4", "training.validate_every=2", "training.save_every=2", "training.batch_size=4")
EXIT_USER = 2


def springs(atoms: Atoms, energy_unit: float = 1.0, sign: float = 1.0) -> Atoms:
    """Label a displaced molecule with harmonic springs between all its atoms."""
    rest = g2(atoms.info["name"]).positions
    energy, forces = 0.0, np.zeros_like(rest)
    for i in range(len(rest)):
        for j in range(i):
            vector = atoms.positions[j] - atoms.positions[i]
            length = float(np.linalg.norm(vector))
            stretch = length - float(np.linalg.norm(rest[j] - rest[i]))
            energy += 10 * stretch**2
            forces[i] += 20 * stretch * vector / length
            forces[j] -= 20 * stretch * vector / length
    atoms.calc = SinglePointCalculator(atoms, energy=energy * energy_unit, forces=sign * forces)
    return atoms


def frames(n: int, seed: int = 0, name: str = "H2O", energy_unit: float = 1.0, sign: float = 1.0) -> list[Atoms]:
    generator = np.random.default_rng(seed)
    made: list[Atoms] = []
    for _ in range(n):
        atoms = g2(name)
        atoms.info["name"] = name
        atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
        made.append(springs(atoms, energy_unit, sign))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "water.extxyz"
    ase.io.write(path, frames(40))
    return path


@pytest.fixture(scope="module")
def tuned(data: Path) -> Path:
    """A run directory with a fine-tuned model."""
    out = data.parent / "tuned"
    done = basinet("finetune", data, *TINY, *FEW, "n_train=20", "n_validation=5", "n_test=10", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def one_line(done: Done, *words: str) -> str:
    """Check that a command ended with exit code 2 and one line on stderr that contains the words."""
    assert done.returncode == EXIT_USER, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines and lines[0].startswith("basinet: "), done.stderr
    for word in words:
        assert word in done.stderr, (word, done.stderr)
    return done.stderr


def test_help_answers_without_loading_torch() -> None:
    code = "import sys, basinet.cli; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([sys.executable, "-m", "basinet", "--help"], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert [name for name in re.findall(r"^│ (\w[\w-]*) ", listed.stdout, re.MULTILINE)] == ORDER


RECIPE_COMMANDS = [("pretrain",), ("finetune",), ("compare",), ("data", "generate"), ("data", "build")]


@pytest.mark.parametrize("command", RECIPE_COMMANDS, ids=" ".join)
def test_help_of_a_recipe_fits_on_one_screen(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = basinet(*command, "--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80, done.stdout
    listed = HELP[command[-1]].common
    assert len(listed) <= 12
    for option in listed:
        assert f"  {option}=" in done.stdout, option


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (("pretrain",), ("objective.sigma", "mixing_temperature")),
        (("finetune",), ("training.optimizer.learning_rate", "units.bonds", "target")),
        (("data", "generate"), ("frames_per_conformer",)),
    ],
    ids=["pretrain", "finetune", "generate"],
)
def test_help_all_lists_every_option_of_a_recipe(command: tuple[str, ...], options: tuple[str, ...]) -> None:
    done = basinet(*command, "--help-all")
    assert done.returncode == 0
    for option in options:
        assert f"  {option}=" in done.stdout, option


def test_options_of_settings_are_listed_with_their_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = basinet("simulate", "--help").stdout
    for text in ("--picoseconds", "--format", "--as-is", "Time step, fs.", "langevin|nve|nose-hoover", "0.5"):
        assert text in shown, text
    assert "--energy-unit" in basinet("data", "check", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("simulte",), "simulate"),
        (("simulate", "model", "molecules", "--tempertaure", "300"), "--temperature"),
        (("evaluate", "model", "molecules", "--energy-unti", "Ha"), "--energy-unit"),
    ],
    ids=["command", "option of settings", "option of a file"],
)
def test_a_wrong_word_suggests_the_nearest(arguments: tuple[str, ...], nearest: str) -> None:
    done = basinet(*arguments)
    assert done.returncode == EXIT_USER
    assert nearest in done.stderr, done.stderr


def test_a_recipe_option_with_dashes_says_how_it_is_typed(data: Path, tmp_path: Path) -> None:
    done = basinet("finetune", data, "--n-train", "5", "--out", tmp_path / "run")
    one_line(done, "--n-train is an option of the recipe", "n_train=VALUE")


def test_version_is_printed() -> None:
    assert basinet("--version").stdout.strip() == "0.1.0"


def test_evaluate_correlates_implied_forces(tuned: Path, data: Path, tmp_path: Path) -> None:
    model = tuned / "model.safetensors"
    told = basinet("evaluate", model, data, "--force-correlation", "--out", tmp_path / "out")
    assert told.returncode == 0 and "energy: Pearson" in told.stdout, told.stderr
    assert (tmp_path / "out" / "force_correlation.json").exists()
    one_line(basinet("evaluate", model, data, "--out", tmp_path / "other"), "--out is for --force-correlation")


def test_finetune_leaves_a_run_that_explains_itself(tuned: Path) -> None:
    for name in ("recipe.yaml", "metrics.jsonl", "model.safetensors", "state.pt", "environment.txt", "data.json"):
        assert (tuned / name).stat().st_size > 0, name
    assert json.loads((tuned / "results.json").read_text())["n_test"] == 10
    assert "torch" in (tuned / "environment.txt").read_text()


def test_evaluate_and_predict_agree_about_the_same_file(tuned: Path, data: Path, tmp_path: Path) -> None:
    model, out = tuned / "model.safetensors", tmp_path / "predicted.extxyz"
    told = basinet("evaluate", model, data)
    assert told.returncode == 0 and "meV/Å" in told.stdout, told.stderr
    assert basinet("predict", model, data, out).returncode == 0
    read = ase.io.read(out, ":")
    error = np.mean([np.abs(a.get_forces() - a.arrays["REF_forces"]).mean() for a in read])
    assert f"force MAE {1000 * error:.1f} meV/Å" in told.stdout


def test_a_finished_run_is_not_overwritten(tuned: Path, data: Path) -> None:
    one_line(basinet("finetune", data, *TINY, *FEW, "--out", tuned), "holds a run already", "--resume")


def test_all_wrong_options_are_named_at_once(data: Path, tmp_path: Path) -> None:
    done = basinet("finetune", data, "n_trian=5", "training.n_steps=many", "model.kind=gnn", "--out", tmp_path / "x")
    one_line(done, "unknown option n_trian", "training.n_steps", "model")


def test_unknown_element_is_named(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "ammonia.extxyz"
    ase.io.write(path, frames(12, name="NH3"))
    model = tuned / "model.safetensors"
    one_line(basinet("predict", model, path, tmp_path / "out.extxyz"), "elements N, the model knows H O")
    one_line(basinet("finetune", path, f"from={model}", *FEW, "--out", tmp_path / "run"), "knows the elements H O")
    assert not (tmp_path / "out.extxyz").exists()


def test_no_molecules_is_an_error(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.extxyz"
    path.write_text("")
    one_line(basinet("predict", tuned / "model.safetensors", path, tmp_path / "out.extxyz"), "empty.extxyz")
    one_line(basinet("finetune", path, "--out", tmp_path / "run"), "empty.extxyz")


def test_nan_coordinates_name_frame_and_atom(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "nan.extxyz"
    bad = frames(3)
    bad[1].positions[2, 0] = np.nan
    ase.io.write(path, bad)
    one_line(
        basinet("predict", tuned / "model.safetensors", path, tmp_path / "out.extxyz"), "nan.extxyz:1", "not finite"
    )


def test_coincident_atoms_are_named(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "close.extxyz"
    bad = frames(1)
    bad[0].positions[2] = bad[0].positions[1]
    ase.io.write(path, bad)
    one_line(basinet("evaluate", tuned / "model.safetensors", path), "atoms 1 and 2 are 0 Å apart")


@pytest.mark.parametrize(
    ("unit", "sign", "word"), [(23.06, 1.0, "kcal/mol"), (1.0, -1.0, "sign")], ids=["energies in kcal/mol", "gradients"]
)
def test_forces_that_contradict_energies_are_refused(unit: float, sign: float, word: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.extxyz"
    ase.io.write(path, frames(40, energy_unit=unit, sign=sign))
    one_line(basinet("finetune", path, *TINY, *FEW, "--out", tmp_path / "run"), "wrong.extxyz", word)


def test_positions_in_bohr_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bohr.extxyz"
    atoms = frames(20)
    for a in atoms:
        a.positions /= 0.529177
    ase.io.write(path, atoms)
    one_line(basinet("finetune", path, *TINY, *FEW, "--out", tmp_path / "run"), "bohr")


def test_truncated_file_says_where_it_ends(tuned: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.extxyz"
    path.write_text(data.read_text()[:-60])
    one_line(basinet("predict", tuned / "model.safetensors", path, tmp_path / "out.extxyz"), "truncated")


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x00" * 4096], ids=["empty", "text", "zeros"])
def test_wrong_checkpoint_is_one_line(content: bytes, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    one_line(basinet("evaluate", path, data), "model.safetensors")


def test_missing_labels_are_refused_before_training(tmp_path: Path) -> None:
    path = tmp_path / "unlabelled.extxyz"
    atoms = [g2("H2O") for _ in range(10)]
    ase.io.write(path, atoms)
    one_line(basinet("finetune", path, *TINY, *FEW, "--out", tmp_path / "run"), "forces", "unlabelled.extxyz")
    assert not (tmp_path / "run").exists()


def test_pretraining_on_data_without_minima_says_so(data: Path, tmp_path: Path) -> None:
    done = basinet("pretrain", data, "objective.kind=coordinate_denoising", *TINY, *FEW, "--out", tmp_path / "run")
    one_line(done, "is_equilibrium")


def test_debug_step_of_a_run_that_did_not_fail_says_so(tuned: Path) -> None:
    one_line(basinet("debug-step", tuned), "no step of this run failed")


def test_ctrl_c_saves_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "basinet",
        "finetune",
        str(data),
        *TINY,
        "training.n_steps=100000",
        "--out",
        str(out),
    ]
    command += ["training.save_every=1000000", "training.validate_every=1000000", "training.log_every=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") > 3):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == EXIT_USER, stderr
    assert "Traceback" not in stderr and "the state is saved" in stderr
    assert (out / "state.pt").exists()


def test_a_full_disk_is_one_line_and_the_model_saved_before_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("basinet.models.checkpoint.save_file", full)
    one_line(basinet("finetune", data, *TINY, *FEW, "--out", tmp_path / "run"), "model.safetensors", "No space left")


def test_data_without_bonds_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    from basinet.data.store.writer import StoreWriter
    from basinet.structures import Molecule

    writer = StoreWriter.open(tmp_path / "minima", level_of_theory="", source="test", settings={})
    minima = [
        Molecule(atomic_numbers=a.numbers.astype(np.int64), positions=a.positions, is_equilibrium=True)
        for a in (g2("H2O") for _ in range(20))
    ]
    writer.write_shard(minima)
    writer.finish()
    frad = ("pretrain", tmp_path / "minima", "objective.kind=frad", *TINY, *FEW, "--out", tmp_path / "run")
    one_line(basinet(*frad, "units.bonds=file"), "bonds")
    assert not (tmp_path / "run").exists()
    done = basinet(*frad)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bonds: 20 of 20 perceived from coordinates" in done.stdout
    shown = basinet("data", "info", tmp_path / "minima", "--perceive-bonds").stdout
    assert "bonds: 20 of 20 perceived from coordinates" in " ".join(shown.split())
    assert "of 0, with bond orders of 0" in " ".join(basinet("data", "info", tmp_path / "minima").stdout.split())


def test_build_reads_files_into_a_store_and_refuses_to_overwrite_it(data: Path, tmp_path: Path) -> None:
    done = basinet("data", "build", data, tmp_path / "store", "units.level_of_theory=springs")
    assert done.returncode == 0
    assert "40 from energy" in done.stdout
    assert "springs" in basinet("data", "info", tmp_path / "store").stdout
    one_line(basinet("data", "build", data, tmp_path / "store"), "already holds a finished store")
    one_line(basinet("data", "build", data), "expected files to read and then the store to make")


def test_data_check_finds_nothing_wrong_with_sound_data_and_writes_a_page(data: Path, tmp_path: Path) -> None:
    done = basinet("data", "check", data, "--page", tmp_path / "page.html")
    assert done.returncode == 0, done.stdout
    assert "energy against" in done.stdout and "not checked" in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert "Nearest neighbours" not in page and "data:image/png" in page and "Findings" in page
    directory = basinet("data", "check", data, "--page", tmp_path / "page")
    assert directory.returncode == 0 and (tmp_path / "page" / "report.html").exists()


def test_data_check_ends_with_exit_code_1_if_there_is_a_fault(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "gradients.extxyz", frames(40, sign=-1.0))
    done = basinet("data", "check", tmp_path / "gradients.extxyz")
    assert done.returncode == 1, done.stdout
    assert "negate the forces" in done.stdout and "verdict: fault" in done.stdout


def test_data_check_against_itself_finds_every_frame_again(data: Path) -> None:
    done = basinet("data", "check", data, "--against", data)
    assert done.returncode == 1
    assert "40 of 40" in done.stdout


def test_data_check_of_a_store_refuses_units(data: Path, tmp_path: Path) -> None:
    one_line(basinet("data", "check", tmp_path), "manifest")


def test_ctrl_c_while_building_is_one_line_and_the_build_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("basinet.data.store.writer.StoreWriter.finish", interrupted)
        one_line(basinet("data", "build", data, tmp_path / "store"), "interrupted; what was finished is saved")
    one_line(basinet("data", "info", tmp_path / "store"), "unfinished store")
    assert "40 from energy" in basinet("data", "build", data, tmp_path / "store").stdout


def test_a_published_split_of_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    done = basinet("finetune", data, *TINY, *FEW, "split=qm9-110k", "--out", tmp_path / "run")
    one_line(done, "qm9-110k", "130,831", "has 40")
