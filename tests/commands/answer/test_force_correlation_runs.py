"""The forces a model implies against those of a file, with models that know the answer."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from basinet.backbones.base import NodeFeatures
from basinet.commands.answer import force_correlation as runs
from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.answer.force_correlation import (
    BY_FORCE,
    FROM_MINIMUM,
    correlate_file,
    implied_forces,
    write_correlation,
)
from basinet.commands.recipe import UnitsConfig
from basinet.models.checkpoint import save_model
from basinet.models.heads.noise import NoiseHead
from basinet.models.heads.property import Readout
from basinet.models.model import Model
from basinet.structures import Molecule
from basinet.structures.batch import Batch
from closed_energies import energy_head
from molecules import METHANE
from small_runs import TINY, frames, make_store, make_xyz, tiny_model, without_labels

LENNARD_JONES = "ase.calculators.lj:LennardJones"
STIFFNESS = 4.0
"""eV/Å²."""


class SpringEnergy(Readout):
    """Ties every atom to its place in methane."""

    sign = 1.0

    def forward(self, features: NodeFeatures, batch: Batch) -> Tensor:
        squared = (batch.positions - rest(batch)).square().sum(-1).double()
        return 0.5 * self.sign * STIFFNESS * squared.new_zeros(batch.n_molecules).index_add(0, batch.molecule, squared)


class SpringNoise(NoiseHead):
    """Knows the way back, in units of its own."""

    sign = 1.0

    def forward(self, features: NodeFeatures, batch: Batch) -> Tensor:
        return self.sign * 0.01 * (rest(batch) - batch.positions)


class RandomNoise(NoiseHead):
    def forward(self, features: NodeFeatures, batch: Batch) -> Tensor:
        return torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(3))


def rest(batch: Batch) -> Tensor:
    """Return the minimum, which lies with its mean at the origin as all molecules of a batch do."""
    places = torch.from_numpy(METHANE.positions - METHANE.positions.mean(0)).to(batch.positions)
    return places.repeat(batch.n_molecules, 1)


def tied(displacement: np.ndarray, *, is_equilibrium: bool = False) -> Molecule:
    """Return methane, moved, with the forces of the springs; the mean of its atoms stays."""
    moved = displacement - displacement.mean(0)
    return dataclasses.replace(
        METHANE,
        positions=METHANE.positions + moved,
        labels={"forces": -STIFFNESS * moved},
        is_equilibrium=is_equilibrium,
    )


@pytest.fixture
def springs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    moved = [tied(0.02 * (1 + k // 10) * rng.normal(size=(5, 3))) for k in range(60)]
    return make_store(tmp_path / "springs", [tied(np.zeros((5, 3)), is_equilibrium=True), *moved])


def use(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "load_any", lambda path, device: model.eval())


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, -1.0)])
def test_who_knows_the_springs_correlates_fully_and_who_reverses_them_with_minus_one(
    sign: float, expected: float, springs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy, noise = SpringEnergy(), SpringNoise(8, 8)
    energy.sign = noise.sign = sign
    model = tiny_model(())
    use(model.with_heads(energy=energy_head(energy, model.backbone), noise=noise), monkeypatch)
    curves, _ = correlate_file(Path("model"), springs, UnitsConfig(), n_bins=3)
    assert set(curves.curves) == {"energy", "noise"}
    assert curves.axis == FROM_MINIMUM
    for source, bins in curves.curves.items():
        assert len(bins) == 3
        for one in (*bins, curves.whole[source]):
            assert one.pearson == pytest.approx(expected, abs=1e-4)
            assert one.cosine == pytest.approx(expected, abs=1e-3)
    assert curves.whole["energy"].n_molecules == 60  # not the minimum


def test_random_noise_does_not_correlate(springs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tiny_model(()).with_heads(noise=RandomNoise(8, 8)), monkeypatch)
    curves, _ = correlate_file(Path("model"), springs, UnitsConfig())
    assert set(curves.curves) == {"noise"}
    assert abs(curves.whole["noise"].pearson) < 4 / np.sqrt(900)


def test_frames_are_ordered_by_their_distance_from_the_nearest_minimum(
    springs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tiny_model(("energy",)), monkeypatch)
    bins = correlate_file(Path("model"), springs, UnitsConfig(), n_bins=4)[0].curves["energy"]
    assert 0.005 < bins[0].lower < 0.05 and 0.1 < bins[-1].upper < 0.4


def test_without_minima_frames_are_ordered_by_the_size_of_their_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tiny_model(("energy",)), monkeypatch)
    moved = [m for m in frames() if not m.is_equilibrium]
    curves, read = correlate_file(Path("model"), make_xyz(tmp_path / "frames.xyz", moved), UnitsConfig())
    assert curves.axis == BY_FORCE
    sizes = [float(np.sqrt(np.square(m.labels["forces"]).mean())) for m in moved]
    bins = curves.curves["energy"]
    assert bins[0].lower == pytest.approx(min(sizes), rel=1e-5)
    assert bins[-1].upper == pytest.approx(max(sizes), rel=1e-5)
    assert f"{len(moved)} molecules" in read


def test_frames_of_compounds_without_a_minimum_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tiny_model(("energy",)), monkeypatch)
    some = [m for m in frames(("H2O", "NH3")) if not (m.is_equilibrium and m.smiles == "O")]
    curves, _ = correlate_file(Path("model"), make_store(tmp_path / "store", some), UnitsConfig())
    assert (curves.n_left_out, curves.whole["energy"].n_molecules) == (4, 4)


def test_data_without_displaced_forces_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tiny_model(("energy",)), monkeypatch)
    only_energies = [without_labels(m, "forces") for m in frames(("H2O",))]
    only_minima = [m for m in frames(("H2O",)) if m.is_equilibrium]
    for name, data in (("energies", only_energies), ("minima", only_minima)):
        with pytest.raises(ValueError, match="no molecule outside a minimum has forces to compare with"):
            correlate_file(Path("model"), make_store(tmp_path / name, data), UnitsConfig())
    strangers = [*(m for m in frames(("H2O",)) if not m.is_equilibrium), *frames(("NH3",), per_compound=1)]
    with pytest.raises(ValueError, match="none of its 4 frames with forces is of a compound whose minimum is in the d"):
        correlate_file(Path("model"), make_store(tmp_path / "strangers", strangers), UnitsConfig())


def test_a_model_without_energy_has_errors_of_nothing_but_implies_forces(tmp_path: Path) -> None:
    model = tiny_model(("noise",))
    path = tmp_path / "model.safetensors"
    save_model(model, path, TINY)
    data = make_store(tmp_path / "store", frames(("H2O",)))
    with pytest.raises(ValueError, match="offers noise and neither energy nor property; .* --force-correlation"):
        evaluate_file(path, data, UnitsConfig())
    curves, _ = correlate_file(path, data, UnitsConfig())
    assert set(curves.curves) == {"noise"}


def test_the_energy_of_3d_emgp_implies_forces_too_and_a_backbone_alone_none(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(tiny_model(("pooled_energy",)), path, TINY)
    data = make_store(tmp_path / "store", frames(("H2O",)))
    assert set(correlate_file(path, data, UnitsConfig())[0].curves) == {"energy"}
    with pytest.raises(ValueError, match="no energy and no noise, and so no force"):
        implied_forces(tiny_model(()), Batch(**vars_of_water()))


def vars_of_water() -> dict[str, object]:
    return {
        "atomic_numbers": torch.tensor([8, 1, 1]),
        "positions": torch.eye(3),
        "molecule": torch.zeros(3, dtype=torch.int64),
        "n_molecules": 1,
    }


def test_curves_are_written_as_json_and_as_a_figure(tmp_path: Path, springs: Path) -> None:
    model = tiny_model(("energy", "noise"))
    save_model(model, tmp_path / "model.safetensors", TINY)
    curves, _ = correlate_file(tmp_path / "model.safetensors", springs, UnitsConfig(), n_bins=2)
    write_correlation(curves, tmp_path / "out" / "deep")
    record = json.loads((tmp_path / "out" / "deep" / "force_correlation.json").read_text())
    assert record["displacement"] == FROM_MINIMUM
    assert record["curves"]["noise"][0]["pearson"] == curves.curves["noise"][0].pearson
    assert record["all"]["energy"]["n_molecules"] == 60
    assert (tmp_path / "out" / "deep" / "force_correlation.png").stat().st_size > 10_000
