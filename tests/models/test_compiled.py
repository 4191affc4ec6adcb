"""A compiled network says what the network says, and has its gradients: for all objectives, shapes and sizes."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.egnn import BondGraph, EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import (
    AttentionLayer,
    EquivariantTransformer,
    EquivariantTransformerConfig,
)
from basinet.models.compiled import CompiledNetwork, cut
from basinet.models.corrections import ZBLConfig
from basinet.models.heads.property import PropertyForm, build_property_head
from basinet.models.joint import capture, inductor, interpreted
from basinet.models.model import Model, build_model
from basinet.models.shapes import Shapes
from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives import methods
from basinet.objectives.base import Objective, total_loss
from basinet.objectives.combine import WeightedSum
from basinet.objectives.properties import Property
from basinet.objectives.replay import WithReplay, minima_to_keep
from basinet.objectives.supervised import Energy, EnergyForces, Forces
from basinet.speed.chunked import IN_CHUNKS
from basinet.structures.batch import Batch, collate
from molecules import ETHANOL, HELIUM, WATER, from_smiles, labelled

EXACT = 1e-10
"""Relative to the largest value of a tensor, float64: rounding in another order."""
SHAPES = Shapes(n_molecules=3, sizes=(4, 10))
ET = EquivariantTransformerConfig(n_features=8, n_layers=1, n_heads=2, n_basis=8)
INVARIANT = EGNNConfig(n_features=8, n_layers=1)
BACKBONES: dict[str, BackboneConfig] = {
    "equivariant transformer": dataclasses.replace(ET, n_layers=2, vector_cutoff=False),
    "egnn of bonds": dataclasses.replace(INVARIANT, n_layers=2, graph=BondGraph(max_hops=9)),
    "egnn in a radius, moving": EGNNConfig(
        n_features=8, n_layers=2, graph=RadiusGraph(cutoff=1.3), coordinates="moved"
    ),
}
MOLECULES = [from_smiles(smiles) for smiles in ("O", "CCO", "C", "c1ccccc1", "C#N", "[H][H]")]


def batch_of(n: int = len(MOLECULES)) -> Batch:
    """Return molecules of 3 to 12 atoms with labels: some larger than any shape, some that fill no chunk."""
    records = [
        dataclasses.replace(
            m,
            labels={**labelled(m, seed=i).labels, "alpha": float(i)},
            is_equilibrium=i % 2 == 0,
        )
        for i, m in enumerate(MOLECULES[:n])
    ]
    return collate(records, dtype=torch.float64)


def with_biases(model: Model) -> Model:
    """Return a model in float64 whose biases are not zero, as if it were trained."""
    model = model.double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def model_of(config: BackboneConfig, outputs: Sequence[str] = ("energy",)) -> Model:
    torch.manual_seed(0)
    return with_biases(build_model(build_backbone(config), outputs))


def gradients(model: Model, of: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    value = of()
    value.backward()
    return value.detach(), {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest error of a gradient, relative to its largest element."""
    empty = torch.zeros(1)
    everywhere = max(float(g.abs().max()) for g in expected.values())
    errors = [
        float((found.get(k, empty) - expected.get(k, empty)).abs().max())
        / max(float(expected.get(k, empty).abs().max()), 1e-6 * everywhere)
        for k in found.keys() | expected.keys()
    ]
    return max(errors)


def compare(model: Model, network: CompiledNetwork, of: Callable[[], Tensor]) -> float:
    """Return the largest relative error of a value and of all its gradients."""
    expected, slow = gradients(model, of)
    with model.evaluated_by(network):
        found, fast = gradients(model, of)
    return max(float((found - expected).abs() / expected.abs()), largest_error(fast, slow))


@cache
def of_all_objectives(config: BackboneConfig, pooled: bool) -> tuple[Model, CompiledNetwork]:
    """Return one model for all objectives, so that its graphs are recorded once."""
    torch.manual_seed(0)
    backbone = build_backbone(config)
    outputs = {"pooled_energy" if pooled else "energy", "noise_level"} | (
        {"noise"} if backbone.n_vector else set[str]()
    )
    model = build_model(backbone, [*outputs, "distance_score"])
    model = with_biases(model.with_heads(alpha=build_property_head(PropertyForm("sum", "Angstrom^3"), backbone)))
    return model, CompiledNetwork(model, Shapes(3, (10,)), interpreted())


