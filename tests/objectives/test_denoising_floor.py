"""How the molecule was moved as a whole cannot be told from the noisy molecule: two of its N parts are out of reach."""

import pytest
import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import Model, build_model
from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import mean_terms, total_loss
from basinet.objectives.denoising import Denoising
from basinet.structures.batch import Batch, collate
from basinet.structures.geometry import project_out_rigid_motion
from molecules import ETHANOL, WATER, from_smiles

DENOISING = Denoising(CoordinateNoise(0.04))


def loss(model: Model, batch: Batch, seed: int) -> float:
    with torch.no_grad():
        sums = DENOISING.sums(model, batch, torch.Generator().manual_seed(seed))
    return mean_terms(sums, DENOISING.counts(batch))["denoising"]


@pytest.mark.parametrize("smiles", ["O", "CCO", "CC(=O)Oc1ccccc1C(=O)O"])
def test_two_over_n_of_the_noise_is_rigid_motion(smiles: str, generator: torch.Generator) -> None:
    molecule = from_smiles(smiles)
    batch = collate([molecule], dtype=torch.float64).select([0] * 4000)
    perturbed = CoordinateNoise(0.04)(batch, generator)
    internal = project_out_rigid_motion(perturbed.target, perturbed.batch)
    rigid = 1 - float(internal.square().sum() / perturbed.target.square().sum())
    assert rigid == pytest.approx(2 / molecule.n_atoms, rel=0.03)


def test_training_goes_below_the_loss_of_zero_and_not_below_the_floor_and_predicts_no_rigid_motion() -> None:
    torch.manual_seed(0)
    config = EquivariantTransformerConfig(n_features=32, n_layers=1, n_heads=4, n_basis=16)
    model = build_model(build_backbone(config), ["energy", "noise"]).train()
    batch = collate([ETHANOL, WATER]).select([0, 1] * 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(150):
        optimizer.zero_grad()
        total_loss(DENOISING, DENOISING.sums(model, batch, generator), DENOISING.counts(batch)).backward()
        optimizer.step()
    ethanol = batch.select([0] * 200)
    found = loss(model.eval(), ethanol, seed=2)
    assert 2 / 9 < found < 0.7
    noisy = CoordinateNoise(0.04)(ethanol, torch.Generator().manual_seed(2)).batch
    predicted = model(noisy, ["noise"])["noise"].detach()
    rigid = 1 - float(project_out_rigid_motion(predicted, noisy).square().sum() / predicted.square().sum())
    assert rigid < 0.3 * 2 / 9
