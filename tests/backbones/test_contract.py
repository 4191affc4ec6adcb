"""What every backbone promises, in both layouts. A new backbone is tested by adding one line to ``BACKBONES``."""

import math
from typing import Any

import pytest
import torch

from basinet.backbones.base import BackboneSettings, Layout
from basinet.backbones.egnn import BondGraph, EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import Model
from basinet.structures.batch import Batch, collate
from basinet.structures.molecule import Molecule
from basinet.testing import (
    CHECKS,
    CLEARLY,
    EXACT,
    LAYOUTS,
    STEP,
    Check,
    check_float32,
    crossing,
    model_of,
    require_close,
)
from molecules import BENZENE, CARBON_MONOXIDE, HELIUM, METHANE, SMALL, WATER, bonded, molecule

TINY: dict[str, Any] = {"n_features": 16, "n_layers": 2, "n_heads": 4, "n_basis": 8}
TINY_EGNN: dict[str, Any] = {"n_features": 16, "n_layers": 2}
BACKBONES = {
    "equivariant transformer": EquivariantTransformerConfig(**TINY),
    "equivariant transformer, whitened": EquivariantTransformerConfig(**TINY, vector_norm="whitened"),
    "egnn of bonds": EGNNConfig(**TINY_EGNN),
    "egnn of bonds, moving": EGNNConfig(**TINY_EGNN, graph=BondGraph(max_hops=2), coordinates="moved"),
    "egnn in a radius": EGNNConfig(**TINY_EGNN, graph=RadiusGraph()),
    "egnn in a radius, moving": EGNNConfig(**TINY_EGNN, graph=RadiusGraph(), coordinates="moved"),
}


@pytest.fixture(params=BACKBONES)
def config(request: pytest.FixtureRequest) -> BackboneSettings:
    return BACKBONES[request.param]


@pytest.fixture
def model(config: BackboneSettings) -> Model:
    return model_of(config.build)


@pytest.fixture(params=[name for name, config in BACKBONES.items() if config.build().cutoff is not None])
def local_model(request: pytest.FixtureRequest) -> Model:
    """Return a model whose atoms feel nothing beyond a cutoff."""
    return model_of(BACKBONES[request.param].build)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def batch_of(*molecules: Molecule) -> Batch:
    """Return molecules with bonds, for the backbones that need them."""
    return collate([bonded(m) for m in molecules], dtype=torch.float64)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_backbone_does_what_every_backbone_must(model: Model, layout: Layout, check: Check) -> None:
    check(model, layout)


def test_float32_agrees_with_float64(config: BackboneSettings) -> None:
    check_float32(config.build)


def test_no_neighbour_is_left_out_however_many_there_are() -> None:
    # 47 others within 5 Å of the middle; a cap on neighbours would keep those that come first.
    grid = torch.cartesian_prod(*(1.3 * torch.arange(n, dtype=torch.float64) for n in (4, 4, 3)))
    lump = molecule([6, 7, 8, 9] * 12, grid.numpy())
    assert int((torch.cdist(grid, grid) < 5).sum(1).max()) == len(grid)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0)).tolist()
    mixed = molecule(lump.atomic_numbers[order], lump.positions[order])
    model = model_of(EquivariantTransformerConfig(**TINY).build)
    with torch.no_grad():
        before, after = (model(collate([m], dtype=torch.float64), ["energy", "noise"]) for m in (lump, mixed))
    require_close(after["noise"], before["noise"][order], EXACT, "noise")
    require_close(after["energy"], before["energy"], EXACT, "energy")


def test_the_hessian_is_symmetric(model: Model, layout: Layout) -> None:
    """Twice differentiated by autograd, as a force loss does."""
    batch = batch_of(WATER)
    positions = batch.positions.clone().requires_grad_()
    energy = model(batch.replace(positions=positions), ["energy"], layout=layout)["energy"].sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    rows = [torch.autograd.grad(g, positions, retain_graph=True)[0].flatten() for g in gradient.flatten()]
    hessian = torch.stack(rows)
    assert float(hessian.abs().max()) > 1e-3
    require_close(hessian, hessian.T, 1e-9, "hessian")


def test_forces_have_the_symmetry_of_the_molecule(model: Model, layout: Layout) -> None:
    # On the carbon of methane all vectors vanish up to rounding, and no direction may come of that.
    forces = model(batch_of(METHANE), ["forces"], layout=layout)["forces"]
    outward = torch.from_numpy(METHANE.positions[1:] - METHANE.positions[0])
    outward = outward / torch.linalg.vector_norm(outward, dim=1, keepdim=True)
    along = (forces[1:] * outward).sum(1)
    require_close(along, along.mean().expand(4), EXACT, "size")
    require_close(forces, torch.cat([torch.zeros_like(outward[:1]), along[:, None] * outward]), EXACT, "direction")


def test_forces_of_the_published_variant_jump_at_the_cutoff(layout: Layout) -> None:
    model = model_of(EquivariantTransformerConfig(**TINY, vector_cutoff=False).build)
    assert crossing(model, layout, 5.0 - STEP, 5.0 + STEP)["forces"] > CLEARLY


def test_two_atoms_at_the_cutoff_feel_nothing_and_closer_they_do(local_model: Model, layout: Layout) -> None:
    def largest_force(distance: float) -> float:
        batch = batch_of(molecule([6, 8], [[0, 0, 0], [0, 0, distance]]))
        return float(local_model(batch, ["forces"], layout=layout)["forces"].abs().max())

    cutoff = local_model.backbone.cutoff
    assert cutoff is not None
    inside = largest_force(0.5 * cutoff)
    assert largest_force(cutoff) == largest_force(1.01 * cutoff) == 0
    assert largest_force(cutoff - 1e-6) < 1e-4 * inside
    assert inside > 1e-4  # eV/Å


def test_flat_and_straight_molecules_have_finite_gradients_of_a_force_loss(model: Model, layout: Layout) -> None:
    model.train()
    batch = batch_of(BENZENE, CARBON_MONOXIDE, HELIUM)
    model(batch, ["forces"], layout=layout)["forces"].square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(math.isfinite(float(gradient.abs().max())) for gradient in gradients)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(config: BackboneSettings, layout: Layout) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, batch = model_of(config.build), batch_of(*SMALL)
    on_cpu = model(batch, sorted(model.offers), layout=layout)
    on_gpu = model.cuda()(batch.to("cuda"), sorted(model.offers), layout=layout)
    for key, value in on_gpu.items():
        require_close(value.cpu(), on_cpu[key], EXACT, key)