ALPHA = Property("alpha")
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "forces": Forces,
    "energy": Energy,
    "energy and forces": lambda: EnergyForces(1.0, 10.0),
    "property": lambda: ALPHA,
    "coordinate denoising": methods.coordinate_denoising,
    "force and denoise": methods.force_and_denoise,
    "et-oreo": methods.et_oreo,
    "frad": methods.frad,
    "frad of vibrations": methods.frad_vrn,
    "unified": methods.unified,
    "distance denoising": methods.distance_denoising,
    "noisy nodes": lambda: methods.noisy_nodes(ALPHA, CoordinateNoise(0.05)),
    "decoupled noisy nodes": lambda: methods.decoupled_noisy_nodes(Forces(), CoordinateNoise(0.05)),
    "minima kept": lambda: WithReplay(Forces(), minima_to_keep(1.0, 0.5, 0.04, 298.15)),
    "forces and a property": lambda: WeightedSum(forces=(1.0, Forces()), alpha=(0.5, ALPHA)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_its_eager_gradients(name: str) -> None:
    model, network = of_all_objectives(ET, pooled=False)
    objective = OBJECTIVES[name]()
    batch = batch_of()

    def loss() -> Tensor:
        sums = objective.sums(model, batch, torch.Generator().manual_seed(1))
        return total_loss(objective, sums, objective.counts(batch))

    both = []
    for evaluator in (None, network):
        model.noise_head().normalizer.reset()
        with model.evaluated_by(evaluator):
            both.append(gradients(model, loss))
    (value, slow), (found, fast) = both
    assert float((found - value).abs() / value.abs()) < EXACT
    assert largest_error(fast, slow) < EXACT
    assert network.graphs


@pytest.mark.parametrize("config", [INVARIANT, ET], ids=["egnn", "equivariant transformer"])
def test_the_pooled_energy_of_3d_emgp_has_its_eager_gradients(config: BackboneConfig) -> None:
    model, network = of_all_objectives(config, pooled=True)
    objective, batch = methods.emgp(), batch_of()

    def loss() -> Tensor:
        sums = objective.sums(model, batch, torch.Generator().manual_seed(1))
        return total_loss(objective, sums, objective.counts(batch))

    assert compare(model, network, loss) < EXACT


@pytest.mark.parametrize("name", BACKBONES)
def test_energies_and_forces_have_their_eager_gradients(name: str) -> None:
    model = model_of(BACKBONES[name])
    network = CompiledNetwork(model, SHAPES, interpreted())
    batch = batch_of()
    weights = torch.randn(batch.n_atoms, 3, dtype=torch.float64)

    def loss() -> Tensor:
        found = model(batch, ["energy", "forces"])
        return found["energy"].square().sum() + (found["forces"] * weights).sum()

    assert compare(model, network, loss) < EXACT
    assert set(network.graphs) == {("energy_forces", size) for size in SHAPES.sizes}


def test_whitened_vectors_have_their_eager_gradients() -> None:
    config = dataclasses.replace(ET, vector_norm="whitened_compatible")
    model = model_of(config, ["noise"])
    network = CompiledNetwork(model, Shapes(2, (9,)), interpreted())
    assert compare(model, network, lambda: model(batch_of(2), ["noise"])["noise"].square().sum()) < EXACT


def test_corrections_are_added_outside_of_the_graph() -> None:
    model, network = of_all_objectives(ET, pooled=False)
    corrected = model.with_corrections(ZBLConfig(inner=1.0, outer=2.5))
    batch = batch_of()
    expected = corrected(batch, ["energy", "forces"])
    with corrected.evaluated_by(network):
        found = corrected(batch, ["energy", "forces"])
    plain = model(batch, ["forces"])["forces"]
    assert float((expected["forces"] - plain).detach().abs().max()) > 0.1
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=EXACT, atol=EXACT)


def test_weights_that_changed_and_parameters_that_are_frozen() -> None:
    model = model_of(ET)
    frozen = model.backbone.stages()[0].requires_grad_(False)
    network = CompiledNetwork(model, Shapes(2, (9,)), interpreted())
    batch = batch_of(2)
    for _ in range(2):
        assert compare(model, network, lambda: model(batch, ["forces"])["forces"].square().sum()) < EXACT
        assert all(p.grad is None for p in frozen.parameters())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    assert len(network.graphs) == 1


def test_what_is_recorded_is_as_written() -> None:
    model = model_of(ET)
    backbone = model.backbone
    assert isinstance(backbone, EquivariantTransformer)
    backbone.use_edge_stage(IN_CHUNKS)
    network = CompiledNetwork(model, Shapes(2, (9,)), interpreted())
    batch = batch_of(2)
    assert compare(model, network, lambda: model(batch, ["forces"])["forces"].square().sum()) < EXACT
    layers = [layer for layer in backbone.layers if isinstance(layer, AttentionLayer)]
    assert all(layer.edge_stage is IN_CHUNKS for layer in layers)


