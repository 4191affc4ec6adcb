"""The commands and programs of the pages, as written there, on small data and with few steps."""

import csv
import io
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from blocks import COMMANDS, PAGES, ROOT, Block, blocks_of, commands_in

from typed import basinet

FEW_STEPS = ["training.n_steps=4", "training.validate_every=2", "training.save_every=2"]
SMALL = {
    "pretrain": [*FEW_STEPS, "launch.accelerator=cpu", "validation_fraction=0.2"],
    "finetune": [*FEW_STEPS, "launch.accelerator=cpu"],
    "compare": [*FEW_STEPS, "sizes=4,8", "seeds=2"],
    "simulate": ["--picoseconds", "0.02", "--replicas", "2"],
    "data generate": ["processes=1", "n_molecules=2"],
}
"""Options appended to a command so that it takes seconds."""
SMALLER = {"n_steps=600": "n_steps=4", "cv=5": "cv=2"}
"""Text of a Python block that is replaced, for the same reason."""
MAY_FAIL = {"certify": (0, 1), "simulate": (0, 1), "data check": (0, 1)}
"""Exit codes of commands that judge: a network of four steps need not be stable."""


def name_of(command: list[str]) -> str:
    """Return the command and its group."""
    return " ".join(command[:2] if command[0] in ("data", "benchmark") else command[:1])


def type_commands(text: str) -> dict[str, str]:
    """Run the commands of a shell block and return the output of the last one of each name."""
    said = {}
    for program, *command in commands_in(text):
        assert program == "basinet", f"{program}: only basinet is run; mark the block with <!-- not run: reason -->"
        name = name_of(command)
        done = basinet(*command, *SMALL.get(name, []))
        assert done.returncode in MAY_FAIL.get(name, (0,)), f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        said[name] = done.stdout
    return said


def blocks_run(page: Path) -> list[Block]:
    """Return the blocks of commands that are not marked as not run."""
    return [block for block in blocks_of(page) if block.language in COMMANDS and block.reason is None]


def run_page(page: Path, given: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Run all blocks of a page in a copy of the given directory, less what the page itself makes."""
    blocks = blocks_run(page)
    made = re.findall(r"--out (\S+)", "\n".join(block.text for block in blocks))
    shutil.copytree(
        given, place, ignore=lambda folder, names: {n for n in names if Path(folder) == given and n in made}
    )
    monkeypatch.chdir(place)
    said = {}
    for block in blocks:
        if block.language == "bash":
            said |= type_commands(block.text)
        else:
            text = block.text
            for long, short in SMALLER.items():
                text = text.replace(long, short)
            with redirect_stdout(io.StringIO()) as printed:
                exec(compile(text, page.name, "exec"), {"__name__": "__main__"})  # noqa: S102
            said["python"] = printed.getvalue()
    return said


SLOW = ("docs/generate.md",)
STORIES = ["own-data.md", "properties-from-csv.md", "new-objective.md", "trust.md"]
OTHERS = [str(page.relative_to(ROOT)) for page in PAGES if page.name not in STORIES and blocks_run(page)]


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in OTHERS])
def test_every_command_of_a_page_runs(page: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(ROOT / page, given, tmp_path / "day", monkeypatch)


def test_a_chemist_with_labelled_conformations(given, tmp_path, monkeypatch):
    day = tmp_path / "day"
    said = run_page(ROOT / "docs" / "own-data.md", given, day, monkeypatch)
    assert "reference energies re-fitted" in said["finetune"]
    assert "the data determines" in said["finetune"] or "re-fitted:" in said["finetune"]
    predicted = ase.io.read(day / "predicted.extxyz", ":")
    assert len(predicted) == 3
    assert all(isinstance(atoms, Atoms) and np.isfinite(atoms.get_forces()).all() for atoms in predicted)
    assert "test errors" in said["compare"]
    assert (day / "compared" / "report.html").exists()
    assert (day / "check.html").exists()


def test_a_researcher_with_a_new_objective(given, tmp_path, monkeypatch):
    said = run_page(ROOT / "docs" / "new-objective.md", given, tmp_path / "day", monkeypatch)
    assert "loss: 1 denoising" in said["pretrain"]
    assert "mine" in said["compare"]


@pytest.mark.slow
def test_a_scientist_with_a_table_of_smiles(given, tmp_path, monkeypatch):
    day = tmp_path / "day"
    said = run_page(ROOT / "docs" / "properties-from-csv.md", given, day, monkeypatch)
    assert "scaffold split of compounds" in said["finetune"]
    rows = list(csv.DictReader((day / "predicted.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert float(rows[0]["homo_eV_lower"]) < float(rows[0]["homo_eV_predicted"]) < float(rows[0]["homo_eV_upper"])
    embedded = np.load(day / "new.npy")
    assert np.isfinite(embedded[0]).all()
    assert np.isnan(embedded[1]).all()


@pytest.mark.slow
def test_someone_who_asks_for_guarantees(given, tmp_path, monkeypatch):
    day = tmp_path / "day"
    said = run_page(ROOT / "docs" / "trust.md", given, day, monkeypatch)
    assert "passed" in said["certify"]
    assert "3 members" in said["info"]
    assert "force disagreement" in said["simulate"]
    assert (day / "md" / "report.html").exists()


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_blocks_without_a_language_show_output_and_no_commands(page: str) -> None:
    hidden = [line for block in blocks_of(ROOT / page) for line in _typed_in(block)]
    assert not hidden, "put commands into a block of language bash, where they are run or marked"


def _typed_in(block: Block) -> list[str]:
    lines = block.text.splitlines() if block.language not in COMMANDS else []
    return [line for line in lines if re.match(r"(\$ )?(basinet|pip|python) [a-z]", line)]


def test_the_example_on_the_page_is_the_example_in_the_file() -> None:
    (shown,) = [block.text for block in blocks_of(ROOT / "docs" / "new-objective.md") if block.language == "python"]
    assert shown.strip() in (ROOT / "examples" / "my_noise.py").read_text()
