"""Check what every backbone must do, with any test runner or none.

::

    from basinet.testing import check_backbone

    def test_my_net():
        check_backbone(MyNetConfig(n_features=16, n_layers=2).build)
"""

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from ase.build import molecule as of_g2
from ase.data import covalent_radii
from torch import Tensor

from basinet.backbones.base import Backbone, Layout
from basinet.models.model import Model, build_model
from basinet.structures.batch import Batch, collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.molecule import Molecule
from basinet.structures.sparse import SparseNeighbors

Build = Callable[[], Backbone]
Check = Callable[[Model, Layout], None]

LAYOUTS: dict[str, Layout] = {"dense": DenseNeighbors, "sparse": SparseNeighbors}
SMALL = ("CH3CH2OH", "H2O", "CO", "NH3", "CH4", "C6H6")
"""Molecules of ASE's G2 collection that are examined: of 2 to 12 atoms, linear and planar ones among them."""
EXACT = 1e-9
"""Largest relative error in float64: rounding, multiplied by up to 200 where vectors are whitened."""
SINGLE = 1e-2
"""Largest relative error in float32, whose rounding is 1e-7; whitening multiplies it by up to 180, twice in forces."""
CLEARLY = 1e-3
"""Relative size of an effect that must be there, so that a check of its absence means something."""
STEP = 1e-6
"""Å, on either side of the cutoff."""


def check_backbone(build: Build) -> None:
    """Raise an ``AssertionError`` with numbers if a backbone breaks what every backbone must do.

    Symmetries, independence of the batch and the layout, single atoms, locality, forces that are the slope of the
    energy, smoothness at the cutoff, both precisions. The weights are those of ``build()`` plus noise of 0.1.

    Args:
        build: makes the backbone with random weights; it is called several times.
    """
    for layout_name, layout in LAYOUTS.items():
        for check in CHECKS:
            try:
                check(model_of(build), layout)
            except AssertionError as error:
                raise AssertionError(f"{check.__name__}, {layout_name} layout: {error}") from None
    check_float32(build)


def model_of(build: Build) -> Model:
    """Return a model with all outputs of the backbone, in float64, whose biases are not zero, as if it were trained."""
    torch.manual_seed(0)
    backbone = build()
    model = build_model(backbone, ["energy", "noise"] if backbone.n_vector else ["energy"]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def check_rotation(model: Model, layout: Layout) -> None:
    """Rotation, reflection and translation: energies stay, forces and noise turn."""
    batch, generator = batch_of(*SMALL), torch.Generator().manual_seed(0)
    before = _ask(model, batch, layout)
    for sign in (1, -1):
        rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator)).Q
        rotation = rotation * sign * torch.linalg.det(rotation).sign()
        shift = 10 * torch.randn(3, dtype=torch.float64, generator=generator)
        after = _ask(model, batch.replace(positions=batch.positions @ rotation.T + shift), layout)
        for name, value in before.items():
            expected = value if name == "energy" else value @ rotation.T
            require_close(after[name], expected, EXACT, f"{name}, turned{' and mirrored' if sign < 0 else ''}")


def check_permutation(model: Model, layout: Layout) -> None:
    """Atoms in another order: forces and noise in that order."""
    molecule = molecule_of("CH3CH2OH")
    order = torch.randperm(molecule.n_atoms, generator=torch.Generator().manual_seed(0)).numpy()
    assert molecule.bonds is not None
    permuted = Molecule(
        atomic_numbers=molecule.atomic_numbers[order],
        positions=molecule.positions[order],
        bonds=np.argsort(order)[molecule.bonds],
    )
    before, after = (_ask(model, collate([m], dtype=torch.float64), layout) for m in (molecule, permuted))
    for name, value in before.items():
        require_close(after[name], value if name == "energy" else value[order], EXACT, name)


def check_batch(model: Model, layout: Layout) -> None:
    """A batch equals its molecules one by one, and its atoms feel nothing of other molecules, exactly."""
    batch = batch_of(*SMALL)
    together, alone = _ask(model, batch, layout), [_ask(model, batch_of(name), layout) for name in SMALL]
    for name, value in together.items():
        require_close(value, torch.cat([found[name] for found in alone]), EXACT, name)
    positions = batch.positions.clone().requires_grad_()
    energy = model(batch.replace(positions=positions), ["energy"], layout=layout)["energy"]
    (gradient,) = torch.autograd.grad(energy[0], positions)
    own = batch.molecule == 0
    _require_zero(gradient[~own], "gradient of the energy of one molecule in the atoms of others")
    if not bool(gradient[own].any(dim=1).all()):
        raise AssertionError("an atom has no influence on the energy of its molecule (control)")


