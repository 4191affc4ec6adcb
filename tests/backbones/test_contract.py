"""What every backbone promises, in both layouts. A new backbone is tested by adding one line to ``BACKBONES``."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from basinet.backbones.base import Layout
from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.egnn import BondGraph, EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import Model, build_model
from basinet.structures.batch import Batch, collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.molecule import Molecule
from basinet.structures.sparse import SparseNeighbors
from molecules import (
    BENZENE,
    CARBON_MONOXIDE,
    ETHANOL,
    HELIUM,
    METHANE,
    SMALL,
    WATER,
    apart,
    bonded,
    molecule,
    moved,
    permuted,
    random_orthogonal,
)

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
LAYOUTS = {"dense": DenseNeighbors, "sparse": SparseNeighbors}

EXACT = 1e-9
"""Relative to the largest value, float64: rounding, multiplied by up to 200 where vectors are whitened."""
SINGLE = 1e-2
"""The same for float32, where rounding is 1e-7; whitening multiplies it by up to 180 in features, again in forces."""
CLEARLY = 1e-3
"""Relative size of an effect that is there, in tests that it is."""


def model_of(config: BackboneConfig) -> Model:
    """Return a model in float64 whose biases are not zero, as if it were trained."""
    torch.manual_seed(0)
    backbone = build_backbone(config)
    model = build_model(backbone, ["energy", "noise"] if backbone.n_vector else ["energy"]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(params=BACKBONES)
def config(request: pytest.FixtureRequest) -> BackboneConfig:
    return BACKBONES[request.param]


@pytest.fixture
def model(config: BackboneConfig) -> Model:
    return model_of(config)


def outputs_of(model: Model) -> list[str]:
    return sorted(model.offers)


@pytest.fixture(params=[name for name, config in BACKBONES.items() if build_backbone(config).cutoff is not None])
def local_model(request: pytest.FixtureRequest) -> Model:
    """Return a model whose atoms feel nothing beyond a cutoff."""
    return model_of(BACKBONES[request.param])


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def batch_of(*molecules: Molecule) -> Batch:
    """Return molecules with bonds, for the backbones that need them."""
    return collate([bonded(m) for m in molecules], dtype=torch.float64)


def small_batch() -> Batch:
    """Return molecules of different sizes, so that dense blocks are padded."""
    return batch_of(*SMALL)


def assert_close(ours: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    assert ours.shape == expected.shape
    error = float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-3)) if ours.numel() else 0.0
    assert error < tolerance, f"{what}: largest relative error {error:.2e}"


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_turning_and_shifting_a_molecule_turns_its_forces_and_noise_and_keeps_its_energy(
    model: Model, layout: Layout, seed: int, reflect: bool
) -> None:
    batch, rotation = small_batch(), random_orthogonal(seed, reflect=reflect)
    shift = 10 * torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    before = model(batch, outputs_of(model), layout=layout)
    after = model(moved(batch, rotation, shift), outputs_of(model), layout=layout)
    for key in outputs_of(model):
        expected = before[key] if key == "energy" else before[key] @ rotation.T
        assert_close(after[key], expected, EXACT, key)


def test_permuting_atoms_permutes_their_forces(model: Model, layout: Layout) -> None:
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    batches = batch_of(ETHANOL), collate([permuted(bonded(ETHANOL), order)], dtype=torch.float64)
    before, after = (model(batch, outputs_of(model), layout=layout) for batch in batches)
    for key in outputs_of(model):
        expected = before[key] if key == "energy" else before[key][order]
        assert_close(after[key], expected, EXACT, key)


def test_no_neighbour_is_left_out_however_many_there_are() -> None:
    # 47 others within 5 Å of the middle; a cap on neighbours would keep those that come first.
    grid = torch.cartesian_prod(*(1.3 * torch.arange(n, dtype=torch.float64) for n in (4, 4, 3)))
    lump = molecule([6, 7, 8, 9] * 12, grid.numpy())
    assert int((torch.cdist(grid, grid) < 5).sum(1).max()) == len(grid)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0)).tolist()
    mixed = molecule(lump.atomic_numbers[order], lump.positions[order])
    model = model_of(EquivariantTransformerConfig(**TINY))
    with torch.no_grad():
        before, after = (model(collate([m], dtype=torch.float64), ["energy", "noise"]) for m in (lump, mixed))
    assert_close(after["noise"], before["noise"][order], EXACT, "noise")
    assert_close(after["energy"], before["energy"], EXACT, "energy")


def test_a_batch_is_its_molecules_one_by_one(model: Model, layout: Layout) -> None:
    together = model(small_batch(), outputs_of(model), layout=layout)
    alone = [model(batch_of(m), outputs_of(model), layout=layout) for m in SMALL]
    for key in outputs_of(model):
        assert_close(together[key], torch.cat([found[key] for found in alone]), EXACT, key)


def test_both_layouts_give_the_same(model: Model) -> None:
    batch = small_batch()
    found, gradients = {}, {}
    for name, layout in LAYOUTS.items():
        model.zero_grad()
        found[name] = model(batch, outputs_of(model), layout=layout, create_graph=True)
        sum(value.square().sum() for value in found[name].values()).backward()
        gradients[name] = {key: p.grad for key, p in model.named_parameters()}
        found[name] = {key: value.detach() for key, value in found[name].items()}
    for key in outputs_of(model):
        assert_close(found["dense"][key], found["sparse"][key], EXACT, key)
    for key, gradient in gradients["sparse"].items():
        assert gradient is not None, key
        assert_close(gradients["dense"][key], gradient, EXACT, f"gradient of {key}")


def test_a_single_atom_has_an_energy_and_no_force(model: Model, layout: Layout) -> None:
    found = model(batch_of(HELIUM), outputs_of(model), layout=layout, create_graph=True)
    assert found["energy"].shape == (1,)
    assert bool(found["energy"].isfinite().all())
    for key in set(found) - {"energy"}:
        assert torch.equal(found[key], torch.zeros(1, 3, dtype=torch.float64)), key


def test_an_atom_beyond_the_cutoff_adds_its_energy_and_feels_nothing(local_model: Model, layout: Layout) -> None:
    with_atom = local_model(batch_of(apart(WATER, HELIUM, 20.0)), outputs_of(local_model), layout=layout)
    alone = local_model(batch_of(WATER, HELIUM), outputs_of(local_model), layout=layout)
    assert_close(with_atom["energy"], alone["energy"].sum(0, keepdim=True), EXACT, "energy")
    assert_close(with_atom["forces"], alone["forces"], EXACT, "forces")
    assert torch.equal(with_atom["forces"][3], torch.zeros(3, dtype=torch.float64))


def test_molecules_far_apart_are_the_sum_and_feel_exactly_nothing_of_each_other(
    local_model: Model, layout: Layout
) -> None:
    batch = batch_of(apart(ETHANOL, BENZENE, 30.0))
    whole = local_model(batch, outputs_of(local_model), layout=layout)
    parts = local_model(batch_of(ETHANOL, BENZENE), outputs_of(local_model), layout=layout)
    assert_close(whole["energy"], parts["energy"].sum(0, keepdim=True), EXACT, "energy")
    assert_close(whole["forces"], parts["forces"], EXACT, "forces")
    positions = batch.positions.requires_grad_()
    features = local_model.backbone(batch, layout(batch, local_model.backbone.cutoff))
    of_ethanol = features.scalar[:9].sum() + features.vector[:9].sum()
    (gradient,) = torch.autograd.grad(of_ethanol, positions)
    assert bool((gradient[9:] == 0).all())
    assert bool((gradient[:9] != 0).any())


def test_molecules_of_a_batch_feel_exactly_nothing_of_each_other(model: Model, layout: Layout) -> None:
    batch = small_batch()
    positions = batch.positions.requires_grad_()
    (gradient,) = torch.autograd.grad(model(batch, ["energy"], layout=layout)["energy"][0], positions)
    assert bool((gradient[9:] == 0).all())
    assert bool(gradient[:9].any(dim=1).all())


def test_forces_are_finite_differences_of_the_energy(model: Model, layout: Layout) -> None:
    batch = batch_of(ETHANOL, WATER)
    forces = model(batch, ["forces"], layout=layout)["forces"]
    h = 1e-4

    def energy(atom: int, axis: int, step: float) -> float:
        shifted = batch.positions.clone()
        shifted[atom, axis] += step
        return float(model(batch.replace(positions=shifted), ["energy"], layout=layout)["energy"].detach().sum())

    for atom, axis in ((0, 0), (1, 1), (4, 2), (8, 0), (9, 1), (11, 2)):
        near, far = (energy(atom, axis, -k * h) - energy(atom, axis, k * h) for k in (1, 2))
        numerical = (8 * near - far) / (12 * h)  # minus the five-point derivative, error of order h^4
        error = abs(float(forces[atom, axis]) - numerical) / float(forces.abs().max())
        assert error < 1e-7, f"atom {atom}, axis {axis}: relative error {error:.2e}"


def test_the_hessian_is_symmetric(model: Model, layout: Layout) -> None:
    """Twice differentiated by autograd, as a force loss does."""
    batch = batch_of(WATER)
    positions = batch.positions.clone().requires_grad_()
    energy = model(batch.replace(positions=positions), ["energy"], layout=layout)["energy"].sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    rows = [torch.autograd.grad(g, positions, retain_graph=True)[0].flatten() for g in gradient.flatten()]
    hessian = torch.stack(rows)
    assert float(hessian.abs().max()) > 1e-3
    assert_close(hessian, hessian.T, 1e-9)


def test_forces_have_the_symmetry_of_the_molecule(model: Model, layout: Layout) -> None:
    # On the carbon of methane all vectors vanish up to rounding, and no direction may come of that.
    forces = model(batch_of(METHANE), ["forces"], layout=layout)["forces"]
    outward = torch.from_numpy(METHANE.positions[1:] - METHANE.positions[0])
    outward = outward / torch.linalg.vector_norm(outward, dim=1, keepdim=True)
    along = (forces[1:] * outward).sum(1)
    assert_close(along, along.mean().expand(4), EXACT, "size")
    assert_close(forces, torch.cat([torch.zeros_like(outward[:1]), along[:, None] * outward]), EXACT, "direction")


def crossing(distance: float) -> Batch:
    """Return CO and a helium atom at ``distance`` Å from the carbon atom, the farther of the two."""
    carbon, oxygen = [0.0, 0.0, 0.0], [0.0, 0.4, 1.06]
    return batch_of(molecule([6, 8, 2], [carbon, oxygen, [0.0, 0.0, distance]]))


def change(model: Model, layout: Layout, inner: float, outer: float) -> dict[str, float]:
    """Return how much energy and forces differ at two distances, relative to the largest force."""
    a, b = (model(crossing(r), ["energy", "forces"], layout=layout) for r in (inner, outer))
    size = b["forces"].abs().max()
    return {key: float((a[key] - b[key]).abs().max() / size) for key in a}


def test_energy_and_forces_pass_the_cutoff_smoothly(local_model: Model, layout: Layout) -> None:
    cutoff = local_model.backbone.cutoff
    assert cutoff is not None
    step = 1e-6
    across = change(local_model, layout, cutoff - step, cutoff + step)
    assert across["energy"] < 100 * step, f"the energy jumps by {across['energy']:.2e}"
    assert across["forces"] < 100 * step, f"the forces jump by {across['forces']:.2e}"
    inside = change(local_model, layout, cutoff - 0.5, cutoff)
    assert inside["forces"] > CLEARLY, "control: an atom inside the cutoff must be felt"


def test_forces_of_the_published_variant_jump_at_the_cutoff(layout: Layout) -> None:
    step = 1e-6
    model = model_of(EquivariantTransformerConfig(**TINY, vector_cutoff=False))
    assert change(model, layout, 5.0 - step, 5.0 + step)["forces"] > CLEARLY


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


def test_the_input_stays_as_it_is(model: Model, layout: Layout) -> None:
    batch = small_batch()
    before = [x.clone() for x in (batch.atomic_numbers, batch.positions, batch.molecule)]
    model(batch, outputs_of(model), layout=layout, create_graph=True)["forces"].sum().backward()
    after = (batch.atomic_numbers, batch.positions, batch.molecule)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not batch.positions.requires_grad
    assert batch.positions.grad is None


def test_no_molecules_have_no_outputs(model: Model, layout: Layout) -> None:
    found = model(small_batch().select([]), outputs_of(model), layout=layout, create_graph=True)
    assert set(found) == model.offers
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        key: (0,) if key == "energy" else (0, 3) for key in found
    }


def test_float32_agrees_with_float64(config: BackboneConfig, layout: Layout) -> None:
    outputs = outputs_of(model_of(config))
    double = model_of(config)(small_batch(), outputs, layout=layout)
    single = model_of(config).float()(small_batch().to(dtype=torch.float32), outputs, layout=layout)
    assert {key: value.dtype for key, value in single.items()} == {
        key: torch.float64 if key == "energy" else torch.float32 for key in outputs
    }
    for key in outputs:
        assert_close(single[key].double(), double[key], SINGLE, key)


def test_flat_and_straight_molecules_have_finite_gradients_of_a_force_loss(model: Model, layout: Layout) -> None:
    model.train()
    batch = batch_of(BENZENE, CARBON_MONOXIDE, HELIUM)
    model(batch, ["forces"], layout=layout)["forces"].square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(math.isfinite(float(gradient.abs().max())) for gradient in gradients)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(config: BackboneConfig, layout: Layout) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    outputs = outputs_of(model_of(config))
    on_cpu = model_of(config)(small_batch(), outputs, layout=layout)
    on_gpu = model_of(config).cuda()(small_batch().to("cuda"), outputs, layout=layout)
    for key in outputs:
        assert_close(on_gpu[key].cpu(), on_cpu[key], EXACT, key)
