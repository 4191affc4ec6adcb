"""Measure how long molecules stay intact in short dynamics with a model, to select checkpoints.

A small force error does not imply stable dynamics (Fu et al., TMLR 2023), so the checkpoint with the smallest loss need
not be the best for simulations.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from basinet.config import Count, Positive, settings
from basinet.md.bonds import BOND_TOLERANCE, STRETCHED, BondStretch, reference_bonds
from basinet.md.dynamics import Dynamics, start
from basinet.md.integrators import LangevinBAOAB, Potential, replica_seeds
from basinet.structures.batch import collate
from basinet.structures.molecule import Molecule

RECORD_EVERY = 10
"""Steps between checks of the bonds."""


@settings
class StabilityConfig:
    """Short dynamics at every validation, if select_by=stability."""

    replicas: Count = 24
    """Number of replicas, from as many conformations of the validation set."""
    picoseconds: Positive = 1.0
    """Length of each, ps."""
    temperature: Positive = 500.0
    """Temperature, K."""
    dt: Positive = 0.5
    """Time step, fs."""
    friction: Positive = 0.01
    """Friction of the Langevin thermostat, 1/fs."""
    bond_tolerance: Positive = BOND_TOLERANCE
    """Deviation of a bond from its initial length at which a replica stops, Å."""
    seed: int = 0
    """Seed for velocities and random forces, the same at every validation."""


class Stability(NamedTuple):
    """Result of short dynamics."""

    times: Float64[Tensor, " n_replicas"]
    """Time until a bond broke in each replica, ps; at most the length of the run."""
    seconds: float
    """Wall time, s."""

    @property
    def mean(self) -> float:
        """Mean time, ps."""
        return float(self.times.mean())


def stability(
    potential: Potential, molecules: Sequence[Molecule], config: StabilityConfig, device: torch.device
) -> Stability:
    """Simulate replicas of molecules and return how long each stayed intact.

    The same molecules and seed give the same velocities and random forces, so models can be compared.
    """
    begin = time.monotonic()
    replicas = [molecules[i % len(molecules)] for i in range(config.replicas)]
    batch = collate(replicas, torch.float64).to(device)
    integrator = LangevinBAOAB(dt=config.dt, temperature=config.temperature, friction=config.friction)
    state = start(potential, batch, integrator, config.temperature, replica_seeds(config.seed, config.replicas))
    bonds = reference_bonds(replicas).to(device)
    dynamics = Dynamics(
        potential,
        state,
        integrator,
        record_every=RECORD_EVERY,
        temperature_range=(0.0, 1e5),
        stop_when={STRETCHED: BondStretch(bonds, config.bond_tolerance)},
    )
    dynamics.run(max(1, round(config.picoseconds * 1000 / config.dt)))
    times = torch.full((config.replicas,), config.picoseconds, dtype=torch.float64)
    for failure in dynamics.failures:
        times[failure.molecule] = min(failure.time / 1000, config.picoseconds)
    return Stability(times, time.monotonic() - begin)
