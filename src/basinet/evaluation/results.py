"""What an experiment hands to the plots and the report: plain records of numbers, in the units of the package."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from basinet.evaluation.metrics import Parity

Start = Literal["scratch", "pre-trained"]
"""Where the weights of a model came from before it saw the labels of the task."""
STARTS: tuple[Start, ...] = get_args(Start)
"""Both starts, in the order of every table and legend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSummary:
    """What a data set contains."""

    name: str
    atoms_per_molecule: Int64[np.ndarray, " n_molecules"]
    atomic_numbers: Int64[np.ndarray, " n_atoms"]
    """Of every atom of every molecule."""
    force_norms: Float64[np.ndarray, " n_labelled_atoms"] | None = None
    """Length of the force on each atom, eV/Å; ``None`` if the set has no forces."""
    energies: Float64[np.ndarray, " n_labelled_molecules"] | None = None
    """eV per atom above the lowest conformation of the same compound (:func:`energies_above_lowest`)."""
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Rows of the table: source, level of theory, units, what was skipped and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCurve:
    """The history of one training run."""

    name: str
    start: Start | None
    """``None`` for pre-training itself."""
    steps: Float64[np.ndarray, " n_records"]
    losses: Float64[np.ndarray, " n_records"]
    """Training loss, in the units of the objective."""
    validation_steps: Float64[np.ndarray, " n_validations"]
    force_maes: Float64[np.ndarray, " n_validations"]
    """Validation force MAE, eV/Å per component."""

    @classmethod
    def from_records(
        cls,
        name: str,
        start: Start | None,
        records: Iterable[Mapping[str, object]],
        *,
        loss_key: str,
        force_mae_key: str,
    ) -> "TrainingCurve":
        """Read a history of records with a ``step``, each with a loss, a validation force MAE (eV/Å), or both.

        Raises:
            ValueError: no record has the loss.
        """
        rows = list(records)
        steps, losses = _column(rows, loss_key)
        validation_steps, force_maes = _column(rows, force_mae_key)
        if len(losses) == 0:
            seen = sorted({key for row in rows for key in row})
            raise ValueError(f"{name}: no record has {loss_key!r}; the {len(rows)} records have {seen}")
        return cls(
            name=name,
            start=start,
            steps=steps,
            losses=losses,
            validation_steps=validation_steps,
            force_maes=force_maes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """Test errors of one fine-tuned model."""

    labels: int
    """Number of labelled molecules it was trained on."""
    start: Start
    seed: int
    force_mae: float
    """eV/Å per component."""
    energy_mae: float
    """eV per molecule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParity:
    """Predictions of one model against the reference, for the same test molecules."""

    start: Start
    energies: Parity
    """eV."""
    forces: Parity
    """eV/Å, components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MDSeries:
    """Dynamics of some replicas of one molecule with one model."""

    start: Start
    n_atoms: int
    """Atoms of the molecule."""
    times: Float64[np.ndarray, " n_records"]
    """fs."""
    total_energy: Float64[np.ndarray, "n_records n_replicas"]
    """Potential plus kinetic energy of each replica, eV; NaN after a failure."""
    temperature: Float64[np.ndarray, "n_records n_replicas"]
    """K."""
    bond_deviation: Float64[np.ndarray, "n_records n_replicas"]
    """Largest deviation of a bond from its reference length, Å."""
    stability_time: Float64[np.ndarray, " n_replicas"]
    """fs; equal to ``duration`` for a replica that stayed whole."""
    energy_drift: Float64[np.ndarray, " n_replicas"]
    """Slope of the total energy, eV/atom/ps."""
    duration: float
    """The length that was asked for, fs."""
    bond_tolerance: float
    """The deviation above which a bond counted as broken, Å."""

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.stability_time)

    @property
    def n_stable(self) -> int:
        """Number of replicas that stayed whole for the whole duration."""
        return int((self.stability_time >= self.duration).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the run and the time it took."""

    name: str
    seconds: float
    """Wall time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What somebody needs to do it again."""

    command: str
    seed: int
    level_of_theory: str
    device: str
    versions: Mapping[str, str]
    """Package -> version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartResults:
    """Everything the quickstart report shows."""

    molecule: str
    """What the models were fine-tuned on, as a person would call it."""
    pretraining: str
    """What the pre-trained model learned from, in a few words."""
    dynamics_protocol: str
    """Integrator, time step, temperature."""
    data: Sequence[DataSummary]
    curves: Sequence[TrainingCurve]
    rows: Sequence[ResultRow]
    parities: Sequence[ModelParity]
    dynamics: Sequence[MDSeries]
    stages: Sequence[Stage]
    provenance: Provenance


def energies_above_lowest(
    energies: Float64[np.ndarray, " n_molecules"],
    atoms_per_molecule: Int64[np.ndarray, " n_molecules"],
    compounds: Shaped[np.ndarray, " n_molecules"],
) -> Float64[np.ndarray, " n_molecules"]:
    """Return the energy per atom (eV) above the lowest one of the same compound.

    Total energies of different compounds differ by thousands of eV and cannot share an axis; these can.

    Args:
        energies: total energies, eV.
        atoms_per_molecule: number of atoms.
        compounds: anything that is equal for conformations of one compound: an index, a SMILES.
    """
    _, compound = np.unique(compounds, return_inverse=True)
    lowest = np.full(compound.max(initial=-1) + 1, np.inf)
    np.minimum.at(lowest, compound, energies)
    return (energies - lowest[compound]) / atoms_per_molecule


def _column(
    rows: Sequence[Mapping[str, object]], key: str
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Return steps and values of the rows that have ``key``."""
    found = [(row["step"], row[key]) for row in rows if key in row]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return steps.copy(), values.copy()
