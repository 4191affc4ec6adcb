"""Results of a quickstart that never ran, with numbers of the size that a real one gives."""

import numpy as np
from ase.build import molecule as g2

from basinet.data.doctor.doctor import Diagnosis, examine
from basinet.data.store.store import MoleculeStore
from basinet.evaluation.metrics import Parity
from basinet.quickstart.results import (
    STARTS,
    MDSeries,
    ModelParity,
    Provenance,
    QuickstartResults,
    ResultRow,
    Stage,
    Start,
    TrainingCurve,
)
from basinet.structures import Molecule

FORCE_MAE: dict[Start, float] = {"scratch": 0.121, "pre-trained": 0.082}
"""eV/Å at 50 labels."""


def demo_results(seeds: tuple[int, ...] = (0, 1, 2), counts: tuple[int, ...] = (50, 200, 800)) -> QuickstartResults:
    rng = np.random.default_rng(0)
    return QuickstartResults(
        molecule="aspirin",
        pretraining="GFN2-xTB forces of 2,000 conformations of 200 small molecules",
        dynamics_protocol="Velocity Verlet, 0.5 fs, velocities of 500 K at the start",
        data=[small_molecules(rng), small_molecules(rng)],
        curves=[
            curve(rng, "pre-training", None, 1.0, 0.11),
            *[curve(rng, start, start, 0.5, FORCE_MAE[start]) for start in STARTS for _ in seeds],
        ],
        rows=[row(rng, n, start, seed) for n in counts for start in STARTS for seed in seeds],
        parities=[parity(rng, start) for start in STARTS],
        dynamics=[broken_series(rng), whole_series(rng)],
        stages=[
            Stage(name="generate conformers", seconds=12.4),
            Stage(name="label with GFN2-xTB", seconds=31.0),
            Stage(name="pre-train", seconds=240.2),
            Stage(name="fine-tune (all seeds)", seconds=171.9),
            Stage(name="dynamics", seconds=33.3),
        ],
        provenance=Provenance(
            command="basinet quickstart --seed 0 --out runs/quickstart",
            seed=0,
            level_of_theory="GFN2-xTB (tblite 0.4.0)",
            device="CPU, 2 threads",
            versions={"basinet": "0.1.0", "torch": "2.13.0", "numpy": "2.2.0"},
        ),
    )


def small_molecules(rng: np.random.Generator) -> Diagnosis:
    """Return the checks of a few displaced molecules with forces."""
    made = [
        Molecule(
            atomic_numbers=atoms.numbers.astype(np.int64),
            positions=atoms.positions + 0.05 * rng.normal(size=atoms.positions.shape),
            labels={"forces": rng.normal(size=atoms.positions.shape)},
            smiles=name,
        )
        for name in ("CH4", "H2O", "CH3CH2OH")
        for atoms in [g2(name)] * 4
    ]
    return examine(MoleculeStore.from_molecules(made), "small molecules")


def curve(rng: np.random.Generator, name: str, start: Start | None, loss: float, final: float) -> TrainingCurve:
    steps = np.arange(1, 1001)
    decay = final * (1 + 6 / (1 + steps / 40))
    records = [{"step": int(s), "loss": float(loss * decay[s - 1] * rng.lognormal(0, 0.1))} for s in steps[::5]]
    records += [{"step": int(s), "mae": float(decay[s - 1] * rng.lognormal(0, 0.02))} for s in steps[49::50]]
    return TrainingCurve.from_records(name, start, records, loss_key="loss", force_mae_key="mae")


def row(rng: np.random.Generator, labels: int, start: Start, seed: int) -> ResultRow:
    force_mae = FORCE_MAE[start] * (labels / 50) ** -0.35 * rng.lognormal(0, 0.05)
    return ResultRow(labels=labels, start=start, seed=seed, force_mae=force_mae, energy_mae=1.2 * force_mae)


def parity(rng: np.random.Generator, start: Start) -> ModelParity:
    forces, energies = rng.normal(0, 1.5, size=4000), -17600 + rng.normal(0, 0.3, size=400)
    off = FORCE_MAE[start] / 0.8
    return ModelParity(
        start=start,
        forces=Parity(reference=forces, predicted=forces + rng.normal(0, off, size=4000)),
        energies=Parity(reference=energies, predicted=energies + rng.normal(0, off, size=400)),
    )


def whole_series(rng: np.random.Generator, n_replicas: int = 4) -> MDSeries:
    """Return replicas that oscillate as constant-energy dynamics does."""
    times = np.arange(201) * 25.0
    temperature = 250 + 40 * rng.normal(size=(201, n_replicas))
    temperature[0] = 500.0
    return MDSeries(
        start="pre-trained",
        n_atoms=21,
        times=times,
        total_energy=-17600 + 0.02 * rng.normal(size=(201, n_replicas)),
        temperature=temperature,
        bond_deviation=np.abs(0.08 + 0.03 * rng.normal(size=(201, n_replicas))),
        stability_time=np.full(n_replicas, 5000.0),
        energy_drift=1e-4 * rng.normal(size=n_replicas),
        duration=5000.0,
        bond_tolerance=0.5,
    )


def broken_series(rng: np.random.Generator) -> MDSeries:
    """Return four replicas of which one explodes, one loses a bond, and two stay whole."""
    series = whole_series(rng)
    energy, temperature, bonds = series.total_energy.copy(), series.temperature.copy(), series.bond_deviation.copy()
    energy += np.linspace(0, 0.6, 201)[:, None]
    growth = np.exp(np.arange(21) / 3.0)
    energy[60:81, 0] += growth
    temperature[60:81, 0] += 60 * growth
    bonds[60:81, 0] += 0.1 * growth
    for values in (energy, temperature, bonds):
        values[81:, 0] = np.nan
    bonds[130:, 1] += 0.6 + 0.01 * np.arange(71)
    return MDSeries(
        start="scratch",
        n_atoms=21,
        times=series.times,
        total_energy=energy,
        temperature=temperature,
        bond_deviation=bonds,
        stability_time=np.array([1625.0, 3250.0, 5000.0, 5000.0]),
        energy_drift=np.array([np.nan, 0.006, 0.0057, 0.0057]),
        duration=5000.0,
        bond_tolerance=0.5,
    )
