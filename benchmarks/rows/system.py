"""What is more than one call of a network: memory of a step, dynamics, noise, and the time of an epoch."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet as ASEVerlet

from basinet.md.dynamics import Dynamics, start
from basinet.md.integrators import VelocityVerlet, replica_seeds
from basinet.noise.internal import RotorNoise
from basinet.structures.batch import collate
from rows import molecules
from rows.inference import EAGER, KERNELS, apart, potential_of
from rows.stock import ET_128X8, fresh_et, peer_module, torchmd_net_calculator
from rows.timing import Line, NotMeasured, compared, not_measured, race

N_REPLICAS = 32
TIME_STEP = 0.5
"""fs."""
MEMORY_FORMS = {
    "eager": "ours",
    "kernels": "kernels",
    "eager, in 4 parts (training.accumulate)": "parts",
}
"""Forms of ours, and what the script for it calls them."""
TEMPERATURE = 100.0
"""K."""
N_NOISED = 256
"""Molecules: a batch of pre-training."""
ROTOR = "[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]"
"""Frad's SMARTS."""
SCRIPT = Path(__file__).parent / "peak.py"


def peak_memory(rounds: int) -> list[Line]:
    """Measure the peak memory of a force-training step, each side in processes of their own."""
    del rounds
    what, peer, reach = "peak memory, force-training step, ET 256x8, 64 x 18 atoms", "torchmd-net ET", "2 (3)"
    try:
        peer_module("torchmdnet.models.model")
        theirs = _peak("stock")
        of_forms = {form: _peak(side) for form, side in MEMORY_FORMS.items()}
    except NotMeasured as why:
        return [not_measured(what, "eager", peer, reach, why)]
    note = "growth of the peak of resident memory over one step"
    return [
        Line(what, form, peer, reach, ours, theirs, theirs / ours, unit="MiB", note=note)
        for form, ours in of_forms.items()
    ]


def _peak(side: str) -> float:
    done = subprocess.run([sys.executable, str(SCRIPT), side], capture_output=True, text=True, env=os.environ.copy())
    if done.returncode:
        raise NotMeasured(f"{side}: the process ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return float(done.stdout.split()[-1])


def batched_dynamics(rounds: int) -> list[Line]:
    """Time dynamics of replicas together against torchmd-net's calculator in ASE, one replica after another."""
    what, peer, reach = f"MD, {N_REPLICAS} aspirins, a step of all", "torchmd-net through ASE, one by one", "4 (10)"
    model = fresh_et(ET_128X8, ["energy", "forces"]).eval()
    one = molecules.aspirin()
    atoms = Atoms(numbers=one.atomic_numbers, positions=one.positions - one.positions.mean(0))
    try:
        atoms.calc = torchmd_net_calculator(model)
    except NotMeasured as why:
        return [not_measured(what, "eager", peer, reach, why)]
    atoms.info["charge"] = 0
    forces = model(collate([one]), ["energy", "forces"])["forces"]
    note = apart(lambda: forces, lambda: torch.from_numpy(atoms.get_forces()))
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=np.random.default_rng(0))
    theirs = ASEVerlet(atoms, timestep=TIME_STEP * units.fs)
    integrator = VelocityVerlet(dt=TIME_STEP)
    batch = collate([one] * N_REPLICAS)
    runs: dict[str, Dynamics] = {}
    for form in (EAGER, KERNELS):
        potential = potential_of(form, model)
        begin = start(potential, batch, integrator, TEMPERATURE, replica_seeds(0, N_REPLICAS))
        runs[form] = Dynamics(potential, begin, integrator, record_every=1000)
    ours = {form: partial(_one_step, dynamics) for form, dynamics in runs.items()}
    times = race(ours | {peer: lambda: theirs.run(1)}, rounds)
    for dynamics in runs.values():
        if dynamics.failures:
            raise NotMeasured(f"replicas failed: {dynamics.failures[0]}")
    of_all = [N_REPLICAS * t for t in times[peer]]
    return [compared(Line(what, form, peer, reach, note=note), times[form], of_all) for form in runs]


def _one_step(dynamics: Dynamics) -> None:
    dynamics.run(dynamics.state.step + 1)


def rotor_noise(rounds: int) -> list[Line]:
    """Time the turning of all rotors of a batch against RDKit, which turns one after another in a copy."""
    from rdkit import Chem
    from rdkit.Chem import rdMolTransforms
    from rdkit.Geometry import Point3D

    chosen = molecules.qm9_sized(N_NOISED)
    batch = collate(list(chosen))
    noise, generator = RotorNoise(sigma=0.1), torch.Generator().manual_seed(0)
    ready = []
    for molecule in chosen:
        rd = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
        conformer = Chem.Conformer(molecule.n_atoms)
        for i, position in enumerate(molecule.positions.tolist()):
            conformer.SetAtomPosition(i, Point3D(*position))
        rd.AddConformer(conformer)
        ready.append((rd, _dihedrals(rd)))
    draw = np.random.default_rng(0)

    def theirs() -> None:
        for rd, dihedrals in ready:
            copy = Chem.Mol(rd)
            conformer = copy.GetConformer()
            for dihedral in dihedrals:
                angle = rdMolTransforms.GetDihedralRad(conformer, *dihedral) + 0.1 * draw.normal()
                rdMolTransforms.SetDihedralRad(conformer, *dihedral, angle)
            conformer.GetPositions()

    peer = "RDKit SetDihedral and copy"
    times = race({"eager": lambda: noise(batch, generator), peer: theirs}, rounds)
    each = [[t / len(chosen) for t in times[name]] for name in ("eager", peer)]
    n_ours, n_theirs = batch.topology.rotors.n_rotors if batch.topology else 0, sum(len(d) for _, d in ready)
    note = f"{n_ours} rotors by ours, {n_theirs} by RDKit, in {len(chosen)} molecules"
    return [
        compared(Line(f"torsion noise, per molecule (QM9-sized x {N_NOISED})", "batch", peer, "4", note=note), *each)
    ]


def _dihedrals(molecule: Any) -> list[tuple[int, int, int, int]]:
    """Return four atoms for each rotor, found by Frad's pattern, hydrogens explicit."""
    from rdkit import Chem

    found = []
    for i, j in molecule.GetSubstructMatches(Chem.MolFromSmarts(ROTOR)):
        a, b = molecule.GetAtomWithIdx(i), molecule.GetAtomWithIdx(j)
        first = next(n.GetIdx() for n in a.GetNeighbors() if n.GetIdx() != j)
        last = next(n.GetIdx() for n in b.GetNeighbors() if n.GetIdx() != i)
        found.append((first, i, j, last))
    return found
