"""What is special to the EGNN: its columns, its cheap form, its symmetry, its need of bonds."""

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from basinet.backbones.base import Layout
from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import (
    EGNN,
    BondGraph,
    EdgeLinear,
    EGNNConfig,
    MovingLayer,
    RadiusGraph,
    element_features,
)
from basinet.config import dump_settings, read_settings
from basinet.models.checkpoint import n_parameters
from basinet.models.model import Model, build_model
from basinet.structures.batch import Batch, collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.neighbors import Neighbors
from basinet.structures.sparse import SparseNeighbors
from molecules import BENZENE, ETHANOL, HELIUM, SMALL, WATER, apart, bonded, from_smiles, hop_distances, moved

TINY: dict[str, Any] = {"n_features": 8, "n_layers": 2}
ROUNDING = 1e-12
"""float64, numbers of order one."""


@pytest.fixture(params=[DenseNeighbors, SparseNeighbors])
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


def batch_of(*molecules: Any) -> Batch:
    return collate([bonded(m) for m in molecules], dtype=torch.float64)


def egnn(**options: Any) -> EGNN:
    torch.manual_seed(0)
    backbone = EGNN(EGNNConfig(**{**TINY, **options})).double()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return backbone


def test_an_element_has_three_columns() -> None:
    features = element_features(torch.tensor([6, 1, 99]))
    assert features.shape == (3, 300)
    assert features[0].nonzero()[:, 0].tolist() == [18, 19, 20]
    assert features[0, 18:21].tolist() == pytest.approx([1, 0.06, 0.0036], abs=1e-15)
    assert features[1].nonzero()[:, 0].tolist() == [3, 4, 5]
    assert features[2].nonzero()[:, 0].tolist() == [297, 298, 299]


def joined(linear: EdgeLinear, atoms: Tensor, edges: Tensor, neighbors: Neighbors) -> Tensor:
    """Return what the map says of the features of receiver, sender and edge when they are joined."""
    shape = edges.shape[:-1]
    received = neighbors.of_receiver(atoms).expand(*shape, -1)
    sent = neighbors.of_sender(atoms).expand(*shape, -1)
    return linear.joined(torch.cat([received, sent, edges], dim=-1))


def test_the_first_map_of_a_message_is_that_of_the_joined_features(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, batch = egnn(), batch_of(*SMALL)
    split = backbone(batch, layout(batch, None))
    monkeypatch.setattr(EdgeLinear, "forward", joined)
    whole = backbone(batch, layout(batch, None))
    assert (split.scalar - whole.scalar).abs().max() / whole.scalar.abs().max() < ROUNDING


def slow_egnn(backbone: EGNN, batch: Batch, hops: Tensor) -> tuple[Tensor, Tensor]:
    """Return scalars and displacements of one molecule by a loop over pairs of atoms, from the published equations."""
    n, x = batch.n_atoms, batch.positions
    h = backbone.embedding(element_features(batch.atomic_numbers))
    for layer in backbone.layers:
        received, push = torch.zeros_like(h), torch.zeros_like(x)
        for i in range(n):
            for j in set(range(n)) - {i}:
                code = torch.nn.functional.one_hot(hops[i, j], 4).double()
                squared = (x[i] - x[j]).square().sum()[None]
                m = layer.messages.first.joined(torch.cat([h[i], h[j], squared, code]))
                m = torch.nn.functional.silu(layer.messages.second(torch.nn.functional.silu(m)))
                m = m * torch.sigmoid(layer.messages.gate(m))
                received[i] += m
                if isinstance(layer, MovingLayer):
                    push[i] += (x[i] - x[j]) * layer.push(m)
        h = layer.update(h, received)
        x = x + push / n
    return h, x - batch.positions


@pytest.mark.parametrize("coordinates", ["fixed", "moved"])
def test_the_network_is_that_of_a_loop_over_pairs_of_atoms(layout: Layout, coordinates: str) -> None:
    backbone, ethanol = egnn(coordinates=coordinates), from_smiles("CCO")
    assert ethanol.bonds is not None
    batch = collate([ethanol], dtype=torch.float64)
    with torch.no_grad():
        found = backbone(batch, layout(batch, None))
        scalar, displacement = slow_egnn(backbone, batch, torch.from_numpy(hop_distances(9, ethanol.bonds)))
    assert (found.scalar - scalar).abs().max() / scalar.abs().max() < ROUNDING
    if coordinates == "moved":
        assert displacement.abs().max() > 1e-3
        assert (found.vector[:, :, 0] - displacement).abs().max() < ROUNDING
    else:
        assert found.vector.shape == (9, 3, 0)


def energy_model(**options: Any) -> Model:
    return build_model(egnn(**options), ["energy"]).double().eval()


def test_bonds_matter_where_the_graph_knows_them_and_only_there(layout: Layout) -> None:
    ethanol = bonded(ETHANOL)
    assert ethanol.bonds is not None
    molecules = ethanol, dataclasses.replace(ethanol, bonds=ethanol.bonds[1:]), ETHANOL
    whole, cut, unknown = (collate([m], dtype=torch.float64) for m in molecules)

    def energy(model: Model, batch: Batch) -> Tensor:
        return model(batch, ["energy"], layout=layout)["energy"]

    by_bonds, by_radius = energy_model(), energy_model(graph=RadiusGraph())
    assert abs(energy(by_bonds, whole) - energy(by_bonds, cut)) > 1e-6
    assert energy(by_radius, whole) == energy(by_radius, cut) == energy(by_radius, unknown)


def test_a_network_of_bonds_refuses_molecules_without_them(layout: Layout) -> None:
    batch = collate([bonded(ETHANOL), WATER], dtype=torch.float64)
    with pytest.raises(ValueError, match="1 of 2 molecules have no bonds on record; read them from a format that has"):
        energy_model()(batch, ["energy"], layout=layout)


def test_all_atoms_of_a_molecule_feel_each_other_however_far(layout: Layout) -> None:
    batch = batch_of(apart(WATER, HELIUM, 30.0))
    assert bool(energy_model()(batch, ["forces"], layout=layout)["forces"][3].any())


@pytest.mark.parametrize("coordinates", ["fixed", "moved"])
def test_a_molecule_and_its_mirror_image_have_the_same_energy(coordinates: str) -> None:
    batch = collate([from_smiles("C[C@H](N)C(=O)O")], dtype=torch.float64)
    mirror = moved(batch, torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)), torch.zeros(3))
    model = energy_model(coordinates=coordinates)
    energies = [model(b, ["energy"])["energy"] for b in (batch, mirror)]
    assert (energies[0] - energies[1]).abs().max() < ROUNDING


