"""Sample the energy surface of one molecule: minimum, dynamics, normal modes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, covalent_radii
from ase.optimize import BFGS
from jaxtyping import Bool, Float64

from basinet.data.chemistry.conformers import GenerationError
from basinet.data.generation.calculators import make_calculator
from basinet.structures import Molecule
from basinet.units import ACCELERATION, BOLTZMANN, HBAR, WAVENUMBER

Positions = Float64[np.ndarray, "n_atoms 3"]

FRICTION = 0.02
"""Friction, 1/fs: velocities decorrelate in 50 fs, which decorrelates a small molecule fastest."""
HYDROGEN_MASS = 4.0
"""Mass of hydrogen, amu. Averages over configurations do not depend on masses; this one allows twice the time step."""
SOFTEST = 1.0
"""Smallest curvature of the initial Hessian, eV/Å²: the force field is unreliable for soft and negative ones."""
MAX_FORCE = 50.0
"""Largest allowed force, eV/Å: larger ones mean a collision of atoms."""
FAILED = "calculation failed"
"""Reason for failures of the calculator."""
BROKEN, FORMED = 1.35, 1.1
"""Multiples of the sum of covalent radii beyond which a bond is broken, and within which one is formed."""


class Frame(NamedTuple):
    """A point of the surface."""

    positions: Positions
    """Å."""
    energy: float
    """eV."""
    forces: Positions
    """eV/Å."""


class Surface:
    """Potential energy of one molecule by one calculator, which starts each evaluation from the last wave function."""

    def __init__(self, molecule: Molecule, calculator: str, options: Mapping[str, Any]) -> None:
        self.molecule = molecule
        self.atoms = Atoms(molecule.atomic_numbers, molecule.positions)
        self.atoms.calc = make_calculator(calculator, molecule.charge, options)

    def __call__(self, positions: Positions) -> Frame:
        """Return the energy and the forces at the given positions.

        Raises:
            GenerationError: the calculation fails, or its forces are not those of an intact molecule.
        """
        self.atoms.positions = positions
        try:
            forces, energy = self.atoms.get_forces(), self.atoms.get_potential_energy()
        except Exception as error:  # calculators raise exceptions of any type
            raise GenerationError(FAILED) from error
        frame = Frame(positions.copy(), float(energy), np.array(forces, dtype=np.float64))
        if not (np.isfinite(frame.energy) and np.isfinite(frame.forces).all()):
            raise GenerationError("energy or forces not finite")
        if np.abs(frame.forces).max() > MAX_FORCE:
            raise GenerationError("forces too large")
        return frame


def relax(
    surface: Surface, hessian: Float64[np.ndarray, "n_coordinates n_coordinates"], fmax: float, max_steps: int
) -> Frame:
    """Return the minimum next to the positions of the molecule: no force is larger than ``fmax`` (eV/Å).

    BFGS starts from the Hessian of a force field, which takes a quarter of the steps of a constant one (measured with
    GFN2-xTB on 18 molecules: 94 instead of 339) and ends at lower energies. It is not checked that all curvatures are
    positive.

    Raises:
        GenerationError: it does not converge in ``max_steps``, or ends with other bonds.
    """
    atoms = surface.atoms
    atoms.positions = surface.molecule.positions
    optimizer = BFGS(atoms, logfile=None)
    curvature, mode = np.linalg.eigh(hessian)
    optimizer.H0 = (mode * np.maximum(np.abs(curvature), SOFTEST)) @ mode.T
    try:
        converged = optimizer.run(fmax=fmax, steps=max_steps)
    except Exception as error:
        raise GenerationError(FAILED) from error
    if not converged:
        raise GenerationError("relaxation does not converge")
    if not is_intact(surface.molecule, atoms.positions):
        raise GenerationError("relaxation changes the bonds")
    return surface(atoms.positions)


def displace(minimum: Frame, sigma: float, generator: np.random.Generator) -> Positions:
    """Return the minimum with every atom displaced at random, with standard deviation ``sigma`` (Å) along each axis."""
    return minimum.positions + sigma * generator.standard_normal(minimum.positions.shape)


def langevin(
    surface: Surface, start: Frame, temperature: float, timestep: float, generator: np.random.Generator
) -> Iterator[Frame]:
    r"""Yield the configurations of endless Langevin dynamics from a minimum, one per time step (fs).

    BAOAB (Leimkuhler and Matthews, Appl. Math. Res. eXpress 2013, 34), which samples positions more accurately than
    other splittings at the same time step:

    .. math:: B: v \mathrel{+}= \tfrac{h}{2} F/m \quad A: r \mathrel{+}= \tfrac{h}{2} v \quad
              O: v \leftarrow c v + \sqrt{(1 - c^2) kT/m}\, \xi, \; c = e^{-\gamma h}

    The initial velocities have *twice* the temperature, because half of their energy becomes potential energy. Time is
    not physical, see ``HYDROGEN_MASS``.
    """
    numbers = surface.molecule.atomic_numbers
    mass = np.where(numbers == 1, HYDROGEN_MASS, atomic_masses[numbers])[:, None]
    thermal = np.sqrt(BOLTZMANN * temperature * ACCELERATION / mass)  # [n_atoms, 1], Å/fs
    decay = np.exp(-FRICTION * timestep)
    velocities = np.sqrt(2.0) * thermal * generator.standard_normal(start.positions.shape)
    frame = start
    while True:
        velocities += 0.5 * timestep * ACCELERATION * frame.forces / mass
        positions = frame.positions + 0.5 * timestep * velocities
        noise = generator.standard_normal(positions.shape)
        velocities = decay * velocities + np.sqrt(1.0 - decay**2) * thermal * noise
        positions += 0.5 * timestep * velocities
        frame = surface(positions)
        velocities += 0.5 * timestep * ACCELERATION * frame.forces / mass
        yield frame


def is_intact(molecule: Molecule, positions: Positions) -> bool:
    """Return whether positions have the bonds of the molecule, none broken and none formed."""
    first, second = np.triu_indices(molecule.n_atoms, k=1)
    distance = np.linalg.norm(positions[first] - positions[second], axis=1)
    radii = covalent_radii[molecule.atomic_numbers]
    ratio = distance / (radii[first] + radii[second])
    bonded = _bonded(molecule)[first, second]
    return bool((ratio[bonded] < BROKEN).all() and (ratio[~bonded] > FORMED).all())


def _bonded(molecule: Molecule) -> Bool[np.ndarray, "n_atoms n_atoms"]:
    if molecule.bonds is None:
        raise ValueError(f"{molecule.name or 'molecule'}: no bonds on record; expected a molecule from embed")
    bonded = np.zeros((molecule.n_atoms, molecule.n_atoms), dtype=bool)
    bonded[molecule.bonds[:, 0], molecule.bonds[:, 1]] = True
    return bonded | bonded.T


Statistics = Literal["classical", "quantum"]

STEP = 5e-3
"""Step of the finite differences of forces, Å."""
STILL = 50.0
"""Softest mode that is displaced, 1/cm; the minimum is not precise enough for softer ones."""
LEAST_RADIUS = 0.03
"""Smallest radius of gyration about an axis of rotation, Å; below, it is the axis of a linear molecule."""


@dataclass(frozen=True, kw_only=True)
class NormalModes:
    """Vibrations of a molecule at its minimum."""

    positions: Float64[np.ndarray, "n_atoms 3"]
    """Positions of the minimum, Å."""
    displacements: Float64[np.ndarray, "n_modes n_atoms 3"]
    """Å per unit of the mass-weighted coordinate Q, √amu·Å."""
    curvatures: Float64[np.ndarray, " n_modes"]
    """λ, eV/(amu Å²), ascending, of the displaced modes."""

    @property
    def quanta(self) -> Float64[np.ndarray, " n_modes"]:
        """ħω of each mode, eV."""
        return HBAR * np.sqrt(self.curvatures * ACCELERATION)

    def variances(self, temperature: float, statistics: Statistics) -> Float64[np.ndarray, " n_modes"]:
        """Return ⟨Q²⟩ of each mode at a temperature (K), amu Å²."""
        thermal = BOLTZMANN * temperature
        if statistics == "classical":
            return thermal / self.curvatures
        return 0.5 * self.quanta / np.tanh(0.5 * self.quanta / thermal) / self.curvatures

    def sample(
        self, temperature: float, statistics: Statistics, generator: np.random.Generator
    ) -> Float64[np.ndarray, "n_atoms 3"]:
        """Return the minimum displaced by a normal random amplitude of every mode."""
        amplitudes = np.sqrt(self.variances(temperature, statistics)) * generator.standard_normal(len(self.curvatures))
        return self.positions + np.einsum("m,max->ax", amplitudes, self.displacements)


def normal_modes(surface: Surface, minimum: Frame) -> NormalModes:
    """Return the vibrations at a minimum: 3n - 6, or 3n - 5 if it is linear, without those below ``STILL``.

    Raises:
        GenerationError: a calculation fails, or a mode is imaginary by more than ``STILL``.
    """
    mass = np.repeat(atomic_masses[surface.molecule.atomic_numbers], 3)
    weighted = hessian(surface, minimum) / np.sqrt(np.outer(mass, mass))
    rigid = _rigid_motions(minimum.positions, mass)
    vibrations = np.linalg.svd(rigid, full_matrices=True)[0][:, rigid.shape[1] :]  # orthogonal to the rigid motions
    curvatures, modes = np.linalg.eigh(vibrations.T @ weighted @ vibrations)
    still = (STILL * WAVENUMBER / HBAR) ** 2 / ACCELERATION
    if len(curvatures) and curvatures[0] < -still:
        raise GenerationError("not a minimum")
    kept = curvatures > still
    displacements = ((vibrations @ modes[:, kept]) / np.sqrt(mass)[:, None]).T
    return NormalModes(
        positions=minimum.positions,
        displacements=displacements.reshape(-1, surface.molecule.n_atoms, 3),
        curvatures=curvatures[kept],
    )


def hessian(surface: Surface, minimum: Frame) -> Float64[np.ndarray, "n_coordinates n_coordinates"]:
    """Return the second derivatives of the energy, eV/Å², from central differences of the calculator's forces."""
    n_coordinates = minimum.positions.size
    rows = np.empty((n_coordinates, n_coordinates))
    for coordinate in range(n_coordinates):
        move = np.zeros(n_coordinates)
        move[coordinate] = STEP
        move = move.reshape(-1, 3)
        back, forth = surface(minimum.positions - move).forces, surface(minimum.positions + move).forces
        rows[coordinate] = (back - forth).ravel() / (2 * STEP)
    return 0.5 * (rows + rows.T)


def _rigid_motions(
    positions: Float64[np.ndarray, "n_atoms 3"], mass: Float64[np.ndarray, " n_coordinates"]
) -> Float64[np.ndarray, "n_coordinates n_motions"]:
    """Return orthonormal mass-weighted translations and rotations: three to six."""
    weights = mass[::3]
    centred = positions - weights @ positions / weights.sum()
    _, axes = np.linalg.eigh(np.einsum("a,ax,ay->xy", weights, centred, centred))
    turns = np.cross(axes.T[:, None], centred[None])  # [3, n_atoms, 3]: about the principal axes
    radii = np.sqrt(np.einsum("a,rax->r", weights, turns**2) / weights.sum())
    motions = np.concatenate([np.broadcast_to(np.eye(3)[:, None], turns.shape), turns[radii > LEAST_RADIUS]])
    return np.linalg.qr((motions.reshape(len(motions), -1) * np.sqrt(mass)).T)[0]
