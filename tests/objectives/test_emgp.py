"""3D-EMGP as a composition, and that it learns."""

import math

import pytest
import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.config import read_settings
from basinet.models.model import Model, build_model
from basinet.noise.ladder import NoiseLadder, geometric_ladder
from basinet.noise.riemannian import LadderNoise, RiemannianNoise, SuperposedNoise
from basinet.objectives.base import mean_terms, total_loss
from basinet.objectives.methods import EMGPConfig, ObjectiveConfig
from basinet.objectives.noise_level import EnergyGradientDenoising
from basinet.structures.batch import Batch, collate
from molecules import SMALL, bonded, from_smiles


def tiny_model() -> Model:
    torch.manual_seed(0)
    return build_model(build_backbone(EGNNConfig(n_features=32, n_layers=2)), ["pooled_energy", "noise_level"])


def test_the_loss_is_that_of_the_gradient_and_a_fifth_of_that_of_the_level() -> None:
    model, batch = tiny_model().double(), collate([bonded(m) for m in SMALL], dtype=torch.float64)
    objective = EMGPConfig().build()
    assert dict(objective.weights) == {"gradient": 1.0, "level": 0.2}
    assert objective.requires == {"forces", "pooled_energy", "noise_level"}
    assert objective.labels == objective.flags == frozenset()
    counts = objective.counts(batch)
    sums = {k: v.detach() for k, v in objective.sums(model, batch, torch.Generator().manual_seed(0)).items()}
    terms = mean_terms(sums, counts)
    assert float(total_loss(objective, sums, counts)) == pytest.approx(terms["gradient"] + 0.2 * terms["level"])


@pytest.mark.parametrize(
    ("target", "noise"), [("riemannian", RiemannianNoise), ("gaussian", LadderNoise), ("superposed", SuperposedNoise)]
)
def test_settings_choose_the_way_back(target: str, noise: type) -> None:
    values = {"kind": "emgp", "largest_sigma": 1.0, "target": target, "level": 0.1}
    config = read_settings(ObjectiveConfig, values, "test")
    assert isinstance(config, EMGPConfig)
    objective = config.build()
    assert dict(objective.weights) == {"gradient": 1.0, "level": 0.1}
    for part in objective.parts.values():
        assert type(part.perturbation) is noise
        assert part.perturbation.ladder.sigmas == geometric_ladder(1.0, 0.01).sigmas


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"level": 0.0}, "level must be positive, got 0.0"),
        ({"gradient": math.inf}, "gradient must be finite, got inf"),
        ({"smallest_sigma": 20.0}, "expected 0 < smallest < largest .*, got smallest 20.0 and largest 10.0"),
        ({"target": "straight"}, "target: got 'straight'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(ObjectiveConfig, {"kind": "emgp", **values}, "test")


def gradient_loss(model: Model, batch: Batch, sigma: float) -> tuple[float, float]:
    """Return the loss of a model at one size of the noise, and that of predicting zero."""
    objective = EnergyGradientDenoising(RiemannianNoise(NoiseLadder([sigma])))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    perturbed = objective.perturbation(batch, generators[0])
    with torch.no_grad():
        found = objective.sums(model, batch, generators[1])["gradient"]
    return float(found) / batch.n_molecules, float(perturbed.target.square().sum()) / batch.n_molecules


def test_a_small_network_learns_the_way_back_from_large_noise() -> None:
    model = tiny_model()
    molecules = [from_smiles(s) for s in ("CCO", "CC=O", "CN", "CCC", "C1CC1", "CO", "C#CC", "CF")]
    batch = collate(molecules)
    objective, generator = EMGPConfig().build(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        total_loss(objective, objective.sums(model, batch, generator), objective.counts(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    test = collate(molecules * 8)
    for sigma in (0.5, 1.0, 3.0, 10.0):
        ours, of_zero = gradient_loss(model.eval(), test, sigma)
        assert ours < 0.8 * of_zero, f"{sigma} Å: {ours:.1f}, predicting zero {of_zero:.1f}"
