"""A run draws the molecules that some term of the loss is for, and no others."""

import numpy as np
import pytest
import torch

from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import Objective
from basinet.objectives.combine import WeightedSum, Where
from basinet.objectives.denoising import Denoising, ForceDenoising
from basinet.objectives.methods import coordinate_denoising, et_oreo, force_and_denoise
from basinet.objectives.noisy_nodes import NoisyNodes
from basinet.objectives.supervised import Energy, EnergyForces, Forces, ZeroForce
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate
from small_runs import spring_molecule

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
    "coordinate denoising": coordinate_denoising(),
    "force and denoise": force_and_denoise(),
    "et-oreo": et_oreo(),
}


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
    from basinet.data.store import MoleculeStore
    from basinet.runs.train import used_by

    store = MoleculeStore.from_molecules(molecules())
    assert used_by(coordinate_denoising(), store, np.arange(4)).tolist() == [0]
    assert used_by(Forces(), store, np.array([3, 1, 0])).tolist() == [1, 0]
    assert torch.equal(Energy().uses(store.gather(np.arange(4))), torch.tensor([True, True, True, False]))


def test_data_in_which_no_molecule_has_all_that_is_needed_is_refused() -> None:
    from basinet.data.store import MoleculeStore
    from basinet.runs.train import used_by

    store = MoleculeStore.from_molecules(molecules())
    with pytest.raises(ValueError, match="none of 2 conformations"):
        used_by(Where("is_equilibrium", Forces()), store, np.array([1, 2]))