def check_layouts(model: Model, layout: Layout) -> None:
    """Outputs and gradients of parameters are those in the other layout."""
    found: list[dict[str, Tensor]] = []
    for each in LAYOUTS.values():
        model.zero_grad()
        outputs = model(batch_of(*SMALL), sorted(model.offers), layout=each, create_graph=True)
        torch.stack([value.square().sum() for value in outputs.values()]).sum().backward()
        gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({name: value.detach() for name, value in outputs.items()} | gradients)
    for name, value in found[0].items():
        require_close(value, found[1][name], EXACT, name)


def check_single_atom(model: Model, layout: Layout) -> None:
    """A single atom has a finite energy and no force; no molecules have no outputs."""
    helium = Molecule(atomic_numbers=np.array([2]), positions=np.zeros((1, 3)), bonds=np.zeros((0, 2), dtype=np.int64))
    batch = collate([helium], dtype=torch.float64)
    for name, value in _ask(model, batch, layout).items():
        if name == "energy" and not bool(value.isfinite().all()):
            raise AssertionError(f"the energy of a single atom is {float(value)}")
        if name != "energy":
            _require_zero(value, f"{name} of a single atom")
    for name, value in _ask(model, batch.select([]), layout).items():
        if value.numel():
            raise AssertionError(f"{name} of no molecules has the shape {tuple(value.shape)}")


def check_locality(model: Model, layout: Layout) -> None:
    """Molecules far apart have the sum of their energies and feel exactly nothing of each other."""
    if model.backbone.cutoff is None:
        return
    first, second = molecule_of("CH3CH2OH"), molecule_of("C6H6")
    batch = collate([_joined(first, second, 30.0)], dtype=torch.float64)
    whole, parts = _ask(model, batch, layout), _ask(model, batch_of("CH3CH2OH", "C6H6"), layout)
    require_close(whole["energy"], parts["energy"].sum(0, keepdim=True), EXACT, "energy of two molecules")
    require_close(whole["forces"], parts["forces"], EXACT, "forces of two molecules")
    positions = batch.positions.clone().requires_grad_()
    batch = batch.replace(positions=positions)
    features = model.backbone(batch, layout(batch, model.backbone.cutoff))
    n = first.n_atoms
    (gradient,) = torch.autograd.grad(features.scalar[:n].sum() + features.vector[:n].sum(), positions)
    _require_zero(gradient[n:], "gradient of the features in atoms far away")
    if not bool((gradient[:n] != 0).any()):
        raise AssertionError("features do not depend on positions (control)")


def check_forces(model: Model, layout: Layout) -> None:
    """Forces are minus the slope of the energy (five points, 1e-4 Å)."""
    batch, h = batch_of("CH3CH2OH", "H2O"), 1e-4
    forces = _ask(model, batch, layout)["forces"]

    def energy(atom: int, axis: int, step: float) -> float:
        shifted = batch.positions.clone()
        shifted[atom, axis] += step
        return float(model(batch.replace(positions=shifted), ["energy"], layout=layout)["energy"].detach().sum())

    for atom, axis in ((0, 0), (1, 1), (4, 2), (8, 0), (9, 1), (11, 2)):
        near, far = (energy(atom, axis, -k * h) - energy(atom, axis, k * h) for k in (1, 2))
        numerical = (8 * near - far) / (12 * h)
        error = abs(float(forces[atom, axis]) - numerical) / float(forces.abs().max())
        if not error < 1e-7:
            raise AssertionError(f"force of atom {atom}, axis {axis}: relative error {error:.2e} to the slope")


def check_cutoff(model: Model, layout: Layout) -> None:
    """Energy and forces pass the cutoff smoothly, and an atom inside is felt."""
    cutoff = model.backbone.cutoff
    if cutoff is None:
        return
    inside = crossing(model, layout, cutoff - 0.5, cutoff)["forces"]
    if not inside > CLEARLY:
        raise AssertionError(f"an atom 0.5 Å inside the cutoff changes forces by {inside:.1e} only (control)")
    for name, jump in crossing(model, layout, cutoff - STEP, cutoff + STEP).items():
        if not jump < 100 * STEP:
            raise AssertionError(f"{name}: jump of {jump:.1e} at the cutoff, relative to the largest force")


