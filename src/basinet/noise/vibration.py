"""Stretch bonds, bend angles and turn torsions at random."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from basinet.noise.internal import InternalNoise, require_rotors
from basinet.structures.batch import Batch
from basinet.structures.blocks import adjacency_blocks, hop_blocks, place_in_molecule
from basinet.structures.geometry import rotate_about_axis

STRAIGHT = 1e-4
"""Sine of an angle below which it has no plane to bend in."""


@dataclass(frozen=True, kw_only=True)
class InternalScales:
    """Standard deviations of vibration and rotation noise."""

    bond: float
    """Å."""
    angle: float
    """Radians."""
    torsion: float
    """Bonds that are not rotors, radians."""
    rotor: float
    """Rotors, radians."""
    once_per_neighbour: bool
    """Turn a torsion once for each further neighbour of its second atom, (neighbours - 1) times, as the released code
    does; otherwise once."""

    def __post_init__(self) -> None:
        """Refuse deviations that are not positive."""
        for name in ("bond", "angle", "torsion", "rotor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")


AS_RELEASED = InternalScales(
    bond=0.058,
    angle=math.radians(0.129),
    torsion=math.radians(0.18),
    rotor=math.radians(1.0),
    once_per_neighbour=True,
)
"""The released code of Frad: angles and torsions in degrees, torsions (neighbours - 1) times."""

IN_RADIANS = InternalScales(bond=0.058, angle=0.129, torsion=0.18, rotor=1.0, once_per_neighbour=False)
"""The same numbers read as radians, torsions turned once: rotors then take nearly any angle and atoms may clash."""


class VibrationRotationNoise(InternalNoise):
    r"""Every bond stretched, every angle bent, every torsion turned (Frad, Ni et al., 2024: "VRN").

    Gaussian, in this order, each on the geometry that the steps before have left:

    1. bonds outside rings: the end moves along the bond;
    2. angles: at each atom with two neighbours or more one of them is the reference (one in a ring with the atom if
       there is one, else at random); the others that hang outside rings turn in the plane they span with it. An angle
       that would close beyond 0 stays; one that opens beyond 180° comes back on the other side; one that is straight
       has no plane and stays;
    3. torsions: bonds outside rings whose ends both have further neighbours turn, see :class:`InternalScales`.

    As published, molecules without rotors stay as they are. Rings move as rigid bodies.

    Args:
        scales: standard deviations.
    """

    flags = frozenset({"has_rotors"})

    def __init__(self, scales: InternalScales = AS_RELEASED) -> None:
        self.scales = scales

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return a moved copy.

        Raises:
            ValueError: the bonds or bond orders of a molecule are unknown.
        """
        if batch.n_molecules == 0:
            return batch.without_labels()
        arms = _Arms(batch)
        place = place_in_molecule(batch)
        blocks = batch.positions.new_zeros(batch.n_molecules, arms.n_max, 3)
        blocks[batch.molecule, place] = batch.positions
        blocks = self._stretch(blocks, arms, generator)
        blocks = self._bend(blocks, arms, generator)
        blocks = self._turn(blocks, arms, generator)
        return batch.without_labels().replace(positions=blocks[batch.molecule, place])

    def _stretch(self, x: Tensor, arms: "_Arms", generator: torch.Generator) -> Float[Tensor, "n_molecules n_max 3"]:
        """Move the end of each bond along it; shifts do not turn other bonds, so all happen at once."""
        chosen = (arms.is_first & arms.is_open).nonzero()[:, 0]
        molecule = arms.molecule[chosen]
        axis = F.normalize(x[molecule, arms.end[chosen]] - x[molecule, arms.pivot[chosen]], dim=-1)
        by = self.scales.bond * _normal(chosen, x, generator)[:, None] * axis  # [n_bonds, 3]
        moved = arms.side[chosen].to(x.dtype)[..., None] * by[:, None]  # [n_bonds, n_max, 3]
        return x.index_add(0, molecule, moved)

    def _bend(self, x: Tensor, arms: "_Arms", generator: torch.Generator) -> Float[Tensor, "n_molecules n_max 3"]:
        """Turn each arm of an atom in the plane it spans with the reference arm."""
        reference = arms.reference(generator)
        number = torch.arange(len(reference), device=x.device)
        chosen = (arms.is_open & (reference != number)).nonzero()[:, 0]
        angle = self.scales.angle * _normal(chosen, x, generator)
        x = x.clone()
        for of_rank in _by_rank(arms.molecule[chosen]):
            arm, by = chosen[of_rank], angle[of_rank]
            molecule = arms.molecule[arm]
            pivot = x[molecule, arms.pivot[arm]]
            fixed = F.normalize(x[molecule, arms.end[reference[arm]]] - pivot, dim=-1)
            turning = F.normalize(x[molecule, arms.end[arm]] - pivot, dim=-1)
            normal = torch.linalg.cross(fixed, turning)
            sine = torch.linalg.vector_norm(normal, dim=-1)
            now = torch.atan2(sine, (fixed * turning).sum(-1))
            by = torch.where((sine > STRAIGHT) & (now + by > 0), by, 0.0)
            x[molecule] = _turned(x[molecule], arms.side[arm], pivot, F.normalize(normal, dim=-1), by)
        return x

    def _turn(self, x: Tensor, arms: "_Arms", generator: torch.Generator) -> Float[Tensor, "n_molecules n_max 3"]:
        """Turn the side of each bond that has neighbours to turn."""
        at_end = arms.n_neighbours[arms.molecule, arms.end]
        is_torsion = (arms.n_neighbours[arms.molecule, arms.pivot] > 1) & (at_end > 1)
        chosen = (arms.is_first & arms.is_open & is_torsion).nonzero()[:, 0]
        scale = torch.where(arms.is_rotor[chosen], self.scales.rotor, self.scales.torsion).to(x.dtype)
        times = at_end[chosen] - 1 if self.scales.once_per_neighbour else torch.ones_like(chosen)
        angle = times * scale * _normal(chosen, x, generator)
        x = x.clone()
        for of_rank in _by_rank(arms.molecule[chosen]):
            arm = chosen[of_rank]
            molecule = arms.molecule[arm]
            pivot = x[molecule, arms.pivot[arm]]
            axis = F.normalize(x[molecule, arms.end[arm]] - pivot, dim=-1)
            x[molecule] = _turned(x[molecule], arms.side[arm], pivot, axis, angle[of_rank])
        return x


