r"""Normal modes at a minimum, and configurations displaced along them with thermal amplitudes.

Smith, Isayev and Roitberg (ANI-1, Chem. Sci. 8, 3192, 2017) displace molecules along their normal modes by random
shares of a thermal energy. Here the amplitudes are those of independent harmonic oscillators, so that frames of a
harmonic molecule are exactly of its thermal ensemble:

.. math:: \langle Q^2 \rangle = \frac{kT}{\lambda} \;\text{(classical)}, \qquad
          \langle Q^2 \rangle = \frac{\hbar\omega}{2\lambda} \coth\frac{\hbar\omega}{2kT} \;\text{(quantum)}

with :math:`\lambda = \omega^2` the eigenvalues of the mass-weighted second derivatives. Frames of a real molecule have
higher energies than those of dynamics, because displacements along straight lines stretch the bonds that a soft mode
turns.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import atomic_masses
from jaxtyping import Float64

from basinet.data.chemistry.conformers import GenerationError
from basinet.data.generation.sampling import Frame, Surface
from basinet.units import ACCELERATION, BOLTZMANN, HBAR, WAVENUMBER

Statistics = Literal["classical", "quantum"]

STEP = 5e-3
"""Å, of the finite differences of forces."""
STILL = 50.0
"""1/cm. Softer modes are not displaced: they are no vibrations, and a minimum is not sharp enough to know them."""
LEAST_RADIUS = 0.03
"""Å. An axis about which the radius of gyration is smaller is the axis of a linear molecule: no rotation."""


@dataclass(frozen=True, kw_only=True)
class NormalModes:
    """Vibrations of a molecule at its minimum."""

    positions: Float64[np.ndarray, "n_atoms 3"]
    """Of the minimum, Å."""
    displacements: Float64[np.ndarray, "n_modes n_atoms 3"]
    """Å per unit of the mass-weighted coordinate Q, √amu·Å."""
    curvatures: Float64[np.ndarray, " n_modes"]
    """λ, eV/(amu Å²), ascending; without those of modes that are held still."""

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
        """Return the minimum with every mode displaced by a normally distributed amplitude."""
        amplitudes = np.sqrt(self.variances(temperature, statistics)) * generator.standard_normal(len(self.curvatures))
        return self.positions + np.einsum("m,max->ax", amplitudes, self.displacements)


def normal_modes(surface: Surface, minimum: Frame) -> NormalModes:
    """Return the vibrations at a minimum: 3n - 6, 3n - 5 if it is linear, less those below ``STILL``.

    Raises:
        GenerationError: a calculation fails, or it is no minimum: a mode is imaginary by more than ``STILL``.
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
