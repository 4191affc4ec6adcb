"""Denoising of distances (SE(3)-DDM)."""

import dataclasses

import pytest
import torch
from torch import Tensor

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.config import read_settings
from basinet.models.checkpoint import load_model, save_model
from basinet.models.model import Model, build_model, with_outputs, without_pretraining_heads
from basinet.noise.base import Perturbation, Perturbed
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.ladder import NoiseLadder, geometric_ladder
from basinet.objectives.base import mean_terms, total_loss
from basinet.objectives.distances import DistanceDenoising
from basinet.objectives.methods import DistanceDenoisingConfig, ObjectiveConfig
from basinet.structures.batch import Batch, collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.pairs import AtomPairs, all_pairs
from basinet.structures.sparse import SparseNeighbors
from molecules import ETHANOL, HELIUM, SMALL, WATER, apart, bonded, moved, random_orthogonal

ET_TINY = EquivariantTransformerConfig(n_features=16, n_layers=1, n_heads=4, n_basis=8)
EGNN_TINY = EGNNConfig(n_features=16, n_layers=2)
ROUNDING = 1e-12
"""float64, numbers of order one."""
SIGMA = 0.5

backbones = pytest.mark.parametrize("config", [ET_TINY, EGNN_TINY], ids=["equivariant transformer", "egnn"])


class SameView(Perturbation):
    """The second view is the first."""

    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        return Perturbed(batch, torch.zeros_like(batch.positions), batch.positions.new_ones(batch.n_molecules), None)


class Knowing(Model):
    """Sees where a distance came from, up to a factor."""

    factor = 1.0

    def distance_score(self, batch: Batch, pairs: AtomPairs, distances: Tensor, **_: object) -> Tensor:
        return self.factor * (pairs.distances(batch.positions) - distances) / SIGMA


def batch_of(*molecules: object) -> Batch:
    return collate([bonded(m) for m in molecules], dtype=torch.float64)


def model_of(config: BackboneConfig) -> Model:
    torch.manual_seed(0)
    return build_model(build_backbone(config), ["distance_score"]).double()


def loss(objective: DistanceDenoising, model: Model, batch: Batch, seed: int = 0) -> float:
    sums = objective.sums(model, batch, torch.Generator().manual_seed(seed))
    (value,) = mean_terms({key: value.detach() for key, value in sums.items()}, objective.counts(batch)).values()
    return value


def test_whoever_knows_the_clean_distances_has_no_loss_and_doubling_the_error_quadruples_it() -> None:
    objective = DistanceDenoising(SameView(), NoiseLadder([SIGMA]))
    knowing = Knowing(build_backbone(EGNN_TINY), {})
    assert loss(objective, knowing, batch_of(*SMALL)) < 1e-20
    knowing.factor = 1.1
    off = loss(objective, knowing, batch_of(*SMALL))
    knowing.factor = 1.2
    assert loss(objective, knowing, batch_of(*SMALL)) == pytest.approx(4 * off)


def test_a_model_that_knows_the_first_view_alone_pays_for_the_second() -> None:
    # d(r') - d(r) of a pair has the variance 2 v^2 along the bond; taken both ways it is the whole error.
    v = 0.02
    objective = DistanceDenoising(CoordinateNoise(v), NoiseLadder([SIGMA]))
    found = loss(objective, Knowing(build_backbone(EGNN_TINY), {}), batch_of(*[WATER] * 2000))
    assert found == pytest.approx(2 * v**2 / SIGMA**2, rel=0.05)


@backbones
def test_predicting_nothing_costs_one(config: BackboneConfig) -> None:
    model = model_of(config)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    for ladder in (NoiseLadder([0.1]), geometric_ladder()):
        objective = DistanceDenoising(CoordinateNoise(0.3), ladder)
        assert loss(objective, model, batch_of(*[ETHANOL] * 200)) == pytest.approx(1.0, abs=0.05)


def test_counts_are_the_pairs_of_each_molecule_both_ways() -> None:
    objective = DistanceDenoising(CoordinateNoise(0.3), geometric_ladder())
    batch = batch_of(ETHANOL, HELIUM, WATER)
    assert objective.counts(batch) == {"distance": 2.0 * (36 + 3)}
    assert objective.uses(batch).tolist() == [True, False, True]
    pairs = all_pairs(batch)
    assert len(pairs.first) == 39
    expected = [
        (i, j) for n, start in ((9, 0), (3, 10)) for i in range(start, start + n) for j in range(i + 1, start + n)
    ]
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
    slow = torch.stack([(batch.positions[i] - batch.positions[j]).norm() for i, j in expected])
    assert torch.allclose(pairs.distances(batch.positions), slow)


