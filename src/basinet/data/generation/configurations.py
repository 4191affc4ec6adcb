"""Make the configurations of one molecule: minima, dynamics, normal modes, labelled by a calculator."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import NonNegativeInt

from basinet.config import Count, Positive, settings
from basinet.data.chemistry.conformers import FORCE_FIELDS, ForceField, GenerationError, embed, force_field_hessian
from basinet.data.generation.calculators import parse_options
from basinet.data.generation.parts import Lost
from basinet.data.generation.sampling import (
    FAILED,
    Frame,
    Positions,
    Statistics,
    Surface,
    displace,
    is_intact,
    langevin,
    normal_modes,
    relax,
)
from basinet.structures import Molecule

NOT_MADE = "calculator cannot be made"
CALCULATOR_FAILURES = frozenset({FAILED, NOT_MADE})


@settings
class GenerateConfig:
    """Molecules, calculator and configurations of each molecule."""

    smiles_file: Path | None = None
    """File with one SMILES per line; default: the small organic molecules that come with basinet."""
    n_molecules: Count | None = None
    """Number of molecules, from the start of the list (the packaged list is shuffled); default: all."""
    exclude: tuple[str, ...] = ()
    """SMILES of compounds to leave out, with all their stereoisomers."""
    calculator: str = "gfn2-xtb"
    """gfn2-xtb, gfn1-xtb, or any ASE calculator as module:Class or file.py:function."""
    calculator_options: tuple[str, ...] = ()
    """Keyword arguments of the calculator, each as key=value."""
    level_of_theory: str | None = None
    """Level of theory recorded in the store; default: the calculator and its options."""
    force_fields: tuple[ForceField, ...] = FORCE_FIELDS
    """Force fields for the first relaxation; the first with parameters for the molecule is used."""
    n_conformers: Count = 1
    """Largest number of conformers of each molecule; each gives a minimum and its own frames."""
    frames_per_conformer: NonNegativeInt = 8
    """Frames of Langevin dynamics from each minimum, at each temperature."""
    temperatures: tuple[Positive, ...] = (600.0,)
    """Temperatures of the dynamics and the normal modes, K; each starts from the minimum."""
    timestep: Positive = 2.5
    """Time step of the dynamics, fs. Hydrogen has mass 4 amu there: up to 3 fs the mean energy is right within 3 %."""
    stride: Count = 4
    """Time steps between two frames."""
    normal_mode_frames: NonNegativeInt = 0
    """Frames displaced along normal modes of each minimum, at each temperature; modes cost 6 labels per atom."""
    normal_mode_statistics: Statistics = "classical"
    """Statistics of the amplitudes: classical, or quantum with zero-point motion."""
    displaced_frames: NonNegativeInt = 0
    """Frames with all atoms of a minimum displaced at random."""
    displacement: Positive = 0.05
    """Standard deviation of these displacements along each axis, Å."""
    fmax: Positive = 0.03
    """Largest force at a minimum, eV/Å."""
    max_relax_steps: Count = 100
    """Steps after which a conformer that has not reached its minimum is left out."""
    seed: NonNegativeInt = 0
    """Seed of all random numbers; each molecule has its own stream."""
    molecules_per_chunk: Count = 64
    """Largest number of molecules lost by an interrupted run (or the number of processes, if larger)."""
    processes: Count | None = None
    """Processes, one thread each; default: all cores. The result does not depend on it."""

    def __post_init__(self) -> None:
        """Check that the temperatures differ."""
        if len(set(self.temperatures)) != len(self.temperatures):
            raise ValueError(f"temperatures must differ, got {list(self.temperatures)}")


class Task(NamedTuple):
    """One molecule to treat."""

    place: int
    """Place in the full list; it gives the seed, which so does not depend on excluded molecules."""
    smiles: str
    config: GenerateConfig


class Outcome(NamedTuple):
    """Configurations of a molecule, and its failures."""

    place: int
    smiles: str
    molecules: Sequence[Molecule]
    lost: Sequence[Lost]


def label(task: Task) -> Outcome:
    """Make the configurations of one molecule."""
    config = task.config
    lost: list[Lost] = []
    found: list[Molecule] = []
    embedding, generator = random_streams(config.seed, task.place)
    try:
        conformers = embed(task.smiles, embedding, config.n_conformers, config.force_fields)
        for number, conformer in enumerate(conformers):
            surface = _surface(conformer, config)
            name = conformer.smiles if len(conformers) == 1 else f"{conformer.smiles} conformer {number}"
            found += _Configurations(surface, name, config, generator, lost)
        if not found:
            lost.append(Lost("molecule", "no conformer is left"))
    except GenerationError as error:
        lost.append(_lost("molecule", error))
    return Outcome(task.place, task.smiles, found, lost)


def died(task: Task) -> Outcome:
    """Return the outcome of a molecule whose process died twice."""
    return Outcome(task.place, task.smiles, [], [Lost("molecule", "the process died, twice")])


def _surface(conformer: Molecule, config: GenerateConfig) -> Surface:
    try:
        return Surface(conformer, config.calculator, parse_options(config.calculator_options))
    except GenerationError:
        raise
    except Exception as error:  # the factory works for neutral molecules: this one is the cause
        raise GenerationError(NOT_MADE) from error


class _Configurations:
    """Yields the minimum and the frames of one conformer; adds failures to ``lost``."""

    def __init__(
        self, surface: Surface, name: str, config: GenerateConfig, generator: np.random.Generator, lost: list[Lost]
    ) -> None:
        self.surface, self.name, self.config, self.generator, self.lost = surface, name, config, generator, lost

    def __iter__(self) -> Iterator[Molecule]:
        config = self.config
        try:
            hessian = force_field_hessian(self.surface.molecule, config.force_fields)
            minimum = relax(self.surface, hessian, config.fmax, config.max_relax_steps)
        except GenerationError as error:
            self.lost.append(_lost("conformer", error))
            return
        yield labelled(self.surface.molecule, minimum, f"{self.name} minimum", is_equilibrium=True)
        move = partial(displace, minimum, config.displacement, self.generator)
        yield from self._displaced("displaced", config.displaced_frames, move)
        for temperature in config.temperatures:
            at = "" if len(config.temperatures) == 1 else f"{temperature:g} K "
            yield from self._dynamics(minimum, temperature, f"{at}frame")
        if config.normal_mode_frames:
            yield from self._normal_modes(minimum)

    def _displaced(self, what: str, n_frames: int, move: Callable[[], Positions]) -> Iterator[Molecule]:
        for number in range(n_frames):
            try:
                frame = intact(self.surface, self.surface(move()))
            except GenerationError as error:
                self.lost.append(_lost("frame", error))
                continue
            yield labelled(self.surface.molecule, frame, f"{self.name} {what} {number}")

    def _dynamics(self, minimum: Frame, temperature: float, what: str) -> Iterator[Molecule]:
        config = self.config
        frames = langevin(self.surface, minimum, temperature, config.timestep, self.generator)
        for number in range(config.frames_per_conformer):
            try:
                frame = intact(self.surface, next(islice(frames, config.stride - 1, None)))
            except GenerationError as error:  # the dynamics left the molecule: later frames are no better
                self.lost.append(_lost("frame", error, config.frames_per_conformer - number))
                return
            yield labelled(self.surface.molecule, frame, f"{self.name} {what} {number}")

    def _normal_modes(self, minimum: Frame) -> Iterator[Molecule]:
        config = self.config
        n_frames = config.normal_mode_frames
        try:
            modes = normal_modes(self.surface, minimum)
        except GenerationError as error:
            self.lost.append(_lost("frame", error, n_frames * len(config.temperatures)))
            return
        for temperature in config.temperatures:
            at = "" if len(config.temperatures) == 1 else f"{temperature:g} K "
            move = partial(modes.sample, temperature, config.normal_mode_statistics, self.generator)
            yield from self._displaced(f"{at}mode", n_frames, move)


def random_streams(seed: int, index: int) -> tuple[int, np.random.Generator]:
    """Return the seed of the embedding and the generator for the rest, for one molecule or chain."""
    embedding, dynamics = np.random.SeedSequence((seed, index)).spawn(2)
    return int(embedding.generate_state(1)[0]), np.random.default_rng(dynamics)


def intact(surface: Surface, frame: Frame) -> Frame:
    """Return a frame if it has the bonds of its molecule.

    Raises:
        GenerationError: bonds are broken or formed.
    """
    if not is_intact(surface.molecule, frame.positions):
        raise GenerationError("bonds broken or formed")
    return frame


def labelled(molecule: Molecule, frame: Frame, name: str, is_equilibrium: bool = False) -> Molecule:
    """Return the molecule at a frame, with energy and forces."""
    labels = {"energy": frame.energy, "forces": frame.forces}
    return dataclasses.replace(
        molecule, positions=frame.positions, labels=labels, name=name, is_equilibrium=is_equilibrium
    )


def _lost(kind: Literal["molecule", "conformer", "frame"], error: GenerationError, count: int = 1) -> Lost:
    cause = error.__cause__
    return Lost(kind, str(error), count, "" if cause is None else f"{type(cause).__name__}: {cause}"[:300])