class _Arms:
    """Every bond of the molecules that have rotors, in both directions: an atom, and the side that hangs on the bond.

    Atoms are numbered within padded blocks, one block per molecule.
    """

    def __init__(self, batch: Batch) -> None:
        topology = require_rotors(batch)
        bonded = adjacency_blocks(batch)
        self.n_max = bonded.shape[1]
        place = place_in_molecule(batch)
        axis = topology.rotors.axis
        has_rotor = torch.bincount(batch.molecule[axis[:, 0]], minlength=batch.n_molecules) > 0
        bonds = topology.bonds[has_rotor[batch.molecule[topology.bonds[:, 0]]]]
        both = torch.stack([bonds, bonds.flip(1)], dim=1).flatten(0, 1)
        self.molecule: Int[Tensor, " n_arms"] = batch.molecule[both[:, 0]]
        self.pivot, self.end = place[both].unbind(1)
        self.is_first: Bool[Tensor, " n_arms"] = torch.arange(len(both), device=both.device) % 2 == 0
        """Every bond once, in the direction on record."""
        self.n_neighbours: Int[Tensor, "n_molecules n_max"] = bonded.sum(-1)
        is_rotor = torch.zeros_like(bonded)
        first, second = place[axis].unbind(1)
        is_rotor[batch.molecule[axis[:, 0]], first, second] = True
        self.is_rotor = (is_rotor | is_rotor.mT)[self.molecule, self.pivot, self.end]
        self.side, self.is_open = self._sides(bonded, hop_blocks(batch, max(self.n_max - 1, 1)))

    def _sides(
        self, bonded: Bool[Tensor, "n_molecules n_max n_max"], hops: Int[Tensor, "n_molecules n_max n_max"]
    ) -> tuple[Bool[Tensor, "n_arms n_max"], Bool[Tensor, " n_arms"]]:
        """Return the atoms nearer to the end of each arm, and whether its bond lies outside rings.

        A bond lies in a ring exactly if another bond leads across to the nearer atoms of its other end, or if an atom
        is as near to both.
        """
        is_connected = (hops > 0) | torch.eye(self.n_max, dtype=torch.bool, device=hops.device)
        far = torch.where(is_connected, hops, self.n_max)
        to_pivot, to_end = far[self.molecule, self.pivot], far[self.molecule, self.end]  # [n_arms, n_max]
        side, other = to_end < to_pivot, to_pivot < to_end
        is_between = (to_end == to_pivot) & is_connected[self.molecule, self.end]
        rank = _rank(self.molecule)
        n_max_arms = int(rank.max()) + 1 if len(rank) else 0
        padded = torch.zeros(len(bonded), n_max_arms, self.n_max, device=side.device)
        padded[self.molecule, rank] = side.float()
        into_side = (padded @ bonded.float())[self.molecule, rank]  # [n_arms, n_max]: bonds from each atom to the side
        n_across = (into_side * other).sum(-1)
        return side, (n_across == 1) & ~is_between.any(-1)

    def reference(self, generator: torch.Generator) -> Int[Tensor, " n_arms"]:
        """Return, for each arm, the arm at the same atom to which angles are measured: in a ring, else at random."""
        score = torch.rand(len(self.molecule), generator=generator, device=self.molecule.device)
        score = score + (~self.is_open).to(score.dtype)
        atom = self.molecule * self.n_max + self.pivot
        n_atoms = self.n_neighbours.numel()
        best = score.new_zeros(n_atoms).scatter_reduce(0, atom, score, "amax", include_self=False)
        number = torch.arange(len(atom), device=atom.device)
        is_best = torch.where(score == best[atom], number, -1)
        return number.new_zeros(n_atoms).scatter_reduce(0, atom, is_best, "amax", include_self=False)[atom]


def _rank(molecule: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the number of each sorted entry within its molecule, from 0."""
    count = torch.bincount(molecule)
    return torch.arange(len(molecule), device=molecule.device) - (torch.cumsum(count, 0) - count)[molecule]


def _by_rank(molecule: Int[Tensor, " n"]) -> Iterator[Int[Tensor, " n_of_rank"]]:
    """Yield the first of the sorted entries of every molecule, then the second, and so on."""
    rank = _rank(molecule)
    yield from torch.split(torch.argsort(rank, stable=True), torch.bincount(rank).tolist())


def _turned(
    x: Float[Tensor, "n n_max 3"],
    side: Bool[Tensor, "n n_max"],
    origin: Float[Tensor, "n 3"],
    axis: Float[Tensor, "n 3"],
    angle: Float[Tensor, " n"],
) -> Float[Tensor, "n n_max 3"]:
    """Return blocks with one side of each turned about an axis through an atom."""
    rotated = rotate_about_axis(
        x, origin[:, None].expand_as(x), axis[:, None].expand_as(x), angle[:, None].expand(side.shape)
    )
    return torch.where(side[..., None], rotated, x)


def _normal(like: Tensor, x: Tensor, generator: torch.Generator) -> Float[Tensor, " n"]:
    return torch.randn(len(like), generator=generator, device=x.device, dtype=x.dtype)
