"""Sample configurations of one molecule at a temperature from independent chains of dynamics."""

from contextlib import closing
from itertools import islice

from pydantic import NonNegativeInt

from basinet.config import Count, Positive, settings
from basinet.data.chemistry.conformers import FORCE_FIELDS, ForceField, GenerationError, embed, force_field_hessian
from basinet.data.generation.calculators import make_calculator, parse_options
from basinet.data.generation.configurations import intact, labelled, random_streams
from basinet.data.generation.sampling import Surface, langevin, relax
from basinet.data.workers import available_cores, map_in_order
from basinet.structures import Molecule


@settings
class TrajectoryConfig:
    """Settings of the configurations of one molecule at a temperature."""

    smiles: str
    """SMILES of the molecule."""
    n_frames: Count = 1000
    """Frames of all chains together."""
    n_chains: Count = 2
    """Independent chains from the same minimum, with their own random numbers; they run in parallel."""
    calculator: str = "gfn2-xtb"
    """gfn2-xtb, gfn1-xtb, or any ASE calculator as module:Class or file.py:function."""
    calculator_options: tuple[str, ...] = ()
    """Keyword arguments of the calculator, each as key=value."""
    force_fields: tuple[ForceField, ...] = FORCE_FIELDS
    """Force fields for the first relaxation; the first with parameters for the molecule is used."""
    temperature: Positive = 500.0
    """Temperature, K."""
    timestep: Positive = 2.0
    """Time step, fs. Hydrogen has mass 4 amu here: up to 3 fs the mean energy is right within 3 %."""
    stride: Count = 10
    """Time steps between two frames."""
    equilibration: NonNegativeInt = 200
    """Time steps before the first frame."""
    fmax: Positive = 0.03
    """Largest force at the minimum, eV/Å."""
    max_relax_steps: Count = 300
    """Largest number of steps to the minimum."""
    seed: NonNegativeInt = 0
    """Seed of all random numbers; each chain has its own stream."""
    processes: Count | None = None
    """Processes, one thread each; default: all cores. The result does not depend on it."""


def trajectory(config: TrajectoryConfig) -> list[Molecule]:
    """Return configurations of one molecule at a temperature, chain after chain, with energies and forces.

    Take test frames from other chains than training frames (:func:`chain_of`): frames of one chain are correlated.

    Raises:
        GenerationError: the molecule cannot be treated, or a chain breaks bonds at this temperature.
        ValueError: a setting is wrong.
        RunError: a worker process died.
    """
    make_calculator(config.calculator, options=parse_options(config.calculator_options))
    processes = min(config.processes or available_cores(), config.n_chains)
    try:
        [conformer] = embed(config.smiles, random_streams(config.seed, 0)[0], 1, config.force_fields)
        tasks = [(config, conformer, chain) for chain in range(config.n_chains)]
        with closing(map_in_order(_chain, tasks, processes)) as chains:
            return [molecule for chain in chains for molecule in chain]
    except GenerationError as error:
        raise GenerationError(
            f"{config.smiles} at {config.temperature:g} K with {config.calculator}: {error}. If the relaxation failed, "
            "raise max_relax_steps; if the dynamics failed, lower the temperature or the time step"
        ) from error


def chain_of(molecule: Molecule) -> int:
    """Return the chain of a configuration made by :func:`trajectory`."""
    words = molecule.name.split()
    if len(words) != 5 or words[1] != "chain":
        raise ValueError(f"{molecule.name or 'molecule'!r} was not made by trajectory: expected '... chain 0 frame 0'")
    return int(words[2])


def _chain(task: tuple[TrajectoryConfig, Molecule, int]) -> list[Molecule]:
    """Run one chain, in a worker."""
    config, conformer, chain = task
    _, generator = random_streams(config.seed, chain)
    surface = Surface(conformer, config.calculator, parse_options(config.calculator_options))
    hessian = force_field_hessian(conformer, config.force_fields)
    minimum = relax(surface, hessian, config.fmax, config.max_relax_steps)
    frames = langevin(surface, minimum, config.temperature, config.timestep, generator)
    n_frames = config.n_frames // config.n_chains + (chain < config.n_frames % config.n_chains)
    n_steps = config.equilibration + n_frames * config.stride
    chosen = islice(frames, config.equilibration + config.stride - 1, n_steps, config.stride)
    return [
        labelled(conformer, intact(surface, frame), f"{conformer.smiles} chain {chain} frame {number}")
        for number, frame in enumerate(chosen)
    ]
