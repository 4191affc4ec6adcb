"""Heads for properties: closed forms, symmetry, sizes, and what is fitted to the labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.checkpoint import load_model, save_model
from basinet.models.heads.fit import LabelSample, fit_scale, set_scale
from basinet.models.heads.property import (
    DipoleReadout,
    PropertyForm,
    PropertyHead,
    ReadoutKind,
    build_property_head,
    dipole_moment,
    spatial_extent,
)
from basinet.models.model import Model, build_model, without_pretraining_heads
from basinet.structures.batch import Batch, collate
from basinet.structures.segment import from_centre_of_mass
from molecules import (
    AMMONIUM,
    CARBON_MONOXIDE,
    ETHANOL,
    HELIUM,
    METHANE,
    SMALL,
    WATER,
    apart,
    molecule,
    moved,
    random_orthogonal,
)

ET = EquivariantTransformerConfig(n_features=16, n_layers=2, n_heads=4, n_basis=8)
EGNN = EGNNConfig(n_features=16, n_layers=2, graph=RadiusGraph())
EGNN_MOVING = EGNNConfig(n_features=16, n_layers=2, graph=RadiusGraph(), coordinates="moved")
READOUTS: tuple[ReadoutKind, ...] = ("sum", "mean", "pooled", "dipole", "spatial_extent")
PAIRS = [(c, r) for c in (ET, EGNN, EGNN_MOVING) for r in READOUTS if not (c is EGNN and r == "dipole")]
ROUNDING = 1e-9
"""float64, numbers of order one to a hundred."""


def model_of(config: BackboneConfig, readout: ReadoutKind, unit: str = "eV") -> Model:
    torch.manual_seed(0)
    backbone = build_backbone(config)
    head = build_property_head(PropertyForm(readout, unit), backbone)
    head.standard.references[[1, 6, 7, 8]] = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    head.standard.scale.fill_(2.5)
    return Model(backbone, {"target": head}).double().eval()


def predict(model: Model, *molecules: object) -> torch.Tensor:
    return model(collate(list(molecules), dtype=torch.float64), ["target"])["target"].detach()


def test_the_dipole_moment_of_point_charges_is_charge_times_distance() -> None:
    batch = collate([CARBON_MONOXIDE, WATER], dtype=torch.float64)
    charges = torch.tensor([0.3, -0.3, -0.8, 0.4, 0.4], dtype=torch.float64)
    found = dipole_moment(charges, torch.zeros_like(batch.positions), batch)
    first, second = CARBON_MONOXIDE.positions
    assert np.allclose(found[0], 0.3 * (first - second), atol=1e-12)
    assert np.allclose(found[1], (charges[2:, None].numpy() * WATER.positions).sum(0), atol=1e-12)
    local = torch.ones_like(batch.positions)
    assert torch.allclose(dipole_moment(charges, local, batch) - found, torch.tensor([[2.0], [3.0]]).double())


def test_the_dipole_moment_of_an_ion_is_about_the_centre_of_mass() -> None:
    ion = molecule([1, 35], [[5.0, 0, 0], [6.4, 0, 0]])
    batch = collate([ion], dtype=torch.float64)
    found = dipole_moment(torch.tensor([1.0, 0.0]), torch.zeros_like(batch.positions), batch)
    mass_h, mass_br = 1.008, 79.904
    assert float(found[0, 0]) == pytest.approx(-1.4 * mass_br / (mass_h + mass_br), rel=1e-6)


def test_the_spatial_extent_of_known_charges() -> None:
    two = molecule([7, 7], [[0, 0, 0], [0, 0, 1.1]])
    batch = collate([two, HELIUM], dtype=torch.float64)
    charges = torch.tensor([7.0, 7.0, 2.0], dtype=torch.float64)
    assert torch.allclose(spatial_extent(charges, batch), torch.tensor([14 * 0.55**2, 0.0]).double())


def test_the_centre_of_mass_is_that_of_ase() -> None:
    batch = collate(SMALL, dtype=torch.float64)
    found = from_centre_of_mass(batch).split(batch.atoms_per_molecule.tolist())
    for m, ours in zip(SMALL, found, strict=True):
        atoms = Atoms(m.atomic_numbers, m.positions)
        assert np.allclose(ours, atoms.positions - atoms.get_center_of_mass(), atol=1e-12)


@pytest.mark.parametrize(("config", "readout"), PAIRS, ids=lambda x: x if isinstance(x, str) else x.kind)
@pytest.mark.parametrize("reflect", [False, True])
def test_a_property_does_not_change_when_the_molecule_is_moved(
    config: BackboneConfig, readout: ReadoutKind, reflect: bool
) -> None:
    model, batch = model_of(config, readout), collate(SMALL, dtype=torch.float64)
    shift = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    before = model(batch, ["target"])["target"]
    after = model(moved(batch, random_orthogonal(1, reflect=reflect), shift), ["target"])["target"]
    assert (after - before).abs().max() < ROUNDING, (after - before).abs().max()
    assert before.std() > 1e-3  # it depends on the molecule at all


@pytest.mark.parametrize("readout", READOUTS)
def test_atoms_may_come_in_any_order_and_molecules_in_any_batch(readout: ReadoutKind) -> None:
    model = model_of(ET, readout)
    order = np.random.default_rng(0).permutation(ETHANOL.n_atoms)
    shuffled = molecule(ETHANOL.atomic_numbers[order], ETHANOL.positions[order])
    alone = torch.cat([predict(model, m) for m in (*SMALL, shuffled)])
    assert torch.allclose(predict(model, *SMALL, shuffled), alone, atol=ROUNDING)
    assert float(alone[-1]) == pytest.approx(float(alone[0]), abs=ROUNDING)


def test_a_sum_over_atoms_adds_up_and_a_mean_does_not_grow() -> None:
    ethanol, water, both = predict(model_of(ET, "sum"), ETHANOL, WATER, apart(ETHANOL, WATER, 50.0))
    assert float(both) == pytest.approx(float(ethanol + water), abs=ROUNDING)
    mean = model_of(ET, "mean")
    mean.property_head("target").standard.references.zero_()
    one, two = predict(mean, WATER, apart(WATER, WATER, 50.0))
    assert float(one) == pytest.approx(float(two), abs=ROUNDING)


def test_by_symmetry_methane_ammonium_and_an_atom_have_no_dipole_moment() -> None:
    model = model_of(ET, "dipole")
    model.property_head("target").standard.references.zero_()
    symmetric = predict(model, METHANE, AMMONIUM, HELIUM)
    assert symmetric.abs().max() < 1e-6
    assert predict(model, WATER) > 1e-3
    predicted = model.train()(collate([METHANE, HELIUM], dtype=torch.float64), ["target"])["target"]
    predicted.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_backbone_without_vectors_has_no_dipole_and_says_what_to_choose() -> None:
    with pytest.raises(ValueError, match="EGNN has no vector features, and the dipole readout .* readout=sum or pool"):
        DipoleReadout(build_backbone(EGNN))


def test_a_head_speaks_the_units_of_the_package() -> None:
    with pytest.raises(ValueError, match=r"got 'D', expected 'e\*Angstrom'"):
        PropertyHead(PropertyForm("dipole", "D"), build_backbone(ET))


@pytest.mark.parametrize("name", ["energy", "forces", "noise", "pop", "training", "a b", "9a"])
def test_a_property_cannot_have_a_name_that_is_taken(name: str) -> None:
    backbone = build_backbone(ET)
    head = build_property_head(PropertyForm("mean", "eV"), backbone)
    with pytest.raises(
        ValueError, match=r"property cannot be called|needs a name of letters|must be of type|the energy must be"
    ):
        Model(backbone, {name: head})


def test_a_saved_property_comes_back_with_its_unit_and_scale(tmp_path: Path) -> None:
    model = model_of(ET, "dipole", "e*Angstrom")
    save_model(model, tmp_path / "m.safetensors", ET)
    loaded = load_model(tmp_path / "m.safetensors").model.eval()
    assert loaded.property_head("target").form == PropertyForm("dipole", "e*Angstrom")
    assert torch.equal(predict(loaded, *SMALL), predict(model, *SMALL))
    assert loaded.offers == {"target"}
    with pytest.raises(ValueError, match=r"no property 'homo'; it offers \['target'\]"):
        loaded.property_head("homo")


def test_scale_and_references_stay_double_when_a_model_is_cast() -> None:
    head = model_of(ET, "sum").float().property_head("target")
    assert {b.dtype for b in head.standard.buffers()} == {torch.float64}
    assert not list(head.standard.parameters())
    head.standard.references[6] = -1034.123456789
    assert model_of(ET, "sum").float().eval()(collate([METHANE]), ["target"])["target"].dtype == torch.float64


def test_learning_something_else_leaves_the_property_behind() -> None:
    model = model_of(ET, "sum")
    both = model.with_heads(energy=build_model(model.backbone, ["energy"]).named_heads()["energy"])
    assert without_pretraining_heads(both, {"energy", "forces"}).offers == {"energy", "forces"}
    assert without_pretraining_heads(both, {"target"}).offers == {"energy", "forces", "target"}


def labelled(values: list[float], molecules: tuple[object, ...] = (WATER, METHANE, ETHANOL)) -> LabelSample:
    batch = collate(list(molecules), dtype=torch.float64)
    labels = torch.tensor(values, dtype=torch.float64)
    batch = batch.replace(labels={"y": labels}, flags={"has_y": ~labels.isnan()})
    return LabelSample.of(model_of(ET, "sum").property_head("target"), "y", batch)


def test_the_baseline_is_the_mean_and_the_scale_the_deviation() -> None:
    fit = fit_scale(labelled([1.0, 2.0, 6.0]), "mean", "rms")
    assert (fit.shift, fit.scale) == (pytest.approx(3.0), pytest.approx(np.std([1.0, 2.0, 6.0])))
    assert fit_scale(labelled([1.0, 2.0, 6.0]), "mean", "mad").scale == pytest.approx((2 + 1 + 3) / 3)
    assert fit_scale(labelled([3.0, 4.0, 0.0]), "none", "rms").scale == pytest.approx((25 / 3) ** 0.5)
    assert fit_scale(labelled([1.0, 2.0, 6.0]), "mean", "none").scale == 1.0


def test_a_molecule_without_a_label_does_not_enter_the_fit() -> None:
    assert fit_scale(labelled([1.0, float("nan"), 6.0]), "mean", "rms").shift == pytest.approx(3.5)
    with pytest.raises(ValueError, match="no labels to fit"):
        fit_scale(labelled([float("nan")] * 3), "mean", "rms")


def test_references_of_the_elements_are_found_again() -> None:
    molecules = (WATER, METHANE, ETHANOL, CARBON_MONOXIDE)
    true = {1: -13.6, 6: -1030.0, 8: -2040.0}
    values = [sum(true[int(z)] for z in m.atomic_numbers) for m in molecules]
    fit = fit_scale(labelled(values, molecules), "composition", "none")
    assert {z: pytest.approx(float(fit.references[z])) for z in true} == true
    with pytest.raises(ValueError, match="all given by their sum over elements: there is nothing left to learn"):
        fit_scale(labelled(values, molecules), "composition", "rms")


@pytest.mark.parametrize("n", [1, 3])
def test_one_label_alone_is_nothing_to_learn_from(n: int) -> None:
    with pytest.raises(ValueError, match=rf"the {n} training labels \(the first is 4.2\) are all given by their mean"):
        fit_scale(labelled([4.2] * n, (WATER, METHANE, ETHANOL)[:n]), "mean", "rms")


def test_the_scale_of_a_spatial_extent_is_a_charge() -> None:
    head = build_property_head(PropertyForm("spatial_extent", "Angstrom^2"), build_backbone(ET))
    batch = collate([WATER, METHANE, ETHANOL], dtype=torch.float64)
    extent = spatial_extent(torch.full_like(batch.positions[:, 0], 3.5), batch)
    batch = batch.replace(labels={"y": extent}, flags={"has_y": torch.ones(3, dtype=torch.bool)})
    fit = fit_scale(LabelSample.of(head, "y", batch), "none", "rms")
    assert fit.scale == pytest.approx(3.5)
    set_scale(head, fit)
    assert float(head.standard.scale) == pytest.approx(3.5)


def test_an_empty_batch_has_no_properties() -> None:
    batch: Batch = collate([WATER]).select([])
    for readout in READOUTS:
        assert model_of(ET, readout).float()(batch, ["target"])["target"].shape == (0,)
