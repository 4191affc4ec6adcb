"""Labelled data from SMILES: conformers, their minima and thermal configurations, with energies and forces."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basinet.config import settings
from basinet.data import molecules as lists
from basinet.data.calculators import calculator_version, level_of_theory, make_calculator, parse_options
from basinet.data.conformers import FORCE_FIELDS, ForceField, GenerationError, embed, force_field_hessian
from basinet.data.sampling import Frame, Surface, displace, is_intact, langevin, relax
from basinet.data.store import MoleculeStore, StoreWriter
from basinet.data.workers import available_cores, map_in_order
from basinet.structures import Molecule


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
    """gfn2-xtb, gfn1-xtb, or any ASE calculator as module:Class."""
    calculator_options: tuple[str, ...] = ()
    """Keyword arguments of the calculator, each as key=value."""
    force_fields: tuple[ForceField, ...] = FORCE_FIELDS
    """Where the relaxation begins: the first force field that has parameters for the molecule."""
    n_conformers: int = 1
    """Conformers of each molecule, at most; each gives a minimum and its own frames."""
    frames_per_conformer: int = 8
    """Frames of Langevin dynamics from each minimum."""
    temperature: float = 600.0
    """Of the dynamics, K."""
    timestep: float = 2.5
    """Of the dynamics, fs. Hydrogen has the mass 4 amu there: up to 3 fs the mean energy is right within 3 %."""
    stride: int = 4
    """Time steps between two frames."""
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
    molecules_per_shard: int = 64
    """Molecules between two points at which an interrupted run can resume."""
    processes: int | None = None
    """Processes, of one thread each; all cores without a number. The result does not depend on it."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, all at once."""
        _require_positive(self, or_zero=("frames_per_conformer", "displaced_frames", "seed"))


