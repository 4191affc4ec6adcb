import math

import pytest
import torch
from torch import Tensor

from basinet.config import dump_settings, read_settings
from basinet.models.model import Model
from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import Objective, mean_terms, total_loss
from basinet.objectives.combine import WeightedSum, Where
from basinet.objectives.denoising import Denoising
from basinet.objectives.methods import CoordinateDenoisingConfig, ForceAndDenoiseConfig, ObjectiveConfig
from basinet.objectives.supervised import EnergyForces, Forces, ZeroForce, force_error
from basinet.structures.batch import Batch, collate
from molecules import AMMONIUM, BENZENE, ETHANOL, METHANE, WATER, at_equilibrium, labelled

EXACT = 1e-10
"""Relative, float64."""


@pytest.fixture
def batch() -> Batch:
    """Return labelled molecules, molecules at equilibrium, one that is both and one that is neither."""
    molecules = [labelled(ETHANOL, 1), at_equilibrium(WATER), METHANE, at_equilibrium(BENZENE)]
    return collate([*molecules, labelled(AMMONIUM, 3, is_equilibrium=True)], dtype=torch.float64)


@pytest.fixture
def trained(model: Model) -> Model:
    """Return a model in evaluation mode that has seen noise."""
    noise = 0.04 * torch.randn(100, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.noise_head().normalizer.update(noise)
    return model.eval()


def sums_of(objective: Objective, model: Model, batch: Batch) -> dict[str, Tensor]:
    sums = objective.sums(model, batch, torch.Generator().manual_seed(0))
    return {key: value.detach() for key, value in sums.items()}


def means(objective: Objective, model: Model, batch: Batch) -> dict[str, float]:
    return mean_terms(sums_of(objective, model, batch), objective.counts(batch))


def loss(objective: Objective, model: Model, batch: Batch, counts: dict[str, float] | None = None) -> float:
    return float(total_loss(objective, sums_of(objective, model, batch), counts or objective.counts(batch)))


def test_a_mixed_batch_is_the_weighted_sum_of_its_sources(trained: Model, batch: Batch) -> None:
    objective = ForceAndDenoiseConfig(forces=1.0, zero_force=0.2, denoising=0.3, sigma=0.04).build()
    mixed = loss(objective, trained, batch)
    predicted = trained(batch, ["forces"])["forces"]
    has_forces, at_minimum = (batch.flags[key][batch.molecule] for key in ("has_forces", "is_equilibrium"))
    errors = force_error(predicted - batch.labels["forces"], "norm")[has_forces]
    sizes = force_error(predicted, "norm")[at_minimum]
    minima = batch.select([1, 3, 4])
    noisy = CoordinateNoise(0.04)(minima, torch.Generator().manual_seed(0))
    target = trained.noise_head().normalizer(0.04 * noisy.target)
    noise_errors = (trained(noisy.batch, ["noise"])["noise"] - target).square()
    by_hand = errors.mean() + 0.2 * sizes.mean() + 0.3 * noise_errors.mean()
    assert mixed == pytest.approx(float(by_hand.detach()), rel=EXACT)


def test_a_source_keeps_its_weight_whatever_else_is_in_the_batch(trained: Model, batch: Batch) -> None:
    objective = WeightedSum(forces=(1.0, Forces()), zero_force=(0.1, ZeroForce()))

    sources = (batch, batch.select([0, 4]), batch.select([1, 3, 4]))
    mixed, labelled_only, minima_only = (means(objective, trained, source) for source in sources)
    assert mixed["forces"] == pytest.approx(labelled_only["forces"], rel=EXACT)
    assert mixed["zero_force"] == pytest.approx(minima_only["zero_force"], rel=EXACT)


def test_the_loss_of_a_batch_does_not_depend_on_how_it_is_cut(trained: Model, batch: Batch) -> None:
    objective = WeightedSum(forces=(1.0, Forces()), zero_force=(0.1, ZeroForce()))
    counts = objective.counts(batch)
    parts = [loss(objective, trained, batch.select([k]), counts) for k in range(5)]
    assert sum(parts) == pytest.approx(loss(objective, trained, batch), rel=EXACT)


def test_terms_are_named_after_their_part_and_weighed_by_it() -> None:
    objective = WeightedSum(
        denoise=(0.5, CoordinateDenoisingConfig().build()),
        labels=(2.0, EnergyForces(0.1, 3.0)),
        rest=(1.0, ZeroForce()),
    )
    assert objective.weights == {"denoise": 0.5, "labels.energy": 0.2, "labels.forces": 6.0, "rest": 1.0}


def test_names_weights_and_counts_agree(trained: Model, batch: Batch) -> None:
    objective = WeightedSum(a=(1.0, ForceAndDenoiseConfig().build()), b=(1.0, EnergyForces(1.0, 1.0)))
    sums = sums_of(objective, trained, batch)
    assert list(objective.weights) == list(objective.counts(batch)) == list(sums)
    assert "a.zero_force" in objective.weights


def test_a_sum_needs_what_its_parts_need() -> None:
    objective = ForceAndDenoiseConfig().build()
    assert objective.requires == {"forces", "noise"}
    assert objective.labels == {"forces"}
    assert objective.flags == {"is_equilibrium"}


def test_weights_that_are_not_positive_are_refused() -> None:
    with pytest.raises(ValueError, match="an objective needs at least one part"):
        WeightedSum()
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"the weight of forces must be positive and finite, got {weight}; leave"):
            WeightedSum(forces=(weight, Forces()))


