"""A model with tabulated filters is the same function to the error it states."""

from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import molecule as g2

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.derivatives import hessian
from basinet.models.file import load_model, save_model
from basinet.models.model import Model, build_model
from basinet.models.tabulated import tabulated
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.sparse import SparseNeighbors

CONFIG = EquivariantTransformerConfig(n_features=32, n_layers=2, n_heads=4, n_basis=16)


def batch_of(*names: str, dtype: torch.dtype = torch.float64) -> Batch:
    atoms = [g2(name) if len(name) > 2 else Atoms(name) for name in names]
    molecules = [Molecule(atomic_numbers=a.numbers.astype("int64"), positions=a.positions) for a in atoms]
    batch = collate(molecules, dtype=dtype)
    noise = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return batch.replace(positions=batch.positions + 0.05 * noise)


def et(config: EquivariantTransformerConfig = CONFIG, dtype: torch.dtype = torch.float64) -> Model:
    torch.manual_seed(0)
    return build_model(build_backbone(config), ["energy", "forces"]).to(dtype).eval()


@pytest.mark.parametrize("vector_cutoff", [True, False])
@pytest.mark.parametrize("layout", [DenseNeighbors, SparseNeighbors])
def test_energies_and_forces_are_those_of_the_model(vector_cutoff: bool, layout: type) -> None:
    config = EquivariantTransformerConfig(n_features=32, n_layers=2, n_heads=4, n_basis=16, vector_cutoff=vector_cutoff)
    model, batch = et(config), batch_of("CH3CH2OH", "C6H6", "H2O")
    fast, certificate = tabulated(model, batch, filter_tolerance=1e-9)
    expected = model(batch, ["energy", "forces"], layout=layout)
    found = fast(batch, ["energy", "forces"], layout=layout)
    for key, value in found.items():
        assert (value - expected[key]).abs().max() < 1e-7, key
    assert certificate.forces < 1e-7
    assert certificate.n_molecules == 3


def test_the_certificate_says_what_was_found() -> None:
    model, batch = et(dtype=torch.float32), batch_of("CH3CH2OH", "C6H6", dtype=torch.float32)
    fast, certificate = tabulated(model, batch)
    found, expected = (m(batch, ["energy", "forces"]) for m in (fast, model))
    assert certificate.forces == float((found["forces"] - expected["forces"]).abs().max())
    assert certificate.energies == float((found["energy"] - expected["energy"]).abs().max())
    assert certificate.filters.value < 1e-6
    assert "on 2 molecules forces changed by up to" in str(certificate)


def test_forces_are_minus_the_gradient_of_the_energy_that_is_given() -> None:
    batch = batch_of("CH3OH")
    fast = tabulated(et(), batch, filter_tolerance=1e-3).model
    forces = fast(batch, ["forces"])["forces"]
    shift = torch.zeros_like(batch.positions)
    shift[2, 1] = 1e-5
    up, down = (fast(batch.replace(positions=batch.positions + s), ["energy"])["energy"] for s in (shift, -shift))
    assert abs(float((up - down).detach() / 2e-5) + float(forces[2, 1])) < 1e-7


def test_second_derivatives_are_close_to_those_of_the_model() -> None:
    model, batch = et(), batch_of("H2O")
    fast = tabulated(model, batch, filter_tolerance=1e-9).model
    assert (hessian(fast, batch) - hessian(model, batch)).abs().max() < 1e-4


def test_one_atom_has_the_energy_it_had() -> None:
    model, batch = et(), batch_of("He")
    fast = tabulated(model, batch_of("H2O")).model
    found, expected = (m(batch, ["energy", "forces"]) for m in (fast, model))
    assert torch.allclose(found["energy"], expected["energy"], rtol=0, atol=1e-9)
    assert not found["forces"].any()


def test_atoms_beyond_the_cutoff_do_not_meet() -> None:
    batch = batch_of("H2O")
    apart = batch.replace(positions=batch.positions + torch.tensor([[0.0], [20.0], [50.0]]))
    model = et()
    fast = tabulated(model, batch).model
    for layout in (DenseNeighbors, SparseNeighbors):
        found = fast(apart, ["energy", "forces"], layout=layout)
        assert not found["forces"].any()
        assert torch.allclose(found["energy"], model(apart, ["energy"], layout=layout)["energy"], rtol=0, atol=1e-9)


def test_the_model_itself_stays_as_it_is(tmp_path: Path) -> None:
    model, batch = et(), batch_of("H2O")
    before = model(batch, ["forces"])["forces"]
    fast = tabulated(model.train(), batch).model
    assert model.training
    assert torch.equal(model.eval()(batch, ["forces"])["forces"], before)
    assert fast.state_dict().keys() == model.state_dict().keys()
    save_model(fast, tmp_path / "model.safetensors", CONFIG)
    again = load_model(tmp_path / "model.safetensors").model.double().eval()
    assert torch.allclose(again(batch, ["forces"])["forces"], before, rtol=0, atol=1e-6)


def test_a_model_with_tables_cannot_be_trained() -> None:
    batch = batch_of("H2O")
    fast = tabulated(et(), batch).model.train()
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fast(batch, ["forces"])


def test_tables_that_change_forces_too_much_are_refused() -> None:
    with pytest.raises(ValueError, match="tables would change forces too much"):
        tabulated(et(), batch_of("C6H6"), filter_tolerance=1e-2, force_threshold=1e-12)


def test_a_network_without_such_filters_is_refused() -> None:
    model = build_model(build_backbone(EGNNConfig(n_features=8, n_layers=1, graph=RadiusGraph())), ["energy"])
    with pytest.raises(ValueError, match="this network is EGNN"):
        tabulated(model, batch_of("H2O"))


def test_a_model_without_forces_is_refused() -> None:
    model = build_model(build_backbone(CONFIG), ["noise"])
    with pytest.raises(ValueError, match="certified by forces"):
        tabulated(model, batch_of("H2O"))


def test_weights_that_are_not_finite_are_refused() -> None:
    model = et()
    with torch.no_grad():
        model.backbone.layers[0].filters.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        tabulated(model, batch_of("H2O"))