@backbones
@pytest.mark.parametrize("layout", [DenseNeighbors, SparseNeighbors])
@pytest.mark.parametrize("reflect", [False, True])
def test_scores_do_not_turn_and_are_the_same_in_both_layouts_and_alone(
    config: BackboneConfig, layout: type, reflect: bool
) -> None:
    model, batch = model_of(config).eval(), batch_of(ETHANOL, WATER, HELIUM)
    pairs = all_pairs(batch)
    distances = pairs.distances(batch.positions) + 0.1
    expected = model.distance_score(batch, pairs, distances)
    turned = moved(batch, random_orthogonal(1, reflect=reflect), torch.tensor([1.0, -2.0, 0.5]))
    assert (model.distance_score(turned, pairs, distances, layout=layout) - expected).abs().max() < ROUNDING
    swapped = AtomPairs(pairs.second, pairs.first)
    assert (model.distance_score(batch, swapped, distances, layout=layout) - expected).abs().max() < ROUNDING
    alone = batch.select([1])
    there = model.distance_score(alone, all_pairs(alone), distances[36:], layout=layout)
    assert (there - expected[36:]).abs().max() < ROUNDING
    assert expected.std() > 1e-3


def test_two_molecules_far_apart_have_the_scores_of_each_and_of_the_pairs_between() -> None:
    model, together, alone = model_of(ET_TINY), batch_of(apart(WATER, WATER, 40.0)), batch_of(WATER)
    pairs = all_pairs(together)
    inside = (pairs.first < 3) & (pairs.second < 3)
    distances = pairs.distances(together.positions)
    found = model.distance_score(together, pairs, distances)
    expected = model.distance_score(alone, all_pairs(alone), distances[inside])
    assert len(found) == 15 and bool(found.isfinite().all())
    assert (found[inside] - expected).abs().max() < ROUNDING


@pytest.mark.parametrize("molecules", [(HELIUM,), (HELIUM, HELIUM)])
def test_lone_atoms_have_no_pairs_and_no_loss(molecules: tuple[object, ...]) -> None:
    objective, batch, model = DistanceDenoisingConfig().build(), batch_of(*molecules), model_of(EGNN_TINY)
    for one in (batch, batch.select([])):
        sums = objective.sums(model, one, torch.Generator().manual_seed(0))
        assert objective.counts(one) == {"distance": 0.0}
        assert float(total_loss(objective, sums, objective.counts(one))) == 0


@backbones
def test_both_ways_teach_the_backbone(config: BackboneConfig) -> None:
    model = model_of(config)
    objective, batch = DistanceDenoising(CoordinateNoise(0.3), geometric_ladder()), batch_of(HELIUM, *SMALL)
    objective.sums(model, batch, torch.Generator().manual_seed(0))["distance"].backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.heads.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.backbone.parameters())


def test_noise_comes_from_the_generator_alone() -> None:
    objective, model, batch = DistanceDenoising(CoordinateNoise(0.3), geometric_ladder()), model_of(EGNN_TINY), SMALL
    first, again, other = (loss(objective, model, batch_of(*batch), seed) for seed in (1, 1, 2))
    assert first == again != other


def test_settings_choose_the_noise_and_minima_alone_are_used() -> None:
    values = {"kind": "distance_denoising", "view_sigma": 0.1, "largest_sigma": 1.0}
    objective = read_settings(ObjectiveConfig, values, "test").build()
    assert objective.requires == {"distance_score"} and objective.flags == {"is_equilibrium"}
    assert objective.objective.view.sigma == 0.1
    assert objective.objective.ladder.sigmas[0] == 1.0
    minima = [dataclasses.replace(bonded(WATER), is_equilibrium=flag) for flag in (True, False)]
    assert objective.counts(collate(minima)) == {"distance": 6.0}
    for values, message in (({"view_sigma": 0.0}, "view_sigma must be"), ({"smallest_sigma": 20.0}, "expected 0 < sm")):
        with pytest.raises(ValueError, match=message):
            read_settings(ObjectiveConfig, {"kind": "distance_denoising", **values}, "test")


@backbones
def test_the_head_is_saved_and_dropped_for_fine_tuning(config: BackboneConfig, tmp_path) -> None:
    model, batch = model_of(config), batch_of(*SMALL)
    pairs = all_pairs(batch)
    distances = pairs.distances(batch.positions)
    save_model(model, tmp_path / "model.safetensors", config)
    loaded = load_model(tmp_path / "model.safetensors").model
    assert torch.equal(loaded.distance_score(batch, pairs, distances), model.distance_score(batch, pairs, distances))
    tuned = with_outputs(without_pretraining_heads(model, ["energy"]), ["energy"])
    assert tuned.offers == {"energy", "forces"} and tuned.backbone is model.backbone
    with pytest.raises(ValueError, match=r"distance_score needs pairs of atoms; call model.distance_score"):
        model(batch, ["distance_score"])
    with pytest.raises(ValueError, match="the model has no head for distances; it offers"):
        tuned.distance_score(batch, pairs, distances)
