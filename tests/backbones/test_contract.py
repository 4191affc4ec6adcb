"""What every backbone promises, in both layouts. A new backbone is tested by adding one line to ``BACKBONES``."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import Layout, Model, build_model
from basinet.structures.batch import Batch, collate
from basinet.structures.neighbors import DenseNeighbors, SparseNeighbors
from molecules import (
    BENZENE,
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

TINY: dict[str, Any] = {"n_features": 16, "n_layers": 2, "n_heads": 4, "n_basis": 8}
BACKBONES = {
    "equivariant transformer": EquivariantTransformerConfig(**TINY),
    "equivariant transformer, whitened": EquivariantTransformerConfig(**TINY, vector_norm="whitened"),
}
LAYOUTS = {"dense": DenseNeighbors, "sparse": SparseNeighbors}
OUTPUTS = ["energy", "forces", "noise"]

EXACT = 1e-9
"""Relative to the largest value, float64: rounding, multiplied by up to 200 where vectors are whitened."""
SINGLE = 1e-2
"""The same for float32, where rounding is 1e-7; whitening multiplies it by up to 180 in features, again in forces."""
CLEARLY = 1e-3
"""Relative size of an effect that is there, in tests that it is."""


def model_of(config: BackboneConfig) -> Model:
    """Return a model in float64 whose biases are not zero, as if it were trained."""
    torch.manual_seed(0)
    model = build_model(build_backbone(config), OUTPUTS).double().eval()
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


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def small_batch() -> Batch:
    """Return molecules of different sizes, so that dense blocks are padded."""
    return collate(SMALL, dtype=torch.float64)


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
    before = model(batch, OUTPUTS, layout=layout)
    after = model(moved(batch, rotation, shift), OUTPUTS, layout=layout)
    assert_close(after["energy"], before["energy"], EXACT, "energy")
    assert_close(after["forces"], before["forces"] @ rotation.T, EXACT, "forces")
    assert_close(after["noise"], before["noise"] @ rotation.T, EXACT, "noise")


def test_permuting_atoms_permutes_their_forces(model: Model, layout: Layout) -> None:
    batch = collate([ETHANOL], dtype=torch.float64)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    other = batch.replace(atomic_numbers=batch.atomic_numbers[order], positions=batch.positions[order])
    before, after = (model(b, OUTPUTS, layout=layout) for b in (batch, other))
    assert_close(after["energy"], before["energy"], EXACT, "energy")
    assert_close(after["forces"], before["forces"][order], EXACT, "forces")
    assert_close(after["noise"], before["noise"][order], EXACT, "noise")


def test_a_batch_is_its_molecules_one_by_one(model: Model, layout: Layout) -> None:
    together = model(small_batch(), OUTPUTS, layout=layout)
    alone = [model(collate([m], dtype=torch.float64), OUTPUTS, layout=layout) for m in SMALL]
    for key in OUTPUTS:
        assert_close(together[key], torch.cat([found[key] for found in alone]), EXACT, key)


def test_both_layouts_give_the_same(model: Model) -> None:
    batch = small_batch()
    found, gradients = {}, {}
    for name, layout in LAYOUTS.items():
        model.zero_grad()
        found[name] = model(batch, OUTPUTS, layout=layout, create_graph=True)
        sum(value.square().sum() for value in found[name].values()).backward()
        gradients[name] = {key: p.grad for key, p in model.named_parameters()}
        found[name] = {key: value.detach() for key, value in found[name].items()}
    for key in OUTPUTS:
        assert_close(found["dense"][key], found["sparse"][key], EXACT, key)
    for key, gradient in gradients["sparse"].items():
        assert gradient is not None, key
        assert_close(gradients["dense"][key], gradient, EXACT, f"gradient of {key}")


def test_a_single_atom_has_an_energy_and_no_force(model: Model, layout: Layout) -> None:
    found = model(collate([HELIUM], dtype=torch.float64), OUTPUTS, layout=layout, create_graph=True)
    assert found["energy"].shape == (1,)
    assert bool(found["energy"].isfinite().all())
    assert torch.equal(found["forces"], torch.zeros(1, 3, dtype=torch.float64))
    assert torch.equal(found["noise"], torch.zeros(1, 3, dtype=torch.float64))


def test_an_atom_beyond_the_cutoff_adds_its_energy_and_feels_nothing(model: Model, layout: Layout) -> None:
    with_atom = model(collate([apart(WATER, HELIUM, 20.0)], dtype=torch.float64), OUTPUTS, layout=layout)
    alone = model(collate([WATER, HELIUM], dtype=torch.float64), OUTPUTS, layout=layout)
    assert_close(with_atom["energy"], alone["energy"].sum(0, keepdim=True), EXACT, "energy")
    assert_close(with_atom["forces"], alone["forces"], EXACT, "forces")
    assert torch.equal(with_atom["forces"][3], torch.zeros(3, dtype=torch.float64))


def test_molecules_far_apart_are_the_sum_and_feel_exactly_nothing_of_each_other(model: Model, layout: Layout) -> None:
    batch = collate([apart(ETHANOL, BENZENE, 30.0)], dtype=torch.float64)
    whole = model(batch, OUTPUTS, layout=layout)
    parts = model(collate([ETHANOL, BENZENE], dtype=torch.float64), OUTPUTS, layout=layout)
    assert_close(whole["energy"], parts["energy"].sum(0, keepdim=True), EXACT, "energy")
    assert_close(whole["forces"], parts["forces"], EXACT, "forces")
    positions = batch.positions.requires_grad_()
    features = model.backbone(batch, layout(batch, model.backbone.cutoff))
    of_ethanol = features.scalar[:9].sum() + features.vector[:9].sum()
    (gradient,) = torch.autograd.grad(of_ethanol, positions)
    assert bool((gradient[9:] == 0).all())
    assert bool((gradient[:9] != 0).any())


def test_molecules_of_a_batch_feel_exactly_nothing_of_each_other(model: Model, layout: Layout) -> None:
    batch = small_batch()
    positions = batch.positions.requires_grad_()
    (gradient,) = torch.autograd.grad(model(batch, ["energy"], layout=layout)["energy"][0], positions)
    assert bool((gradient[9:] == 0).all())
    assert bool((gradient[:9] != 0).all())


def test_forces_are_finite_differences_of_the_energy(model: Model, layout: Layout) -> None:
    batch = collate([ETHANOL, WATER], dtype=torch.float64)
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


def test_forces_have_the_symmetry_of_the_molecule(model: Model, layout: Layout) -> None:
    # On the carbon of methane all vectors vanish up to rounding, and no direction may come of that.
    forces = model(collate([METHANE], dtype=torch.float64), ["forces"], layout=layout)["forces"]
    outward = torch.from_numpy(METHANE.positions[1:] - METHANE.positions[0])
    outward = outward / torch.linalg.vector_norm(outward, dim=1, keepdim=True)
    along = (forces[1:] * outward).sum(1)
    assert_close(along, along.mean().expand(4), EXACT, "size")
    assert_close(forces, torch.cat([torch.zeros_like(outward[:1]), along[:, None] * outward]), EXACT, "direction")


def crossing(distance: float) -> Batch:
    """Return CO and a helium atom at ``distance`` Å from the carbon atom, the farther of the two."""
    carbon, oxygen = [0.0, 0.0, 0.0], [0.0, 0.4, 1.06]
    return collate([molecule([6, 8, 2], [carbon, oxygen, [0.0, 0.0, distance]])], dtype=torch.float64)


def change(model: Model, layout: Layout, inner: float, outer: float) -> dict[str, float]:
    """Return how much energy and forces differ at two distances, relative to the largest force."""
    a, b = (model(crossing(r), ["energy", "forces"], layout=layout) for r in (inner, outer))
    size = b["forces"].abs().max()
    return {key: float((a[key] - b[key]).abs().max() / size) for key in a}


def test_energy_and_forces_pass_the_cutoff_smoothly(model: Model, layout: Layout) -> None:
    cutoff = model.backbone.cutoff
    assert cutoff is not None
    step = 1e-6
    across = change(model, layout, cutoff - step, cutoff + step)
    assert across["energy"] < 100 * step, f"the energy jumps by {across['energy']:.2e}"
    assert across["forces"] < 100 * step, f"the forces jump by {across['forces']:.2e}"
    inside = change(model, layout, cutoff - 0.5, cutoff)
    assert inside["forces"] > CLEARLY, "control: an atom inside the cutoff must be felt"


def test_forces_of_the_published_variant_jump_at_the_cutoff(layout: Layout) -> None:
    step = 1e-6
    model = model_of(EquivariantTransformerConfig(**TINY, vector_cutoff=False))
    assert change(model, layout, 5.0 - step, 5.0 + step)["forces"] > CLEARLY


def test_two_atoms_at_the_cutoff_feel_nothing_and_closer_they_do(model: Model, layout: Layout) -> None:
    def largest_force(distance: float) -> float:
        batch = collate([molecule([6, 8], [[0, 0, 0], [0, 0, distance]])], dtype=torch.float64)
        return float(model(batch, ["forces"], layout=layout)["forces"].abs().max())

    cutoff = model.backbone.cutoff
    assert cutoff is not None
    inside = largest_force(0.5 * cutoff)
    assert largest_force(cutoff) == largest_force(1.01 * cutoff) == 0
    assert largest_force(cutoff - 1e-6) < 1e-4 * inside
    assert inside > 1e-4  # eV/Å


def test_the_input_stays_as_it_is(model: Model, layout: Layout) -> None:
    batch = small_batch()
    before = [x.clone() for x in (batch.atomic_numbers, batch.positions, batch.molecule)]
    model(batch, OUTPUTS, layout=layout, create_graph=True)["forces"].sum().backward()
    after = (batch.atomic_numbers, batch.positions, batch.molecule)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not batch.positions.requires_grad
    assert batch.positions.grad is None


def test_no_molecules_have_no_outputs(model: Model, layout: Layout) -> None:
    found = model(small_batch().select([]), OUTPUTS, layout=layout, create_graph=True)
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "energy": (0,),
        "forces": (0, 3),
        "noise": (0, 3),
    }


def test_float32_agrees_with_float64(config: BackboneConfig, layout: Layout) -> None:
    double = model_of(config)(small_batch(), OUTPUTS, layout=layout)
    single = model_of(config).float()(small_batch().to(dtype=torch.float32), OUTPUTS, layout=layout)
    assert {key: value.dtype for key, value in single.items()} == {
        "energy": torch.float64,
        "forces": torch.float32,
        "noise": torch.float32,
    }
    for key in OUTPUTS:
        assert_close(single[key].double(), double[key], SINGLE, key)


def test_flat_and_straight_molecules_have_finite_gradients_of_a_force_loss(model: Model, layout: Layout) -> None:
    model.train()
    batch = collate([BENZENE, CARBON_MONOXIDE, HELIUM], dtype=torch.float64)
    model(batch, ["forces"], layout=layout)["forces"].square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(math.isfinite(float(gradient.abs().max())) for gradient in gradients)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(config: BackboneConfig, layout: Layout) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_cpu = model_of(config)(small_batch(), OUTPUTS, layout=layout)
    on_gpu = model_of(config).cuda()(small_batch().to("cuda"), OUTPUTS, layout=layout)
    for key in OUTPUTS:
        assert_close(on_gpu[key].cpu(), on_cpu[key], EXACT, key)
