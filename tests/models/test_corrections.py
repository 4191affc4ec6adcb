"""Repulsion and dispersion, against closed forms, and as part of a model and its file."""

import math
from pathlib import Path

import pytest
import torch

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.checkpoint import load_model, save_model
from basinet.models.corrections import (
    D3Config,
    D3Dispersion,
    ZBLConfig,
    ZBLRepulsion,
    build_correction,
    repulsion,
)
from basinet.models.model import Model
from basinet.structures.batch import Batch, collate
from basinet.units import BOHR, HARTREE
from molecules import AMMONIUM, BENZENE, CARBON_MONOXIDE, HELIUM, SMALL, molecule

C6_HELIUM = 1.5583
"""Of the D3 table, Hartree Bohr^6."""


def dimer(first: int, second: int, distance: float) -> Batch:
    return collate([molecule([first, second], [[0, 0, 0], [0, 0, distance]])], dtype=torch.float64)


def published_zbl(z1: int, z2: int, r: float) -> float:
    """Return the repulsion in eV, as tables of stopping powers write it (14.3996 eV Å, 0.4685 Å)."""
    x = r * (z1**0.23 + z2**0.23) / 0.4685
    phi = 0.1818 * math.exp(-3.2 * x) + 0.5099 * math.exp(-0.9423 * x)
    phi += 0.2802 * math.exp(-0.4029 * x) + 0.02817 * math.exp(-0.2016 * x)
    return 14.3996 * z1 * z2 / r * phi


@pytest.mark.parametrize(("z1", "z2"), [(1, 1), (6, 8), (14, 14), (1, 53)])
@pytest.mark.parametrize("distance", [0.05, 0.3, 1.0])
def test_the_unswitched_repulsion_is_the_published_one(z1: int, z2: int, distance: float) -> None:
    values = torch.tensor([[z1], [z2]], dtype=torch.float64)
    found = float(repulsion(values[0], values[1], torch.tensor([distance], dtype=torch.float64)))
    assert found == pytest.approx(published_zbl(z1, z2, distance), rel=5e-4)  # digits of the published constants


def test_nuclei_that_touch_feel_the_whole_repulsion_and_bonded_ones_none() -> None:
    zbl = ZBLRepulsion(ZBLConfig())
    assert float(zbl(dimer(6, 6, 0.4))) == pytest.approx(published_zbl(6, 6, 0.4), rel=5e-4)
    assert torch.equal(zbl(collate(SMALL, dtype=torch.float64)), torch.zeros(len(SMALL), dtype=torch.float64))
    half_way = float(zbl(dimer(6, 6, 0.525 * 1.52)))  # the switch is at 1/2 between 0.35 and 0.70 of two radii
    assert half_way == pytest.approx(published_zbl(6, 6, 0.525 * 1.52) / 2, rel=5e-4)


def test_the_repulsion_is_smooth_where_it_is_switched() -> None:
    zbl, step = ZBLRepulsion(ZBLConfig()), 1e-5
    for edge in (0.35 * 1.52, 0.70 * 1.52):
        around = [float(zbl(dimer(6, 6, edge + k * step))) for k in (-2, -1, 0, 1, 2)]
        slopes = [(b - a) / step for a, b in zip(around, around[1:], strict=False)]
        curvature = [(b - a) / step for a, b in zip(slopes, slopes[1:], strict=False)]
        assert max(slopes) - min(slopes) < 1e-2 * (1 + abs(slopes[0]))
        assert max(curvature) - min(curvature) < 1e-2 * (1 + abs(curvature[0])) + 0.5
    assert float(zbl(dimer(6, 6, 0.70 * 1.52))) == 0
    assert float(zbl(dimer(6, 6, 0.65 * 1.52))) > 0.01


def test_two_molecules_repel_only_within_themselves() -> None:
    close, far = molecule([6, 6], [[0, 0, 0], [0, 0, 0.6]]), HELIUM
    zbl = ZBLRepulsion(ZBLConfig())
    together = zbl(collate([close, far, close], dtype=torch.float64))
    assert together[1] == 0
    assert float(together[0]) == float(together[2]) == float(zbl(collate([close], dtype=torch.float64)))


def test_settings_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 < inner < outer, got inner=0.8, outer=0.7"):
        ZBLConfig(inner=0.8)


