"""What the MD17 benchmark is to do, and in what that is not what was published."""

import math
from pathlib import Path

from basinet.commands.recipe import UnitsConfig
from basinet.commands.simulate.start import SimulateConfig
from basinet.config import settings
from basinet.md.frames import FrameFormat
from basinet.structures import Molecule

TEMPERATURE, DT, RECORD_EVERY, TOLERANCE = 500.0, 0.5, 100, 0.5
"""K, fs, steps (0.05 ps), Å: the protocol."""
PICOSECONDS, REPLICAS, TEST_FRAMES, SPLIT = 300.0, 5, 10_000, "md17-mdsim"
"""Length of a run, runs for each molecule, frames for the force error, and the split of the protocol."""
MOLECULES = {"C9H8O4": "aspirin", "C2H6O": "ethanol", "C10H8": "naphthalene", "C7H6O3": "salicylic acid"}
LEAST_FRAMES = 100_000
"""The files of MD17 of these four have more."""
ALL = "all"
"""In place of a split: every frame is a test frame."""


@settings
class MDBenchmarkConfig:
    """What to examine, and how much of the protocol."""

    data: Path
    """Reference trajectory of one molecule with forces."""
    model: Path | None = None
    """The model file."""
    calculator: str = ""
    """In place of a model, a calculator of ASE: module:function or file.py:function."""
    split: str = SPLIT
    """Its test part gives starts and force errors; all: every frame."""
    picoseconds: float = PICOSECONDS
    """Length of each run."""
    replicas: int = REPLICAS
    """Runs."""
    test_frames: int = TEST_FRAMES
    """For the force error, at most."""
    seed: int = 123
    """Of starts and velocities."""
    frames: FrameFormat = "extxyz"
    """What the frames are written as."""
    units: UnitsConfig = UnitsConfig()
    """And names, of the reference."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if (self.model is None) == (not self.calculator):
            raise ValueError("give a model file or --calculator module:function, one of the two")
        for name in ("replicas", "test_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not RECORD_EVERY * DT / 1000 <= self.picoseconds < math.inf:
            raise ValueError(
                f"picoseconds must be at least {RECORD_EVERY * DT / 1000:g}, a record, got {self.picoseconds}"
            )

    @property
    def n_steps(self) -> int:
        """Number of time steps."""
        return round(self.picoseconds * 1000 / DT)

    @property
    def name(self) -> str:
        """What is examined."""
        return self.calculator or str(self.model)

    def as_simulation(self) -> SimulateConfig:
        """Return the simulation that the benchmark is."""
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


def departures(config: MDBenchmarkConfig, molecule: Molecule, n_frames: int, n_test: int) -> list[str]:
    """Say in what a benchmark is not the published one; nothing if it is."""
    found: list[str] = []
    if molecule.formula not in MOLECULES:
        found.append(f"{molecule.formula} is none of its molecules ({', '.join(MOLECULES.values())})")
    if config.picoseconds != PICOSECONDS:
        found.append(f"{config.picoseconds:g} ps instead of {PICOSECONDS:g}")
    if config.replicas != REPLICAS:
        found.append(f"{config.replicas} runs instead of {REPLICAS}")
    if config.split != SPLIT:
        found.append(f"test frames of split {config.split} instead of {SPLIT}")
    if n_test < TEST_FRAMES:
        found.append(f"force error of {n_test:,} frames instead of {TEST_FRAMES:,}")
    if n_frames < LEAST_FRAMES:
        found.append(f"h(r) and bond lengths of {n_frames:,} reference frames instead of all of MD17")
    return found
