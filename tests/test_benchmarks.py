"""The benchmarks compare what they say they compare, and give no number where there is none."""

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.models.model import build_model
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import RotorNoise
from basinet.structures.batch import Batch, collate
from molecules import ETHANOL, bonded, from_smiles

LENNARD_JONES = "ase.calculators.lj:LennardJones"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_published_layer_form_of_egnn_is_the_same_function() -> None:
    from rows.published_egnn import PublishedEGNN

    torch.manual_seed(0)
    model = build_model(build_backbone(EGNNConfig(n_features=16, n_layers=2)), ["energy"]).double().eval()
    batch = collate([bonded(ETHANOL)] * 2, dtype=torch.float64)
    batch = batch.replace(positions=batch.positions + 0.1 * torch.rand_like(batch.positions))
    expected = model(batch, ["energy"])["energy"]
    assert torch.allclose(PublishedEGNN(model)(batch), expected, rtol=1e-12, atol=0)


def test_contenders_take_turns() -> None:
    from rows.timing import Line, compared, race

    calls: list[str] = []
    contenders = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    times = race(contenders, 3)
    assert [len(t) for t in times.values()] == [3, 3]
    assert set(calls) == {"a", "b"}
    line = compared(Line("what", "ours", "theirs", "2"), [1.0, 1.0, 1.0], [2.0, 3.0, 4.0])
    assert line.ratio == 3.0
    assert line.our_cost == 1000.0


def test_what_was_not_measured_has_no_number() -> None:
    from rows.page import table
    from rows.timing import NotMeasured, not_measured

    row = table([not_measured("a step", "eager", "a peer", "2", NotMeasured("it is\nnot here"))]).splitlines()[-1]
    assert row == "| a step | eager | a peer |  |  |  | 2 | not measured: it is not here |"


def test_a_table_is_written_between_its_markers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rows import page

    path = tmp_path / "page.md"
    monkeypatch.setattr(page, "PAGE", path)
    markers = "<!-- peers: begin, written by a program -->", "<!-- peers: end -->"
    path.write_text(f"before\n{markers[0]}\nold\n{markers[1]}\nafter\n")
    page.write("peers", "new")
    assert path.read_text() == f"before\n{markers[0]}\n\nnew\n\n{markers[1]}\nafter\n"
    with pytest.raises(ValueError, match="must have these two lines once"):
        page.write("gpu", "new")


def test_the_page_has_all_markers() -> None:
    text = (BENCHMARKS.parent / "docs" / "performance.md").read_text()
    for name in ("peers", "profile", "gpu"):
        assert text.count(f"<!-- {name}: begin, written by a program -->") == 1
        assert text.count(f"<!-- {name}: end -->") == 1


@pytest.mark.slow
def test_the_script_for_a_gpu_works_at_tiny_sizes() -> None:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "gpu.py"), "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| torsion noise, 4 molecules |" in done.stdout


def test_minima_are_displaced_and_labelled_by_a_calculator() -> None:
    from force_correlation import displaced_frames

    minima = [dataclasses.replace(from_smiles(s), is_equilibrium=True, smiles=s) for s in ("CCO", "CCCO")]

    def shaken(batch: Batch, generator: torch.Generator) -> Batch:
        return CoordinateNoise(0.05)(batch, generator).batch

    for move in (shaken, RotorNoise(0.2)):
        made, again = (
            list(displaced_frames(minima, move, LENNARD_JONES, torch.Generator().manual_seed(0), {"sigma": 0.8}))
            for _ in range(2)
        )
        assert [m.smiles for m in made] == ["CCO", "CCCO"] and not any(m.is_equilibrium for m in made)
        for molecule, same, minimum in zip(made, again, minima, strict=True):
            assert np.array_equal(molecule.positions, same.positions)
            assert not np.allclose(molecule.positions, minimum.positions - minimum.positions.mean(0), atol=1e-3)
            assert molecule.labels["forces"].shape == molecule.positions.shape
            assert molecule.bonds is minimum.bonds


def test_collisions_are_counted_and_left_out() -> None:
    from force_correlation import displaced_frames

    failed: Counter[str] = Counter()

    def crushed(batch: Batch, generator: torch.Generator) -> Batch:
        return batch.replace(positions=0.5 * batch.positions)

    minima = [from_smiles("CCO")]
    assert not list(displaced_frames(minima, crushed, LENNARD_JONES, torch.Generator(), {"sigma": 1.0}, failed))
    assert failed == {"forces too large": 1}