def test_helium_attracts_helium_as_the_parameters_of_pbe_say() -> None:
    a1, s8, a2 = 0.4289, 0.7875, 4.4407  # Grimme et al., J. Comput. Chem. 2011
    q_helium = 1.56637132  # of the D3 table: the root of sqrt(Z) <r4> / (2 <r2>)
    for distance in (3.0, 4.0, 6.0):
        found = float(D3Dispersion(D3Config())(dimer(2, 2, distance))) / HARTREE
        r = distance / BOHR
        c8 = 3 * C6_HELIUM * q_helium**2
        radius = a1 * math.sqrt(c8 / C6_HELIUM) + a2
        expected = -C6_HELIUM / (r**6 + radius**6) - s8 * c8 / (r**8 + radius**8)
        assert found == pytest.approx(expected, rel=2e-3)


def test_dispersion_of_a_batch_is_that_of_its_molecules() -> None:
    d3 = D3Dispersion(D3Config(functional="b3lyp"))
    together = d3(collate(SMALL, dtype=torch.float64))
    alone = torch.cat([d3(collate([m], dtype=torch.float64)) for m in SMALL])
    assert torch.allclose(together, alone, rtol=1e-12, atol=1e-14)
    assert together[1] == 0  # helium alone
    assert float(together.max()) <= 0
    assert d3(collate(SMALL).select([])).shape == (0,)


def test_dispersion_is_that_of_the_library_and_three_bodies_are_asked_for() -> None:
    import tad_dftd3

    batch = collate([BENZENE], dtype=torch.float64)
    given = {k: torch.tensor(v, dtype=torch.float64) for k, v in {"a1": 0.4289, "s8": 0.7875, "a2": 4.4407}.items()}
    for three_body, s9 in ((False, 0.0), (True, 1.0)):
        parameters = given | {"s6": torch.ones(()).double(), "s9": torch.tensor(s9).double()}
        theirs = tad_dftd3.dftd3(batch.atomic_numbers, batch.positions / BOHR, parameters).sum() * HARTREE
        ours = D3Dispersion(D3Config(three_body=three_body))(batch)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-12)


def test_a_functional_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="D3\\(BJ\\) has no parameters for the functional 'mine'"):
        build_correction(D3Config(functional="mine"))


@pytest.fixture
def corrected(model: Model) -> Model:
    return model.eval().with_corrections(ZBLConfig(), D3Config())


def test_a_model_has_no_correction_unless_asked_and_adds_those_it_has(model: Model, corrected: Model) -> None:
    batch = dimer(6, 8, 0.7)
    assert not model.named_corrections()
    plain, more = (m(batch, ["energy"], create_graph=False)["energy"] for m in (model, corrected))
    parts = [correction(batch) for correction in corrected.named_corrections()]
    assert float(parts[0]) > 1 > 0 > float(parts[1])
    assert torch.allclose(more, plain + sum(parts), rtol=1e-12)


def test_forces_of_corrections_are_minus_the_gradient(corrected: Model) -> None:
    batch, step = dimer(6, 8, 0.8), 1e-5
    forces = corrected(batch, ["forces"], create_graph=False)["forces"]
    for component in range(6):
        shift = torch.zeros(6, dtype=torch.float64)
        shift[component] = step
        moved = [batch.replace(positions=batch.positions + sign * shift.view(2, 3)) for sign in (1, -1)]
        energies = [corrected(b, ["energy"], create_graph=False)["energy"].detach() for b in moved]
        slope = float(energies[0] - energies[1]) / (2 * step)
        assert -slope == pytest.approx(float(forces.flatten()[component]), rel=1e-6, abs=1e-7)


def test_weights_are_those_without_corrections(model: Model, corrected: Model) -> None:
    assert corrected.state_dict().keys() == model.state_dict().keys()
    assert corrected.with_corrections().named_corrections() == []
    assert [c.config.kind for c in corrected.with_heads(noise=None).named_corrections()] == ["zbl", "d3"]


def test_corrections_are_in_the_file_by_name(
    tmp_path: Path, corrected: Model, backbone_config: EquivariantTransformerConfig
) -> None:
    save_model(corrected, tmp_path / "m.safetensors", backbone_config)
    loaded = load_model(tmp_path / "m.safetensors").model.eval()
    assert [c.config for c in loaded.named_corrections()] == [ZBLConfig(), D3Config()]
    batch = collate([CARBON_MONOXIDE, AMMONIUM], dtype=torch.float64)
    assert torch.equal(loaded(batch, ["energy"])["energy"], corrected(batch, ["energy"])["energy"])


def test_corrections_of_molecules_without_an_energy_are_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="a correction is an energy in eV, and the model offers .* without one"):
        model.with_heads(energy=None).with_corrections(ZBLConfig())