def test_what_nobody_compiled_goes_the_eager_way() -> None:
    model = model_of(ET)
    network = CompiledNetwork(model, Shapes(4, (2,)), interpreted())
    with model.evaluated_by(network):
        model(batch_of(3), ["forces"])  # too large
        free = batch_of(3)
        free = free.replace(positions=free.positions.requires_grad_())
        (gradient,) = torch.autograd.grad(model(free, ["energy"])["energy"].sum(), free.positions)
        with torch.no_grad():
            model(free, ["energy"])
        empty = model(free.select([]), ["energy"])["energy"]
    assert not network.graphs
    assert empty.shape == (0,)
    torch.testing.assert_close(-gradient, model(free, ["forces"])["forces"].detach())


def test_a_lone_atom_among_molecules() -> None:
    model = model_of(ET)
    network = CompiledNetwork(model, Shapes(3, (9,)), interpreted())
    batch = collate([HELIUM, ETHANOL, WATER], dtype=torch.float64)
    assert compare(model, network, lambda: model(batch, ["forces"])["forces"].square().sum()) < EXACT


@pytest.mark.parametrize("n_atoms", [[], [5], [3, 9, 3, 3], [30, 2, 2, 2, 9, 9, 9], [4] * 7])
def test_every_molecule_is_in_one_chunk_that_holds_it(n_atoms: list[int]) -> None:
    shapes = Shapes(2, (4, 10))
    chunks = cut(n_atoms, shapes)
    assert sorted(int(i) for chunk in chunks for i in chunk.molecules) == list(range(len(n_atoms)))
    for chunk in chunks:
        largest = max(n_atoms[int(i)] for i in chunk.molecules)
        if chunk.size is None:
            assert all(n_atoms[int(i)] > 10 for i in chunk.molecules)
        else:
            assert chunk.size == min(size for size in shapes.sizes if size >= largest)
            assert len(chunk.molecules) <= shapes.n_molecules


def test_less_than_half_a_chunk_is_not_padded() -> None:
    assert [chunk.size for chunk in cut([3] * 9, Shapes(8, (4,)))] == [4, None]
    assert [chunk.size for chunk in cut([3] * 12, Shapes(8, (4,)))] == [4, 4]


class _Cube(torch.autograd.Function):
    """A function with a backward pass of its own, which is not that of its forward pass: twice the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * 6 * x**2


def test_second_derivatives_of_norms_and_custom_functions() -> None:
    norm = torch.nn.LayerNorm(6).double()
    weight = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    x, w = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)

    def force(weight: Tensor, gain: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        h = torch.nn.functional.layer_norm(torch.tanh(x @ weight), [6], gain, bias)
        energy = _Cube.apply(h).square().sum()  # pyright: ignore
        return tuple(torch.autograd.grad(energy, x, create_graph=True))

    parameters = [weight, norm.weight, norm.bias]
    compiled = capture(force, [*parameters, x], interpreted())
    slow, fast = (torch.autograd.grad((f(*parameters, x)[0] * w).sum(), parameters) for f in (force, compiled))
    for a, b in zip(slow, fast, strict=True):
        torch.testing.assert_close(b, a, rtol=EXACT, atol=EXACT)


def _recorded(function: Callable[..., Any], examples: Sequence[Tensor]) -> fx.GraphModule:
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, decomposition_table=core_aten_decompositions())(*examples)


def test_a_recorded_forward_pass_that_is_differentiated_afterwards_is_wrong() -> None:
    """Why the derivatives are recorded too: what a norm keeps for its backward pass is a constant in the record."""
    x = torch.randn(5, 6, dtype=torch.float64)
    weight = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)

    def force(weight: Tensor, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        energy = torch.nn.functional.layer_norm(x @ weight, [6]).pow(3).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]

    (expected,) = torch.autograd.grad(force(weight, x).square().sum(), weight)
    (wrong,) = torch.autograd.grad(_recorded(force, [weight, x])(weight, x).square().sum(), weight)
    joint = capture(lambda *t: (force(*t),), [weight, x], interpreted())
    (right,) = torch.autograd.grad(joint(weight, x)[0].square().sum(), weight)
    assert float((wrong - expected).abs().max() / expected.abs().max()) > 1e-4
    torch.testing.assert_close(right, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in modules of PyTorch, as they are imported
@pytest.mark.parametrize("config", [ET, INVARIANT], ids=["equivariant transformer", "egnn"])
def test_inductor_agrees_to_rounding(config: BackboneConfig) -> None:
    model = model_of(config).float()
    batch = batch_of().to(dtype=torch.float32)
    network = CompiledNetwork(model, Shapes(3, (12,)), inductor())
    assert compare(model, network, lambda: model(batch, ["forces"])["forces"].square().sum()) < 1e-4
