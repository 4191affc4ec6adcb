"""A run draws the molecules that some term of the loss is for, and no others."""

import dataclasses

import numpy as np
import pytest
import torch

from basinet.commands.statistics import used_by
from basinet.data.store.store import MoleculeStore
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise, RotorNoise
from basinet.objectives.base import Objective
from basinet.objectives.combine import WeightedSum, Where
from basinet.objectives.denoising import Denoising, ForceDenoising
from basinet.objectives.methods import (
    CoordinateDenoisingConfig,
    EtOreoConfig,
    ForceAndDenoiseConfig,
    FradConfig,
    FradNoisyNodesConfig,
    FradVRNConfig,
    UnifiedConfig,
)
from basinet.objectives.noise_level import EnergyGradientDenoising
from basinet.objectives.noisy_nodes import NoisyNodes
from basinet.objectives.supervised import Energy, EnergyForces, Forces, ZeroForce
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate
from molecules import from_smiles
from small_runs import spring_molecule, tiny_model

NOISE = CoordinateNoise(0.04)
OBJECTIVES: dict[str, Objective] = {
    "forces": Forces(),
    "zero force": ZeroForce(),
    "energy": Energy(),
    "energy and forces": EnergyForces(1.0, 1.0),
    "denoising": Denoising(NOISE),
    "force denoising": ForceDenoising(NOISE, 300.0),
    "where": Where("is_equilibrium", Forces()),
    "noisy nodes": NoisyNodes(Energy(), NOISE, 0.1),
    "sum": WeightedSum(a=(1.0, ZeroForce()), b=(1.0, Energy())),
    "coordinate denoising": CoordinateDenoisingConfig().build(),
    "force and denoise": ForceAndDenoiseConfig().build(),
    "et-oreo": EtOreoConfig().build(),
}


HYBRID = HybridNoise(RotorNoise(0.1), NOISE)
NEED_ROTORS: dict[str, Objective] = {
    "frad": FradConfig().build(),
    "frad vrn": FradVRNConfig().build(),
    "unified": UnifiedConfig().build(),
    "denoising": Denoising(HYBRID),
    "force denoising": ForceDenoising(HYBRID),
    "energy gradient": EnergyGradientDenoising(HYBRID),
    "noisy nodes": NoisyNodes(Energy(), HYBRID, 0.1),
    "decoupled noisy nodes": FradNoisyNodesConfig().build(),
}
"""Objectives whose noise turns rotors."""


def some_without_bonds() -> list[Molecule]:
    """Return labelled minima with bonds, without, and with bonds of unknown order."""
    ethanol = from_smiles("CCO", labels={"energy": 1.0, "forces": np.zeros((9, 3))}, is_equilibrium=True)
    bare = dataclasses.replace(ethanol, bonds=None, bond_orders=None)
    return [ethanol, bare, dataclasses.replace(ethanol, bond_orders=None), ethanol]


@pytest.mark.parametrize("objective", NEED_ROTORS.values(), ids=NEED_ROTORS.keys())
def test_molecules_without_rotors_on_record_are_left_out_by_the_terms_that_need_them(objective: Objective) -> None:
    batch = collate(some_without_bonds())
    assert "has_rotors" in objective.flags
    assert batch.flags["has_rotors"].tolist() == [True, False, False, True]
    model = tiny_model(sorted(objective.requires | {"energy"}))
    known = batch.select([0, 3])
    needing = [name for name, count in objective.counts(batch).items() if count == objective.counts(known)[name] > 0]
    assert needing, "no term leaves them out"
    sums, alone = (objective.sums(model, b, torch.Generator().manual_seed(0)) for b in (batch, known))
    for name in needing:
        assert float(sums[name].detach()) == pytest.approx(float(alone[name].detach()), rel=1e-5)


@pytest.mark.parametrize("objective", NEED_ROTORS.values(), ids=NEED_ROTORS.keys())
def test_a_molecule_without_rotors_on_record_is_used_exactly_if_it_counts_alone(objective: Objective) -> None:
    batch = collate(some_without_bonds())
    alone = [any(c > 0 for c in objective.counts(batch.select([i])).values()) for i in range(batch.n_molecules)]
    assert objective.uses(batch).tolist() == alone


def molecules() -> list[Molecule]:
    """Return a minimum, a labelled frame, a frame with an energy alone, and one with nothing."""
    minimum, frame, bare = (spring_molecule("H2O", size, seed=1) for size in (0.0, 0.1, 0.2))
    unlabelled = Molecule(atomic_numbers=bare.atomic_numbers, positions=bare.positions)
    energy = Molecule(atomic_numbers=bare.atomic_numbers, positions=bare.positions, labels={"energy": 1.0})
    return [minimum, frame, energy, unlabelled]


@pytest.fixture
def batch() -> Batch:
    return collate(molecules())


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_a_molecule_is_used_exactly_if_it_counts_alone(objective: Objective, batch: Batch) -> None:
    alone = [any(c > 0 for c in objective.counts(batch.select([i])).values()) for i in range(batch.n_molecules)]
    assert objective.uses(batch).tolist() == alone


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_leaving_out_what_is_not_used_changes_no_count(objective: Objective, batch: Batch) -> None:
    used = batch.select(objective.uses(batch).nonzero()[:, 0])
    assert objective.counts(used) == objective.counts(batch)


def test_an_empty_batch_uses_nothing(batch: Batch) -> None:
    for objective in OBJECTIVES.values():
        assert objective.uses(batch.select([])).shape == (0,)


def test_a_run_draws_only_what_is_used() -> None:
    store = MoleculeStore.from_molecules(molecules())
    assert used_by(CoordinateDenoisingConfig().build(), store, np.arange(4)).tolist() == [0]
    assert used_by(Forces(), store, np.array([3, 1, 0])).tolist() == [1, 0]
    assert torch.equal(Energy().uses(store.gather(np.arange(4))), torch.tensor([True, True, True, False]))


def test_data_in_which_no_molecule_has_all_that_is_needed_is_refused() -> None:
    store = MoleculeStore.from_molecules(molecules())
    with pytest.raises(ValueError, match="none of 2 conformations"):
        used_by(Where("is_equilibrium", Forces()), store, np.array([1, 2]))
