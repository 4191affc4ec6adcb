"""Add energies of a closed form to that of a network: nuclear repulsion, dispersion."""

from abc import ABC, abstractmethod
from functools import cache
from typing import Annotated, Any, Literal

import torch
from ase.data import covalent_radii
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from basinet.config import settings
from basinet.errors import optional_module
from basinet.structures.batch import Batch
from basinet.structures.blocks import place_in_molecule
from basinet.structures.pairs import pairs_within
from basinet.structures.segment import sum_per_molecule
from basinet.units import BOHR, HARTREE

COULOMB = HARTREE * BOHR
"""e²/(4πε₀), eV Å."""
SCREENING_LENGTH = 0.88534 * BOHR
"""Å."""
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
"""Weights, which add up to 1, and exponents of the universal screening function."""


@settings
class ZBLConfig:
    """Screened repulsion of nuclei closer than in any molecule."""

    kind: Literal["zbl"] = "zbl"
    """Name of the correction."""
    inner: float = 0.35
    """Distance below which the repulsion acts in full, in sums of two covalent radii."""
    outer: float = 0.70
    """Distance above which it vanishes, in sums of two covalent radii. The shortest bonds (N2, CO, HF) are at 0.77."""

    def __post_init__(self) -> None:
        """Refuse distances out of order."""
        if not 0 < self.inner < self.outer:
            raise ValueError(f"expected 0 < inner < outer, got inner={self.inner}, outer={self.outer}")


@settings
class D3Config:
    """Dispersion by DFT-D3 with the damping of Becke and Johnson."""

    kind: Literal["d3"] = "d3"
    """Name of the correction."""
    functional: str = "pbe"
    """Functional of the labels, which must not contain dispersion; its damping parameters are used."""
    three_body: bool = False
    """Add the three-body term of Axilrod, Teller and Muto, as in D3(BJ)-ATM."""


CorrectionConfig = Annotated[ZBLConfig | D3Config, Field(discriminator="kind")]
"""Settings of any correction; ``kind`` selects it."""


class Correction(nn.Module, ABC):
    """An energy without trainable parameters; its forces come from its gradient, as all forces do."""

    @property
    @abstractmethod
    def config(self) -> ZBLConfig | D3Config:
        """Its settings."""

    @abstractmethod
    def forward(self, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the energy of each molecule, eV, float64."""


class ZBLRepulsion(Correction):
    r"""The universal repulsion of Ziegler, Biersack and Littmark (1985), switched off before distances of bonds.

    .. math:: V(r) = s(r)\,\frac{e^2}{4\pi\epsilon_0}\frac{Z_i Z_j}{r}\,\phi(r / a), \qquad
              a = \frac{0.88534\,a_0}{Z_i^{0.23} + Z_j^{0.23}}, \qquad \phi(x) = \sum_k c_k e^{-d_k x}

    :math:`s` falls from 1 at ``inner`` to 0 at ``outer`` with two continuous derivatives.
    """

    def __init__(self, config: ZBLConfig) -> None:
        super().__init__()
        self._config = config

    @property
    def config(self) -> ZBLConfig:
        """Its settings."""
        return self._config

    def forward(self, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the energies."""
        radii = torch.as_tensor(covalent_radii, dtype=torch.float64, device=batch.positions.device)
        radius = radii[batch.atomic_numbers]
        radius_of_pairs = 2 * float(radius.max()) * self._config.outer if batch.n_atoms else 0.0
        pairs = pairs_within(batch, radius_of_pairs)
        distance = pairs.distances(batch.positions.double())
        scale = radius[pairs.first] + radius[pairs.second]
        charges = batch.atomic_numbers.double()
        energy = repulsion(charges[pairs.first], charges[pairs.second], distance)
        switched = energy * _switch(distance / scale, self._config.inner, self._config.outer)
        of_atoms = switched.new_zeros(batch.n_atoms).index_add(0, pairs.first, switched)
        return sum_per_molecule(of_atoms, batch)


def repulsion(
    first: Float[Tensor, " n_pairs"], second: Float[Tensor, " n_pairs"], distance: Float[Tensor, " n_pairs"]
) -> Float[Tensor, " n_pairs"]:
    """Return the unswitched energy (eV) of pairs of nuclei of given charges (e) and distances (Å)."""
    x = distance * (first**0.23 + second**0.23) / SCREENING_LENGTH
    screening = torch.zeros_like(x)
    for weight, exponent in SCREENING:
        screening = screening + weight * torch.exp(-exponent * x)
    return COULOMB * first * second / distance * screening


def _switch(x: Float[Tensor, " n_pairs"], start: float, end: float) -> Float[Tensor, " n_pairs"]:
    """Return 1 below ``start``, 0 above ``end``, and between them the polynomial of degree 5 that joins them."""
    u = ((x - start) / (end - start)).clamp(0, 1)
    return 1 - u**3 * (10 - 15 * u + 6 * u**2)


class D3Dispersion(Correction):
    """DFT-D3(BJ) (Grimme et al., J. Chem. Phys. 2010, 132, 154104; J. Comput. Chem. 2011, 32, 1456), by ``tad-dftd3``.

    Raises:
        ImportError: the library is missing.
        ValueError: there are no parameters for the functional.
    """

    def __init__(self, config: D3Config) -> None:
        super().__init__()
        self._config = config
        _damping(config.functional, config.three_body)

    @property
    def config(self) -> D3Config:
        """Its settings."""
        return self._config

    def forward(self, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the energies."""
        if batch.n_atoms == 0:
            return batch.positions.new_zeros(batch.n_molecules, dtype=torch.float64)
        device = str(batch.positions.device)
        numbers, positions = _padded(batch)
        damping = {key: x.to(device) for key, x in _damping(self._config.functional, self._config.three_body).items()}
        of_atoms = _library().dftd3(numbers, positions / BOHR, damping, ref=_reference(device))
        return HARTREE * of_atoms.sum(1)


def _library() -> Any:
    return optional_module("tad_dftd3", "d3", "a D3 correction")


@cache
def _reference(device: str) -> Any:
    """Return the table of C6 coefficients, which takes a while to read."""
    return _library().reference.Reference(dtype=torch.float64, device=torch.device(device))


@cache
def _damping(functional: str, three_body: bool) -> dict[str, Tensor]:
    try:
        found = _library().param.get_functional_params(functional, damping="bj", dtype=torch.float64)
    except (KeyError, ValueError) as error:
        raise ValueError(f"D3(BJ) has no parameters for the functional {functional!r}: {error.args[0]}") from None
    return found if three_body else found | {"s9": torch.zeros((), dtype=torch.float64)}


def _padded(batch: Batch) -> tuple[Int[Tensor, "n_molecules n_max"], Float[Tensor, "n_molecules n_max 3"]]:
    """Return numbers and positions (float64) with a row for each molecule; padding is element 0, which does nothing."""
    place = batch.molecule, place_in_molecule(batch)
    shape = (batch.n_molecules, int(batch.atoms_per_molecule.max()))
    numbers = batch.atomic_numbers.new_zeros(shape).index_put(place, batch.atomic_numbers)
    positions = batch.positions.double()
    return numbers, positions.new_zeros((*shape, 3)).index_put(place, positions)


def build_correction(config: ZBLConfig | D3Config) -> Correction:
    """Return the correction of given settings."""
    match config:
        case ZBLConfig():
            return ZBLRepulsion(config)
        case D3Config():
            return D3Dispersion(config)