def test_only_flagged_molecules_reach_an_objective(batch: Batch) -> None:
    assert Where("is_equilibrium", Forces()).counts(batch) == {"forces": 5}
    assert Where("is_equilibrium", Denoising(CoordinateNoise(0.04))).counts(batch) == {"denoising": 3 * (3 + 12 + 5)}
    assert Where("is_measured", Forces()).counts(batch) == {"forces": 0}
    assert Where("is_equilibrium", Forces()).flags == {"is_equilibrium"}


def test_selecting_all_molecules_is_the_batch_itself(batch: Batch) -> None:
    all_set = batch.replace(flags={"is_equilibrium": torch.ones(5, dtype=torch.bool)})
    assert all_set.where(all_set.all_set(["is_equilibrium"])) is all_set
    assert batch.where(batch.all_set(["is_equilibrium"])).n_molecules == 3
    assert batch.where(batch.all_set(["unknown"])).n_molecules == 0


def test_terms_that_apply_nowhere_are_left_out_of_the_loss(trained: Model, batch: Batch) -> None:
    objective, unlabelled, nothing = ForceAndDenoiseConfig().build(), batch.select([1, 3]), batch.select([2])
    assert objective.counts(unlabelled)["forces"] == 0
    assert set(means(objective, trained, unlabelled)) == {"zero_force", "denoising"}
    assert math.isfinite(loss(objective, trained, unlabelled))
    assert means(objective, trained, nothing) == {}
    assert loss(objective, trained, nothing) == 0


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ({"kind": "force_and_denoise"}, {"forces": 1.0, "zero_force": 0.1, "denoising": 0.1}),
        ({"kind": "coordinate_denoising", "sigma": 0.1}, {"denoising": 1.0}),
        ({"kind": "energy_forces", "energy": 0.5, "loss": "l1"}, {"energy": 0.5, "forces": 1.0}),
        ({"kind": "forces", "loss": "mse"}, {"forces": 1.0}),
    ],
)
def test_settings_describe_an_objective(values: dict[str, object], weights: dict[str, float]) -> None:
    config = read_settings(ObjectiveConfig, values, "objective")
    assert config.build().weights == weights
    assert read_settings(ObjectiveConfig, dump_settings(config), "objective") == config


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"kind": "forces", "loss": "huber"}, "loss: got 'huber'"),
        ({"kind": "coordinate_denoising", "sigma": 0}, "sigma must be positive, got 0"),
        ({"kind": "force_and_denoise", "zero_force": float("inf")}, "zero_force must be finite, got inf"),
        ({"kind": "energy_forces", "enrgy": 1}, "unknown option enrgy"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_settings(ObjectiveConfig, values, "objective")
