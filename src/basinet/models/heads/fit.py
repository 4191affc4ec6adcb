"""Fit reference energies, baselines and scales to the labels of the training set."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from basinet.models.heads.property import PropertyHead, spatial_extent
from basinet.structures.batch import Batch
from basinet.structures.molecule import N_ELEMENTS

Baseline = Literal["mean", "composition", "none"]
"""Subtracted from the labels before the network is trained: their mean; one contribution per element, by least squares
without an intercept (so that a sum over atoms stays one); nothing."""
Spread = Literal["rms", "mad", "none"]
"""Size of what the baseline leaves: root mean square (for ``mean`` the standard deviation), mean absolute value (as
3D-EMGP has it), or the unit of the property."""

NOTHING_LEFT = 1e-10
"""Labels whose spread is smaller than this part of their size are one label, up to rounding."""
_BASELINES = {"mean": "mean", "composition": "sum over elements", "none": "being zero"}


class ReferenceFit(NamedTuple):
    """Result of a least-squares fit of one energy per element."""

    energies: Float[Tensor, "100"]
    """eV; zero for elements that do not occur."""
    present: Bool[Tensor, "100"]
    """Elements that occur in the data."""
    rank: int
    """Rank of the composition matrix; below ``n_elements`` single energies mean nothing, only their sums do."""
    n_elements: int
    """Elements that occur."""
    residual: float
    """Root mean square of what the fit leaves, eV per molecule."""


def fit_references(
    counts: Float[Tensor, "n_molecules 100"], energies: Float[Tensor, " n_molecules"], ridge: float = 0.0
) -> ReferenceFit:
    """Return the energy per element by least squares: minimise ``|counts @ x - energies|² + ridge |x|²``.

    If the composition matrix does not determine all elements (one molecule, say), the solution of least norm is taken.

    Args:
        counts: atoms of each element, per molecule.
        energies: eV.
        ridge: pulls energies to zero; use it for corrections of energies that are nearly right.
    """
    present = counts.sum(0) > 0
    matrix = counts[:, present].double()
    target = energies.double()
    n_elements = matrix.shape[1]
    if ridge > 0:
        matrix_used = torch.cat([matrix, ridge**0.5 * torch.eye(n_elements, dtype=torch.float64)])
        target_used = torch.cat([target, target.new_zeros(n_elements)])
    else:
        matrix_used, target_used = matrix, target
    # gelsd: by singular values, the least-norm solution where the composition matrix has not full rank.
    solution = torch.linalg.lstsq(matrix_used, target_used[:, None], driver="gelsd").solution[:, 0]
    residual = (matrix @ solution - target).square().mean().sqrt()
    fitted = torch.zeros(N_ELEMENTS, dtype=torch.float64)
    fitted[present] = solution
    return ReferenceFit(fitted, present, int(torch.linalg.matrix_rank(matrix)), n_elements, float(residual))


def composition(batch: Batch) -> Float[Tensor, "n_molecules 100"]:
    """Count the atoms of each element in each molecule."""
    counts = torch.zeros(batch.n_molecules, N_ELEMENTS, dtype=torch.float64, device=batch.molecule.device)
    ones = counts.new_ones(batch.n_atoms)
    return counts.index_put((batch.molecule, batch.atomic_numbers), ones, accumulate=True)


class LabelSample(NamedTuple):
    """Labels of a property and what they are fitted with."""

    values: Float[Tensor, " n_molecules"]
    """In the unit of the property in the package."""
    compositions: Float[Tensor, "n_molecules 100"]
    """Atoms of each element."""
    response: Float[Tensor, " n_molecules"]
    """The raw number of the readout if each atom had one unit."""

    @classmethod
    def of(cls, head: PropertyHead, name: str, batch: Batch) -> "LabelSample":
        """Return the labels of the molecules of a batch that have them."""
        has = batch.flags[f"has_{name}"]
        return cls(batch.labels[name][has].double(), composition(batch)[has], _response(head, batch)[has])

    @classmethod
    def join(cls, parts: "list[LabelSample]") -> "LabelSample":
        """Return several samples as one."""
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class ScaleFit(NamedTuple):
    """Values of a :class:`~basinet.models.heads.property.PropertyScale`."""

    references: Float[Tensor, "100"]
    shift: float
    scale: float


def fit_scale(sample: LabelSample, baseline: Baseline, spread: Spread) -> ScaleFit:
    """Return baseline and scale of the labels.

    Raises:
        ValueError: there are no labels, or the baseline leaves nothing of them.
    """
    values, n = sample.values, len(sample.values)
    if n == 0:
        raise ValueError("no labels to fit a baseline to")
    references, shift = torch.zeros(N_ELEMENTS, dtype=torch.float64), 0.0
    match baseline:
        case "mean":
            shift = float(values.mean())
        case "composition":
            references = fit_references(sample.compositions, values).energies
        case "none":
            pass
    left = values - shift - sample.compositions @ references
    if spread == "none":
        return ScaleFit(references, shift, 1.0)
    size = float(left.abs().mean() if spread == "mad" else left.square().mean().sqrt())
    if size <= NOTHING_LEFT * float(values.abs().max()):
        raise ValueError(
            f"the {n} training labels (the first is {float(values[0]):g}) are all given by their "
            f"{_BASELINES[baseline]}: there is nothing left to learn; use more, and more different, molecules"
        )
    return ScaleFit(references, shift, size / float(sample.response.square().mean().sqrt()))


def set_scale(head: PropertyHead, fit: ScaleFit) -> None:
    """Set the scale of a head."""
    head.standard.references.copy_(fit.references)
    head.standard.shift.fill_(fit.shift)
    head.standard.scale.fill_(fit.scale)


def _response(head: PropertyHead, batch: Batch) -> Float[Tensor, " n_molecules"]:
    """Return the sum of squared distances from the centre of mass (Å²) for a spatial extent, 1 for the others."""
    if head.form.readout == "spatial_extent":
        return spatial_extent(torch.ones_like(batch.positions[:, 0]), batch)
    return torch.ones(batch.n_molecules, dtype=torch.float64)