def crossing(model: Model, layout: Layout, inner: float, outer: float) -> dict[str, float]:
    """Return the change of energy and forces of CO as a helium atom moves, relative to the largest force."""

    def found(distance: float) -> dict[str, Tensor]:
        positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.4, 1.06], [0.0, 0.0, distance]])
        molecule = Molecule(atomic_numbers=np.array([6, 8, 2]), positions=positions, bonds=np.array([[0, 1]]))
        return _ask(model, collate([molecule], dtype=torch.float64), layout)

    a, b = found(inner), found(outer)
    size = b["forces"].abs().max()
    return {name: float((a[name] - b[name]).abs().max() / size) for name in ("energy", "forces")}


def check_input_unchanged(model: Model, layout: Layout) -> None:
    """The batch is as it was before."""
    batch = batch_of(*SMALL)
    before = [x.clone() for x in (batch.atomic_numbers, batch.positions, batch.molecule)]
    model(batch, ["forces"], layout=layout, create_graph=True)["forces"].sum().backward()
    for old, new in zip(before, (batch.atomic_numbers, batch.positions, batch.molecule), strict=True):
        if not torch.equal(old, new):
            raise AssertionError(f"the network changed its input by up to {float((old - new).abs().max()):.1e}")
    if batch.positions.requires_grad or batch.positions.grad is not None:
        raise AssertionError("the network left a gradient at its input")


def check_float32(build: Build) -> None:
    """Outputs in float32 are those in float64 to rounding; energies are float64."""
    double, single = model_of(build), model_of(build).float()
    for layout in LAYOUTS.values():
        expected = _ask(double, batch_of(*SMALL), layout)
        for name, value in _ask(single, batch_of(*SMALL).to(dtype=torch.float32), layout).items():
            if value.dtype != (torch.float64 if name == "energy" else torch.float32):
                raise AssertionError(f"{name} of a model in float32 is {value.dtype}")
            require_close(value.double(), expected[name], SINGLE, f"{name} in float32")


CHECKS: tuple[Check, ...] = (
    check_rotation,
    check_permutation,
    check_batch,
    check_layouts,
    check_single_atom,
    check_locality,
    check_forces,
    check_cutoff,
    check_input_unchanged,
)
"""Checks of a model in a layout; those of a cutoff pass where there is none."""


def require_close(ours: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Raise an ``AssertionError`` if tensors differ by more than ``tolerance`` of the largest value."""
    if ours.shape != expected.shape:
        raise AssertionError(f"{what}: shape {tuple(ours.shape)}, expected {tuple(expected.shape)}")
    error = float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-3)) if ours.numel() else 0.0
    if not error < tolerance:
        raise AssertionError(f"{what}: largest relative error {error:.2e}, expected less than {tolerance:g}")


def _require_zero(values: Tensor, what: str) -> None:
    if not bool((values == 0).all()):
        raise AssertionError(f"{what}: up to {float(values.abs().max()):.1e}, expected exactly zero")


def _ask(model: Model, batch: Batch, layout: Layout) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in model(batch, sorted(model.offers), layout=layout, create_graph=False).items()}


def batch_of(*names: str) -> Batch:
    """Return molecules of the G2 collection in float64."""
    return collate([molecule_of(name) for name in names], dtype=torch.float64)


@cache
def molecule_of(name: str) -> Molecule:
    """Return a molecule of the G2 collection, with the bonds that its distances suggest."""
    atoms = of_g2(name)
    radius, distance = covalent_radii[atoms.numbers], atoms.get_all_distances()
    first, second = np.nonzero(np.triu(distance < 1.25 * (radius[:, None] + radius), k=1))
    bonds = np.stack([first, second], axis=1)
    return Molecule(atomic_numbers=atoms.numbers.astype(np.int64), positions=atoms.positions, bonds=bonds, name=name)


def _joined(first: Molecule, second: Molecule, distance: float) -> Molecule:
    """Return two molecules as one record, the second moved by ``distance`` Å."""
    assert first.bonds is not None and second.bonds is not None
    return dataclasses.replace(
        first,
        atomic_numbers=np.concatenate([first.atomic_numbers, second.atomic_numbers]),
        positions=np.concatenate([first.positions, second.positions + [distance, 0, 0]]),
        bonds=np.concatenate([first.bonds, second.bonds + first.n_atoms]),
    )
