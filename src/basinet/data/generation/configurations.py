"""What to make of each molecule of a list, and making it: minima, dynamics, normal modes, labelled by a calculator."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from basinet.config import settings
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
    """Which molecules, which calculator, and which configurations of each molecule."""

    smiles_file: Path | None = None
    """One SMILES per line; without a file, the small organic molecules that come with basinet."""
    n_molecules: int | None = None
    """Take the first so many molecules (the packaged list is shuffled); all without a number."""
    exclude: tuple[str, ...] = ()
    """SMILES of compounds to leave out, with all their stereoisomers."""
    calculator: str = "gfn2-xtb"
    """gfn2-xtb, gfn1-xtb, or any ASE calculator as module:Class or file.py:function."""
    calculator_options: tuple[str, ...] = ()
    """Keyword arguments of the calculator, each as key=value."""
    level_of_theory: str | None = None
    """What the store says of its labels; without it, the calculator and its options."""
    force_fields: tuple[ForceField, ...] = FORCE_FIELDS
    """Where the relaxation begins: the first force field that has parameters for the molecule."""
    n_conformers: int = 1
    """Conformers of each molecule, at most; each gives a minimum and its own frames."""
    frames_per_conformer: int = 8
    """Frames of Langevin dynamics from each minimum, at each temperature."""
    temperatures: tuple[float, ...] = (600.0,)
    """Of the dynamics and the normal modes, K; several give dynamics of their own from the minimum."""
    timestep: float = 2.5
    """Of the dynamics, fs. Hydrogen has the mass 4 amu there: up to 3 fs the mean energy is right within 3 %."""
    stride: int = 4
    """Time steps between two frames."""
    normal_mode_frames: int = 0
    """Frames displaced along the normal modes of each minimum, at each temperature; 6 labels an atom for the modes."""
    normal_mode_statistics: Statistics = "classical"
    """Of the amplitudes: classical, or quantum with its zero-point motion."""
    displaced_frames: int = 0
    """Frames made by moving all atoms of each minimum at random, besides those of the dynamics."""
    displacement: float = 0.05
    """Standard deviation of these moves along each axis, Å."""
    fmax: float = 0.03
    """A minimum is reached when no force is larger, eV/Å."""
    max_relax_steps: int = 100
    """A conformer that has not reached its minimum by then is left out, and counted."""
    seed: int = 0
    """Of all random numbers; each molecule has its own stream."""
    molecules_per_chunk: int = 64
    """An interrupted or killed run loses at most so many molecules, or as many as it has processes if that is more."""
    processes: int | None = None
    """Processes, of one thread each; all cores without a number. The result does not depend on it."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, all at once."""
        require_positive(self, or_zero=("frames_per_conformer", "normal_mode_frames", "displaced_frames", "seed"))
        if len(set(self.temperatures)) != len(self.temperatures):
            raise ValueError(f"temperatures must differ, got {list(self.temperatures)}")


class Task(NamedTuple):
    """One molecule to treat."""

    place: int
    """In the list before any molecule was left out: the seed of a molecule does not depend on the others."""
    smiles: str
    config: GenerateConfig


class Outcome(NamedTuple):
    """What became of a molecule."""

    place: int
    smiles: str
    molecules: Sequence[Molecule]
    lost: Sequence[Lost]


def label(task: Task) -> Outcome:
    """Treat one molecule."""
    config = task.config
    lost: list[Lost] = []
    found: list[Molecule] = []
    embedding, generator = streams(config.seed, task.place)
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
    """Return what stands for a molecule that has ended two processes."""
    return Outcome(task.place, task.smiles, [], [Lost("molecule", "the process died, twice")])


def _surface(conformer: Molecule, config: GenerateConfig) -> Surface:
    try:
        return Surface(conformer, config.calculator, parse_options(config.calculator_options))
    except GenerationError:
        raise
    except Exception as error:  # somebody's factory, which has made a calculator for a neutral molecule
        raise GenerationError(NOT_MADE) from error


class _Configurations:
    """The minimum and the frames of one conformer; puts into ``lost`` what is missing."""

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
            except GenerationError as error:  # the dynamics has left the molecule: no later frame is any better
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


def streams(seed: int, index: int) -> tuple[int, np.random.Generator]:
    """Return the seed of the embedding and the generator of everything else, for one molecule or chain."""
    embedding, dynamics = np.random.SeedSequence((seed, index)).spawn(2)
    return int(embedding.generate_state(1)[0]), np.random.default_rng(dynamics)


def intact(surface: Surface, frame: Frame) -> Frame:
    """Return a frame that has the bonds of its molecule.

    Raises:
        GenerationError: it has others.
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


def require_positive(config: Any, or_zero: Sequence[str]) -> None:
    """Refuse numbers of a configuration that are negative, or zero where zero makes no sense, naming all of them."""
    problems: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, int | float) and not (number > 0 or (number == 0 and field.name in or_zero)):
                expected = "zero or more" if field.name in or_zero else "more than zero"
                problems.append(f"{field.name} must be {expected}, got {number}")
    if problems:
        raise ValueError("; ".join(problems))


def _lost(kind: Literal["molecule", "conformer", "frame"], error: GenerationError, count: int = 1) -> Lost:
    cause = error.__cause__
    return Lost(kind, str(error), count, "" if cause is None else f"{type(cause).__name__}: {cause}"[:300])