def test_the_published_size_has_the_published_number_of_parameters() -> None:
    backbone = build_backbone(EGNNConfig())
    assert n_parameters(backbone) == 852_103 - 116_480  # without the maps of coordinates, which the energy never sees
    assert n_parameters(build_backbone(EGNNConfig(coordinates="moved"))) == 852_103


def test_large_molecules_are_not_padded_and_give_the_same() -> None:
    batch = batch_of(BENZENE, apart(ETHANOL, BENZENE, 6.0))
    model = energy_model()
    dense, sparse = (model(batch, ["forces"], layout=x)["forces"] for x in (DenseNeighbors, SparseNeighbors))
    assert (dense - sparse).abs().max() < ROUNDING


def test_gradients_of_a_force_loss_are_finite_differences() -> None:
    model, batch = energy_model(n_features=4), batch_of(WATER)
    wanted = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        return (model(batch, ["forces"], create_graph=True)["forces"] - wanted).square().sum()

    loss().backward()
    h = 1e-5
    for name, parameter in model.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad
        if gradient is None:  # biases of the last map shift the energy only
            assert name.endswith("plain.2.bias")
            continue
        index = int(gradient.abs().argmax())
        values: list[float] = []
        for step in (h, -2 * h, h):
            flat[index] += step
            values.append(float(loss().detach()))
        numerical = (values[0] - values[1]) / (2 * h)
        assert numerical == pytest.approx(float(gradient.view(-1)[index]), rel=1e-5, abs=1e-9), name


def test_settings_are_told_apart_by_their_kind() -> None:
    config = EGNNConfig(graph=RadiusGraph(cutoff=4.0), coordinates="moved")
    assert read_settings(EGNNConfig, dump_settings(config), "test") == config
    assert build_backbone(config).cutoff == 4.0
    assert (build_backbone(config).n_vector, build_backbone(EGNNConfig()).n_vector) == (1, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_layers": 0}, "n_layers must be at least 1, got 0"),
        ({"graph": {"kind": "radius", "cutoff": -1.0}}, "cutoff must be positive, got -1.0"),
        ({"graph": {"kind": "bonds", "max_hops": -1}}, "max_hops must be at least 0, got -1"),
        ({"graph": {"kind": "bonds", "cutoff": 5.0}}, "unknown option graph.cutoff"),
        ({"graph": {"kind": "chain"}}, "graph.kind: got 'chain'; expected one of 'bonds', 'radius'"),
        ({"graph": {"max_hops": 2}}, "graph: say which, with graph.kind=..."),
        ({"coordinates": "drifting"}, "coordinates: got 'drifting'"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_settings(EGNNConfig, values, "test")


def test_hops_that_are_told_apart_are_columns_of_the_edges() -> None:
    assert EGNN(EGNNConfig(**TINY, graph=BondGraph(max_hops=5))).layers[0].messages.first.parts == [8, 8, 7]


@pytest.mark.parametrize("n_layers", [1, 4, 7])
def test_fresh_weights_see_positions_however_many_layers_there_are(n_layers: int) -> None:
    torch.manual_seed(0)
    config = EGNNConfig(n_features=64, n_layers=n_layers, graph=RadiusGraph(cutoff=5.0))
    model = build_model(build_backbone(config), ["energy", "forces"]).eval()
    forces = model(collate([ETHANOL]), ["forces"])["forces"]
    # With the default of torch the forces of four layers are 0.0004: training then gets nowhere in hundreds of steps.
    assert 1e-3 < float(forces.square().mean().sqrt()) < 0.1
