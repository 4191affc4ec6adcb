"""Energies and forces of a model that is trained: against torchmd-net with the same weights, and against nequip."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from basinet.backbones.base import with_kernels
from basinet.backbones.equivariant_transformer import ET_128
from basinet.md.integrators import Potential
from basinet.md.potentials import model_potential
from basinet.models.model import Model
from basinet.structures.batch import Batch
from rows import molecules
from rows.stock import ET_128X8, fresh_et, nequip_of, torchmd_net_of
from rows.timing import Line, NotMeasured, compared, not_measured, race

PEER = "torchmd-net ET, eager"
EAGER, KERNELS = "eager", "kernels"
"""Forms of ours."""
Call = Callable[[], Tensor]
NEQUIPS: Mapping[str, tuple[str, float, Mapping[str, Any]]] = {
    "nequip, 4 layers, l_max 1, 32 features": ("1", 5.0, {"num_layers": 4, "l_max": 1, "num_features": 32}),
    "nequip, 4 layers, l_max 2, 32 features": ("2.45", 5.0, {"num_layers": 4, "l_max": 2, "num_features": 32}),
    "nequip, 5 layers, l_max 3, 32 features, cutoff 4 Å": (
        "2.45",
        4.0,
        {"num_layers": 5, "l_max": 3, "num_features": 32},
    ),
}
"""Peers by name: what to reach, the cutoff in Å, the sizes."""


def energy_forces(rounds: int) -> list[Line]:
    """Time energies and forces of a batch."""
    what = "energy + forces, ET 128x8, 32 x 20 atoms"
    reach = {EAGER: "1.3", KERNELS: "3 (5)"}
    batch = molecules.batch_of(molecules.of_size(20, 32))
    model = fresh_et(ET_128X8, ["energy", "forces"]).eval()
    try:
        stock = torchmd_net_of(model).eval()
    except NotMeasured as why:
        return [not_measured(what, form, PEER, target, why) for form, target in reach.items()]

    def theirs() -> Tensor:
        return stock(batch.atomic_numbers, batch.positions.detach().clone(), batch.molecule)[1]

    calls = {form: potential(form, model, batch) for form in reach}
    times = race(calls | {PEER: theirs}, rounds)
    return [
        compared(Line(what, form, PEER, target, note=apart(calls[form], theirs)), times[form], times[PEER])
        for form, target in reach.items()
    ]


def against_nequip(rounds: int) -> list[Line]:
    """Time the published size of the Equivariant Transformer against networks of nequip, many molecules and one."""
    lines: list[Line] = []
    model = fresh_et(ET_128, ["energy", "forces"]).eval()
    for name, chosen in {"QM9-sized x 64": molecules.qm9_sized(64), "one aspirin": [molecules.aspirin()]}.items():
        batch = molecules.batch_of(chosen)
        what = f"energy + forces, ET 128x6, {name}"
        calls, why = {form: potential(form, model, batch) for form in (EAGER, KERNELS)}, ""
        ours = list(calls)
        for peer, (_, cutoff, sizes) in NEQUIPS.items():
            try:
                calls[peer] = nequip_of(batch, cutoff=cutoff, **sizes)
            except NotMeasured as reason:
                why = str(reason)
        times = {} if why else race(calls, rounds)
        for peer, (reach, _, _) in NEQUIPS.items():
            for form in ours:
                line = Line(
                    what, form, peer, f"> {reach}" if reach == "1" else reach, note="other network, no agreement"
                )
                lines.append(
                    not_measured(what, form, peer, reach, why) if why else compared(line, times[form], times[peer])
                )
    return lines


def potential(form: str, model: Model, batch: Batch) -> Call:
    """Return a form of ours as a call that gives forces."""
    chosen = potential_of(form, model)
    return lambda: chosen(batch)[1]


def potential_of(form: str, model: Model) -> Potential:
    """Return a form of ours."""
    chosen = copy.deepcopy(model).requires_grad_(False)
    return model_potential(with_kernels(chosen) if form == KERNELS else chosen)


def apart(ours: Call, theirs: Call) -> str:
    """Return how far two sets of forces are apart, relative to the largest."""
    f, g = ours().detach(), theirs().detach()
    error = float((f - g).abs().max() / g.abs().max())
    if error > 1e-2:
        raise NotMeasured(f"the forces of the two networks are {error:.1e} apart")
    return f"forces agree to {error:.0e} of the largest"