@settings
class TrajectoryConfig:
    """One molecule, one calculator, and how to draw its configurations at a temperature."""

    smiles: str
    """The molecule."""
    n_frames: int = 1000
    """Frames of all chains together."""
    n_chains: int = 2
    """Independent chains from the same minimum, with their own random numbers; they run in parallel."""
    calculator: str = "gfn2-xtb"
    """gfn2-xtb, gfn1-xtb, or any ASE calculator as module:Class."""
    calculator_options: tuple[str, ...] = ()
    """Keyword arguments of the calculator, each as key=value."""
    force_fields: tuple[ForceField, ...] = FORCE_FIELDS
    """Where the relaxation begins: the first force field that has parameters for the molecule."""
    temperature: float = 500.0
    """K."""
    timestep: float = 2.0
    """fs. Hydrogen has the mass 4 amu there: up to 3 fs the mean energy is right within 3 %."""
    stride: int = 10
    """Time steps between two frames."""
    equilibration: int = 200
    """Time steps before the first frame."""
    fmax: float = 0.03
    """Largest force of the minimum that the chains begin from, eV/Å."""
    max_relax_steps: int = 300
    """Most steps to that minimum."""
    seed: int = 0
    """Of all random numbers; each chain has its own stream."""
    processes: int | None = None
    """Processes, of one thread each; all cores without a number. The result does not depend on it."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, all at once."""
        _require_positive(self, or_zero=("equilibration", "seed"))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a generation is."""

    done: int
    """Molecules treated so far, in this run and before."""
    total: int
    """Molecules to treat."""
    frames: int
    """Labelled configurations so far."""
    failed: int
    """Molecules of this run that gave nothing."""


class _Task(NamedTuple):
    place: int
    """In the list before any molecule was left out: the seed of a molecule does not depend on the others."""
    smiles: str
    config: GenerateConfig


class _Outcome(NamedTuple):
    molecules: list[Molecule]
    skipped: Mapping[str, int]


def generate(config: GenerateConfig, out: Path, on_progress: Callable[[Progress], None] | None = None) -> MoleculeStore:
    """Make a store of labelled configurations: of each conformer its minimum, then frames away from it.

    An interrupted run (Ctrl-C, a crash, a lost machine) is resumed by the same call. The store is the same, bit for
    bit, for any number of processes and of interruptions on one kind of machine. What could not be treated is left
    out and counted by reason in the manifest; reasons that begin with ``frame:`` count frames, ``conformer:``
    conformers, all others molecules.

    Raises:
        ValueError: a setting is wrong, or the unfinished store at ``out`` was made with other settings.
        FileExistsError: ``out`` is a finished store or something else.
        RunError: a worker process died; the store can be resumed.
    """
    options = parse_options(config.calculator_options)
    make_calculator(config.calculator, options=options)  # a wrong name or option is an error now, not in a worker
    tasks, left_out = _tasks(config)
    writer = StoreWriter.open(
        out,
        level_of_theory=level_of_theory(config.calculator, options),
        source="molecules of basinet" if config.smiles_file is None else config.smiles_file.name,
        settings=_settings(config, tasks),
    )
    done, failed, size = writer.n_shards * config.molecules_per_shard, 0, config.molecules_per_shard
    with closing(map_in_order(_label, tasks[done:], config.processes or available_cores())) as outcomes:
        for first in range(done, len(tasks), size):
            shard: list[Molecule] = []
            skipped = Counter(left_out if first == 0 else {})
            before = writer.manifest.n_molecules
            for done, outcome in enumerate(islice(outcomes, size), start=first + 1):
                shard += outcome.molecules
                skipped.update(outcome.skipped)
                failed += not outcome.molecules
                if on_progress is not None:
                    on_progress(Progress(done=done, total=len(tasks), frames=before + len(shard), failed=failed))
            writer.write_shard(shard, skipped=dict(sorted(skipped.items())))
    return writer.finish()


def trajectory(config: TrajectoryConfig) -> list[Molecule]:
    """Return configurations of one molecule at a temperature, chain after chain, with energies and forces.

    For fine-tuning and for test sets: take the test frames from other chains than the training frames
    (:func:`chain_of`), because frames of one chain are correlated.

    Raises:
        GenerationError: the molecule cannot be treated, or a chain does not keep its bonds at this temperature.
        ValueError: a setting is wrong.
        RunError: a worker process died.
    """
    make_calculator(config.calculator, options=parse_options(config.calculator_options))
    processes = min(config.processes or available_cores(), config.n_chains)
    try:
        [conformer] = embed(config.smiles, _streams(config.seed, 0)[0], 1, config.force_fields)
        tasks = [(config, conformer, chain) for chain in range(config.n_chains)]
        with closing(map_in_order(_chain, tasks, processes)) as chains:
            return [molecule for chain in chains for molecule in chain]
    except GenerationError as error:
        raise GenerationError(
            f"{config.smiles} at {config.temperature:g} K with {config.calculator}: {error}. If the relaxation failed, "
            "raise max_relax_steps; if the dynamics failed, lower the temperature or the time step"
        ) from error


def chain_of(molecule: Molecule) -> int:
    """Return the chain that a configuration made by :func:`trajectory` belongs to."""
    words = molecule.name.split()
    if len(words) != 5 or words[1] != "chain":
        raise ValueError(f"{molecule.name or 'molecule'!r} was not made by trajectory: expected '... chain 0 frame 0'")
    return int(words[2])


def _tasks(config: GenerateConfig) -> tuple[list[_Task], Mapping[str, int]]:
    """Return the molecules to treat, and counts of those that are not, by reason."""
    smiles = lists.packaged_smiles() if config.smiles_file is None else lists.read_smiles(config.smiles_file)
    excluded, seen = lists.compounds(config.exclude), set[str]()
    chosen: list[_Task] = []
    left_out: Counter[str] = Counter()
    for index, entry in enumerate(smiles):
        if len(chosen) == config.n_molecules:
            break
        try:
            canonical = lists.canonical(entry)
            if lists.compound(entry) in excluded:
                left_out["excluded"] += 1
                continue
        except GenerationError:
            canonical = entry  # a worker will count it
        if canonical in seen:
            left_out["listed before"] += 1
            continue
        seen.add(canonical)
        chosen.append(_Task(index, entry, config))
    if not chosen:
        raise ValueError(f"no molecules to treat: {dict(left_out)}; expected a longer list, or fewer exclusions")
    return chosen, left_out


def _settings(config: GenerateConfig, tasks: Sequence[_Task]) -> dict[str, Any]:
    """Return everything the result depends on, for the manifest."""
    settings = dataclasses.asdict(config)
    del settings["processes"], settings["smiles_file"]
    listed = "\n".join(f"{task.place} {task.smiles}" for task in tasks)
    settings["molecules"] = {"count": len(tasks), "sha256": sha256(listed.encode()).hexdigest()}
    settings["made_with"] = [calculator_version(config.calculator), *(f"{p} {version(p)}" for p in ("rdkit", "ase"))]
    return settings


def _label(task: _Task) -> _Outcome:
    """Treat one molecule, in a worker."""
    config = task.config
    skipped: Counter[str] = Counter()
    found: list[Molecule] = []
    embedding, dynamics = _streams(config.seed, task.place)
    try:
        conformers = embed(task.smiles, embedding, config.n_conformers, config.force_fields)
        for number, conformer in enumerate(conformers):
            surface = Surface(conformer, config.calculator, parse_options(config.calculator_options))
            name = conformer.smiles if len(conformers) == 1 else f"{conformer.smiles} conformer {number}"
            found += _configurations(surface, name, config, dynamics, skipped)
    except GenerationError as error:
        skipped[str(error)] += 1
    return _Outcome(found, dict(skipped))


def _configurations(
    surface: Surface, name: str, config: GenerateConfig, generator: np.random.Generator, skipped: Counter[str]
) -> Iterator[Molecule]:
    """Yield the minimum and the frames of one conformer; count in ``skipped`` what is missing."""
    try:
        hessian = force_field_hessian(surface.molecule, config.force_fields)
        minimum = relax(surface, hessian, config.fmax, config.max_relax_steps)
    except GenerationError as error:
        skipped[f"conformer: {error}"] += 1
        return
    yield _labelled(surface.molecule, minimum, f"{name} minimum", is_equilibrium=True)
    for number in range(config.displaced_frames):
        try:
            frame = _intact(surface, surface(displace(minimum, config.displacement, generator)))
        except GenerationError as error:
            skipped[f"frame: {error}"] += 1
            continue
        yield _labelled(surface.molecule, frame, f"{name} displaced {number}")
    frames = langevin(surface, minimum, config.temperature, config.timestep, generator)
    for number in range(config.frames_per_conformer):
        try:
            frame = _intact(surface, next(islice(frames, config.stride - 1, None)))
        except GenerationError as error:  # the dynamics has left the molecule: no later frame is any better
            skipped[f"frame: {error}"] += config.frames_per_conformer - number
            return
        yield _labelled(surface.molecule, frame, f"{name} frame {number}")


def _chain(task: tuple[TrajectoryConfig, Molecule, int]) -> list[Molecule]:
    """Run one chain, in a worker."""
    config, conformer, chain = task
    _, generator = _streams(config.seed, chain)
    surface = Surface(conformer, config.calculator, parse_options(config.calculator_options))
    hessian = force_field_hessian(conformer, config.force_fields)
    minimum = relax(surface, hessian, config.fmax, config.max_relax_steps)
    frames = langevin(surface, minimum, config.temperature, config.timestep, generator)
    n_frames = config.n_frames // config.n_chains + (chain < config.n_frames % config.n_chains)
    n_steps = config.equilibration + n_frames * config.stride
    chosen = islice(frames, config.equilibration + config.stride - 1, n_steps, config.stride)
    return [
        _labelled(conformer, _intact(surface, frame), f"{conformer.smiles} chain {chain} frame {number}")
        for number, frame in enumerate(chosen)
    ]


def _streams(seed: int, index: int) -> tuple[int, np.random.Generator]:
    """Return the seed of the embedding and the generator of everything else, for one molecule or chain."""
    embedding, dynamics = np.random.SeedSequence((seed, index)).spawn(2)
    return int(embedding.generate_state(1)[0]), np.random.default_rng(dynamics)


def _intact(surface: Surface, frame: Frame) -> Frame:
    if not is_intact(surface.molecule, frame.positions):
        raise GenerationError("bonds broken or formed")
    return frame


def _labelled(molecule: Molecule, frame: Frame, name: str, is_equilibrium: bool = False) -> Molecule:
    labels = {"energy": frame.energy, "forces": frame.forces}
    return dataclasses.replace(
        molecule, positions=frame.positions, labels=labels, name=name, is_equilibrium=is_equilibrium
    )


def _require_positive(config: GenerateConfig | TrajectoryConfig, or_zero: Sequence[str]) -> None:
    """Refuse numbers that are negative, or zero where zero makes no sense, naming all of them."""
    problems: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int | float) and not (value > 0 or (value == 0 and field.name in or_zero)):
            expected = "zero or more" if field.name in or_zero else "more than zero"
            problems.append(f"{field.name} must be {expected}, got {value}")
    if problems:
        raise ValueError("; ".join(problems))
