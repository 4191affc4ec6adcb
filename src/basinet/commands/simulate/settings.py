"""Settings of simulations and of the MD17 benchmark."""

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import model_validator

from basinet.commands.recipe import UnitsConfig
from basinet.config import Count, NonNegative, Positive, settings, without_retired
from basinet.md.bonds import BOND_TOLERANCE
from basinet.md.frames import FrameFormat

TEMPERATURE, DT, RECORD_EVERY, TOLERANCE = 500.0, 0.5, 100, 0.5
"""Protocol of the benchmark: K, fs, steps (0.05 ps), Å."""
PICOSECONDS, REPLICAS, TEST_FRAMES, SPLIT = 300.0, 5, 10_000, "md17-mdsim"
"""Length of a run, runs for each molecule, frames for the force error, and split of the protocol."""
ALL = "all"
"""Split that makes every frame a test frame."""


@settings
class SimulateConfig:
    """Settings of a simulation."""

    model: Path
    """Model file (*.safetensors)."""
    molecules: Path
    """File or store of the molecules to start from."""
    temperature: NonNegative = 300.0
    """Temperature of the thermostat and of the initial velocities, K."""
    picoseconds: Positive = 10.0
    """Length of the simulation, ps; a resumed simulation may be made longer."""
    replicas: Count = 16
    """Copies that run at once, each with its own random numbers."""
    starts: Count = 1
    """Number of molecules of the file to start from; replicas take them in turn."""
    dt: Positive = 0.5
    """Time step, fs."""
    thermostat: Literal["langevin", "nve", "nose-hoover"] = "langevin"
    """Thermostat; nve: none, at constant energy."""
    friction: Positive = 0.01
    """Friction of the Langevin thermostat, 1/fs."""
    seed: int = 0
    """Seed for initial velocities and random forces."""
    record_every: Count = 20
    """Steps between two records and frames."""
    frames: FrameFormat = "extxyz"
    """Format of the trajectories; hdf5: one file for all replicas."""
    bond_tolerance: Positive = BOND_TOLERANCE
    """Deviation of a bond from its initial length at which a replica stops, Å."""
    stop_force_std: Annotated[float, Gt(0)] | None = None
    """Standard deviation of a force among the models of an ensemble at which a replica stops, eV/Å."""
    relax: bool = False
    """Relax the molecules (FIRE) first."""
    outside_scope: Literal["error", "warn"] = "error"
    """Start molecules unlike those the model was trained on: refuse them, or warn."""

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, values: Any) -> Any:
        why = "is not available any more; start a new simulation, which uses C++ kernels"
        return without_retired(values, {"tables": (False,), "compiled": (False,)}, why)

    def __post_init__(self) -> None:
        """Check that the simulation has a step."""
        if self.picoseconds * 1000 < self.dt:
            raise ValueError(f"picoseconds must be at least one time step ({self.dt} fs), got {self.picoseconds}")

    @property
    def n_steps(self) -> int:
        """Number of time steps."""
        return round(self.picoseconds * 1000 / self.dt)

    @property
    def hottest(self) -> float:
        """Temperature above which a replica stops, K; thermal fluctuations of a single atom stay below it."""
        return max(5000.0, 10 * self.temperature)


@settings
class MDBenchmarkConfig:
    """Settings of the MD17 benchmark."""

    data: Path
    """Reference trajectory of one molecule with forces: md17:aspirin, or a file or store."""
    model: Path | None = None
    """Model file (*.safetensors); or a calculator."""
    calculator: str = ""
    """ASE calculator instead of a model: module:function or file.py:function."""
    split: str = SPLIT
    """Split whose test frames give starts and force errors: a name, a split.json, or all for every frame."""
    picoseconds: Annotated[Positive, Ge(RECORD_EVERY * DT / 1000)] = PICOSECONDS
    """Length of each run, ps; 300 as published."""
    replicas: Count = REPLICAS
    """Number of runs, all at once; 5 as published."""
    test_frames: Count = TEST_FRAMES
    """Largest number of frames for the force error; 10,000 as published."""
    seed: int = 123
    """Seed for starts and initial velocities."""
    frames: FrameFormat = "extxyz"
    """Format of the trajectories; hdf5: one file for all replicas."""
    units: UnitsConfig = UnitsConfig()
    """Units and names of the reference."""

    def __post_init__(self) -> None:
        """Check that there is one force field."""
        if (self.model is None) == (not self.calculator):
            raise ValueError("give a model file or --calculator module:function, one of the two")

    @property
    def n_steps(self) -> int:
        """Number of time steps."""
        return round(self.picoseconds * 1000 / DT)

    @property
    def name(self) -> str:
        """Name of the force field."""
        return self.calculator or str(self.model)

    def as_simulation(self) -> SimulateConfig:
        """Return the same settings as those of a simulation."""
        return SimulateConfig(
            model=Path(self.name),
            molecules=self.data,
            temperature=TEMPERATURE,
            picoseconds=self.picoseconds,
            replicas=self.replicas,
            starts=self.replicas,
            dt=DT,
            thermostat="nose-hoover",
            seed=self.seed,
            record_every=RECORD_EVERY,
            frames=self.frames,
            bond_tolerance=TOLERANCE,
        )
