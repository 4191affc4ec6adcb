"""Records of numbers for the figures and the report, in the units of the package."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64

from basinet.data.doctor.doctor import Diagnosis
from basinet.evaluation.metrics import Parity

Start = Literal["scratch", "pre-trained"]
"""Origin of the weights that a fine-tuning starts from."""
STARTS: tuple[Start, ...] = get_args(Start)
"""Both starts, in the order of every table and legend."""


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
    """fs; equal to ``duration`` for a replica that stayed intact."""
    energy_drift: Float64[np.ndarray, " n_replicas"]
    """Slope of the total energy, eV/atom/ps."""
    duration: float
    """Length of the simulation, fs."""
    bond_tolerance: float
    """The deviation above which a bond counted as broken, Å."""

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.stability_time)

    @property
    def n_stable(self) -> int:
        """Number of replicas that stayed intact for the whole duration."""
        return int((self.stability_time >= self.duration).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the run and its wall time."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Facts that reproduce a run."""

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
    """Name of the molecule of the fine-tuning."""
    pretraining: str
    """Data of the pre-training, in a few words."""
    dynamics_protocol: str
    """Integrator, time step, temperature."""
    data: Sequence[Diagnosis]
    curves: Sequence[TrainingCurve]
    rows: Sequence[ResultRow]
    parities: Sequence[ModelParity]
    dynamics: Sequence[MDSeries]
    stages: Sequence[Stage]
    provenance: Provenance


def _column(
    rows: Sequence[Mapping[str, object]], key: str
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Return steps and values of the rows that have ``key``."""
    found = [(row["step"], row[key]) for row in rows if key in row]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return steps.copy(), values.copy()
