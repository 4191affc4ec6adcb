r"""Measure symmetries, conservative forces, smoothness and reproducibility of a model.

A check compares outputs that must be equal. Its error is the largest difference: in eV for energies, in eV/Å for
forces, and relative to the largest value for all other outputs. Checks are in float64, except those of precision.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.backbones.base import Layout
from basinet.config import settings
from basinet.structures.batch import Batch
from basinet.structures.dense import DenseNeighbors
from basinet.structures.layouts import neighbors_of
from basinet.structures.sparse import SparseNeighbors

Ask = Callable[[Batch, Layout], Mapping[str, Tensor]]
"""Returns the outputs of a batch by name; the dtype is that of its positions."""

VECTORS = frozenset({"forces", "noise"})
"""Outputs with one vector per atom, which rotate with the molecule; all others are one number per molecule."""
UNITS = {"energy": "eV", "forces": "eV/Å"}
FAR = 100.0
"""Distance of two copies that must not interact, Å."""
STEP = 5e-5
"""Step of finite differences, Å: well below the 1e-3 over which vector norms are smoothed."""
FLOOR = 1e-6
"""Smallest value that an error is divided by: an output may vanish by symmetry."""
NEAR = 1e-6
"""Distance to both sides of the cutoff, Å."""


@settings
class Thresholds:
    """Largest errors that pass: in eV, eV/Å, or relative."""

    symmetry: float = 1e-6
    """Rotation, reflection, translation and permutation, in float64."""
    finite_difference: float = 1e-5
    """Forces against minus the numerical gradient of the energy."""
    cutoff: float = 1e-5
    """Jump when an atom crosses the cutoff."""
    size: float = 1e-6
    """Two copies far apart against twice one."""
    batch: float = 1e-7
    """Other molecules in the batch, and their order."""
    layout: float = 1e-7
    """Dense against sparse neighbours."""
    precision: float = 5e-3
    """float32 against float64."""
    determinism: float = 0.0
    """Two runs with the same input, in float32."""
    kernels: float = 1e-3
    """The C++ kernels against PyTorch, in float32."""


class Check(NamedTuple):
    """One line of a certificate."""

    name: str
    output: str
    """Name of the output compared."""
    error: float | None
    """Largest difference; ``None``: not measured."""
    threshold: float
    unit: str
    """Unit of the error: eV, eV/Å or relative."""
    note: str = ""
    """Reason why it was not measured."""

    @property
    def verdict(self) -> str:
        """``ok``, ``fault`` or ``not measured``; an error that is not a number is a fault."""
        if self.error is None:
            return "not measured"
        return "ok" if self.error <= self.threshold else "fault"


class Subject(NamedTuple):
    """Model to examine."""

    ask: Ask
    """Model in evaluation mode; takes batches in float32 and in float64."""
    cutoff: float | None
    """Cutoff, Å; ``None``: no cutoff."""


def examine(subject: Subject, batch: Batch, thresholds: Thresholds, generator: torch.Generator) -> Iterator[Check]:
    """Yield all checks except that of the kernels, on molecules in float64.

    Args:
        subject: the model.
        batch: at least one molecule; more make the checks of batches stronger.
        thresholds: largest errors that pass.
        generator: random numbers for rotations, shifts and orders.
    """
    yield from symmetries(subject, batch, thresholds.symmetry, generator)
    yield from finite_differences(subject, batch, thresholds.finite_difference)
    yield from cutoff_jumps(subject, batch, thresholds.cutoff)
    yield from size_consistency(subject, batch, thresholds.size)
    yield from batch_invariance(subject, batch, thresholds.batch)
    yield from layouts(subject, batch, thresholds.layout)
    yield from precision(subject, batch, thresholds.precision)
    yield from determinism(subject, batch, thresholds.determinism)


def symmetries(subject: Subject, batch: Batch, threshold: float, generator: torch.Generator) -> Iterator[Check]:
    """Rotate, reflect, shift and permute molecules."""
    plain = subject.ask(batch, neighbors_of)
    random = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(random).Q
    rotation = rotation * torch.sign(torch.linalg.det(rotation))
    mirror = rotation @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    for name, turn in (("rotation", rotation), ("reflection", mirror)):
        turn = turn.to(batch.positions.device)
        turned = subject.ask(batch.replace(positions=batch.positions @ turn.T), neighbors_of)
        expected = {key: value @ turn.T if key in VECTORS else value for key, value in plain.items()}
        yield from _compare(name, turned, expected, threshold)
    shift = 10 * torch.randn(3, dtype=torch.float64, generator=generator).to(batch.positions.device)
    yield from _compare(
        "translation", subject.ask(batch.replace(positions=batch.positions + shift), neighbors_of), plain, threshold
    )
    order = _order_within_molecules(batch, generator)
    permuted, expected = _permuted(batch, order), {k: v[order] if k in VECTORS else v for k, v in plain.items()}
    if permuted is None:
        yield from _unmeasured("permutation", plain, threshold, "the network reads bonds, which are not permuted here")
    else:
        yield from _compare("permutation", subject.ask(permuted, neighbors_of), expected, threshold)


def _order_within_molecules(batch: Batch, generator: torch.Generator) -> Tensor:
    key = torch.rand(batch.n_atoms, dtype=torch.float64, generator=generator).to(batch.molecule.device)
    return torch.argsort(batch.molecule.double() + 0.5 * key)


def _permuted(batch: Batch, order: Tensor) -> Batch | None:
    if batch.topology is not None:
        return None
    return batch.replace(atomic_numbers=batch.atomic_numbers[order], positions=batch.positions[order])


def finite_differences(subject: Subject, batch: Batch, threshold: float) -> Iterator[Check]:
    r"""Compare forces with :math:`-(8 (E_{+1} - E_{-1}) - (E_{+2} - E_{-2})) / 12h`, coordinate by coordinate."""
    plain = subject.ask(batch, neighbors_of)
    if "forces" not in plain:
        return
    largest, atoms = 0.0, batch.atoms_per_molecule
    for atom in range(int(atoms.max())):
        moved = (batch.first_atom + atom)[atoms > atom]  # the same atom of every molecule at once
        for axis in range(3):
            slope = _slope(subject, batch, moved, axis)[atoms > atom]
            error = (slope + plain["forces"][moved, axis]).abs().max()
            largest = _larger(largest, float(error))
    yield Check("F = -dE/dr", "forces", largest, threshold, UNITS["forces"])


def _slope(subject: Subject, batch: Batch, atoms: Tensor, axis: int) -> Float[Tensor, " n_molecules"]:
    def energy(steps: int) -> Tensor:
        positions = batch.positions.clone()
        positions[atoms, axis] += steps * STEP
        return subject.ask(batch.replace(positions=positions), neighbors_of)["energy"]

    return (8 * (energy(1) - energy(-1)) - (energy(2) - energy(-2))) / (12 * STEP)


def cutoff_jumps(subject: Subject, batch: Batch, threshold: float) -> Iterator[Check]:
    """Move an atom across the cutoff of each molecule; a change beyond the slope is a jump."""
    names = sorted(subject.ask(batch, neighbors_of))
    plain = dict.fromkeys(names, torch.empty(0))
    if subject.cutoff is None or batch.topology is not None:
        reason = "the network has no cutoff" if subject.cutoff is None else "the network reads bonds"
        yield from _unmeasured("cutoff", plain, threshold, reason)
        return
    at = {k: subject.ask(_with_probe(batch, subject.cutoff + k * NEAR), neighbors_of) for k in (-3, -1, 1, 3)}
    for name in names:
        inside, outside = at[-1][name] - at[-3][name], at[3][name] - at[1][name]
        jump = at[1][name] - at[-1][name] - (inside + outside) / 2
        scale = _scale(name, at[1][name])
        yield Check("cutoff", name, _largest(jump) / scale, threshold, _unit(name))


def _with_probe(batch: Batch, distance: float) -> Batch:
    """Return each molecule with a copy of its outermost atom moved outwards by ``distance`` (Å), its shortest one."""
    numbers: list[Tensor] = []
    positions: list[Tensor] = []
    for index in range(batch.n_molecules):
        mine = batch.molecule == index
        r = batch.positions[mine] - batch.positions[mine].mean(0)
        outermost = int(torch.linalg.vector_norm(r, dim=1).argmax())
        away = r[outermost] if len(r) > 1 else r.new_tensor([1.0, 0.0, 0.0])
        probe = r[outermost] + distance * away / torch.linalg.vector_norm(away)
        numbers.append(torch.cat([batch.atomic_numbers[mine], batch.atomic_numbers[mine][outermost][None]]))
        positions.append(torch.cat([r, probe[None]]))
    counts = torch.tensor([len(n) for n in numbers], device=batch.molecule.device)
    molecule = torch.repeat_interleave(torch.arange(len(numbers), device=batch.molecule.device), counts)
    return Batch(
        atomic_numbers=torch.cat(numbers),
        positions=torch.cat(positions),
        molecule=molecule,
        n_molecules=batch.n_molecules,
    )


def size_consistency(subject: Subject, batch: Batch, threshold: float) -> Iterator[Check]:
    """Put two copies of each molecule far apart: twice the energy, the same forces."""
    plain = subject.ask(batch, neighbors_of)
    names = sorted(plain.keys() & {"energy", "forces"})
    if batch.topology is not None:
        kept = {name: plain[name] for name in names}
        yield from _unmeasured("two copies", kept, threshold, "the network reads bonds, and connects all atoms")
        return
    twice = batch.select([i for i in range(batch.n_molecules) for _ in range(2)])
    is_second = twice.molecule % 2 == 1
    shift = is_second[:, None] * twice.positions.new_tensor([FAR, 0.0, 0.0])
    pair = twice.replace(
        positions=twice.positions + shift,
        molecule=twice.molecule // 2,
        n_molecules=batch.n_molecules,
        flags={},
        ids=None,
    )
    found = subject.ask(pair, neighbors_of)
    expected = {"energy": 2 * plain["energy"]} if "energy" in plain else {}
    if "forces" in plain:
        atoms = torch.cat([torch.nonzero(batch.molecule == m)[:, 0].repeat(2) for m in range(batch.n_molecules)])
        expected["forces"] = plain["forces"][atoms]
    yield from _compare("two copies", {name: found[name] for name in names}, expected, threshold)


def batch_invariance(subject: Subject, batch: Batch, threshold: float) -> Iterator[Check]:
    """Compare with each molecule alone, and with the reverse order."""
    plain = subject.ask(batch, neighbors_of)
    alone = [subject.ask(batch.select([i]), neighbors_of) for i in range(batch.n_molecules)]
    joined = {name: torch.cat([one[name] for one in alone]) for name in plain}
    yield from _compare("batch", joined, plain, threshold)
    backwards = list(range(batch.n_molecules))[::-1]
    reverse = subject.ask(batch.select(backwards), neighbors_of)
    atoms = torch.cat([torch.nonzero(batch.molecule == m)[:, 0] for m in backwards])
    expected = {name: value[atoms] if name in VECTORS else value[backwards] for name, value in plain.items()}
    yield from _compare("batch order", reverse, expected, threshold)


def layouts(subject: Subject, batch: Batch, threshold: float) -> Iterator[Check]:
    """Compare padded blocks of neighbours with a list of edges."""
    yield from _compare("layout", subject.ask(batch, SparseNeighbors), subject.ask(batch, DenseNeighbors), threshold)


def precision(subject: Subject, batch: Batch, threshold: float) -> Iterator[Check]:
    """Compare float32 with float64."""
    single = subject.ask(batch.to(dtype=torch.float32), neighbors_of)
    yield from _compare("float32", single, subject.ask(batch, neighbors_of), threshold)


def determinism(subject: Subject, batch: Batch, threshold: float) -> Iterator[Check]:
    """Compare two evaluations of the same input."""
    single = batch.to(dtype=torch.float32)
    yield from _compare("repeated", subject.ask(single, neighbors_of), subject.ask(single, neighbors_of), threshold)


def compare_kernels(subject: Subject, by_kernels: Ask, batch: Batch, threshold: float) -> Iterator[Check]:
    """Compare a model whose messages are computed by kernels with the plain one."""
    single = batch.to(dtype=torch.float32)
    expected = subject.ask(single, neighbors_of)
    yield from _compare("kernels", by_kernels(single, neighbors_of), expected, threshold)


def without_kernels(names: Iterable[str], threshold: float, reason: str) -> Iterator[Check]:
    """Yield the checks of kernels as not measured, with the reason."""
    yield from _unmeasured("kernels", names, threshold, reason)


def _compare(
    name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], threshold: float
) -> Iterator[Check]:
    for output in sorted(expected):
        difference = found[output].double() - expected[output].double()
        yield Check(name, output, _largest(difference) / _scale(output, expected[output]), threshold, _unit(output))


def _unmeasured(name: str, outputs: Iterable[str], threshold: float, reason: str) -> Iterator[Check]:
    for output in sorted(outputs):
        yield Check(name, output, None, threshold, _unit(output), reason)


def _unit(output: str) -> str:
    return UNITS.get(output, "relative")


def _scale(output: str, values: Tensor) -> float:
    return 1.0 if output in UNITS else max(_largest(values), FLOOR)


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _larger(first: float, second: float) -> float:
    """Return the larger number, or NaN if the second is NaN."""
    return second if second > first or second != second else first
