"""Minima moved by any noise, with the energies and forces of a reference calculator there."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from basinet.data.chemistry.conformers import GenerationError
from basinet.data.generation.sampling import Surface
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate

Move = Callable[[Batch, torch.Generator], Batch]
"""Returns a noisy copy of a batch: an ``InternalNoise`` is one, and the batch of a ``Perturbation``."""


def displaced_frames(
    minima: Iterable[Molecule],
    move: Move,
    calculator: str,
    generator: torch.Generator,
    options: Mapping[str, Any] = MappingProxyType({}),
    failed: Counter[str] | None = None,
) -> Iterator[Molecule]:
    """Yield each molecule once, moved and labelled; those where the calculator fails are left out.

    Args:
        minima: molecules; with bonds, if the noise needs them.
        move: how they are displaced.
        calculator: as in :func:`basinet.data.generation.calculators.make_calculator`.
        generator: of the noise.
        options: of the calculator.
        failed: counts, by reason, the frames that are left out (collisions, say).
    """
    for minimum in minima:
        noisy = move(collate([minimum], dtype=torch.float64), generator)
        try:
            frame = Surface(minimum, calculator, options)(noisy.positions.numpy())
        except GenerationError as error:
            if failed is not None:
                failed[str(error)] += 1
            continue
        labels = {"energy": frame.energy, "forces": frame.forces}
        yield replace(minimum, positions=frame.positions, labels=labels, is_equilibrium=False)
