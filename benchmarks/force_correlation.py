"""Do the forces that a model implies point where the exact ones do, and how far from a minimum?

Moves minima of a store by coordinate noise and by rotor noise of several sizes, labels them with a reference
calculator, and prints, for each size, the correlation of the forces implied by each model with the exact ones.

    python benchmarks/force_correlation.py STORE MODEL [MODEL ...] --minima 60
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from basinet.commands.answer.evaluate import in_chunks
from basinet.commands.answer.force_correlation import implied_forces
from basinet.commands.answer.load import load_any
from basinet.data.chemistry.conformers import GenerationError
from basinet.data.generation.sampling import Surface
from basinet.data.readers import open_molecules
from basinet.evaluation.force_correlation import ForceCorrelation
from basinet.models.model import Model
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import RotorNoise
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate, unbatch
from basinet.structures.topology import rotors

Move = Callable[[Batch, torch.Generator], Batch]
"""Returns a noisy copy of a batch, such as an ``InternalNoise``."""


def main() -> None:
    """Label the frames of every size once and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--minima", type=int, default=60)
    parser.add_argument("--calculator", default="gfn2-xtb")
    parser.add_argument("--sigmas", type=float, nargs="*", default=[0.01, 0.02, 0.04, 0.08, 0.16], help="Å")
    parser.add_argument("--angles", type=float, nargs="*", default=[2.0, 10.0, 30.0], help="of rotors, degrees")
    given = parser.parse_args()
    models = {str(path): load_any(path, "cpu") for path in given.models}
    minima = [m for m in open_molecules(given.store)[0] if m.is_equilibrium][: given.minima]
    print(f"{len(minima)} minima; {given.calculator}")
    columns = [
        (name, source) for name, model in models.items() for source in implied_forces(model, collate(minima[:1]))
    ]
    for number, (name, source) in enumerate(columns):
        print(f"[{number}] {name}, {source}")
    heads = " ".join(f"[{n}] r   cos " for n in range(len(columns)))
    print(f"{'noise':18} {'frames':>6} {'rms F':>6}  {heads}")
    for label, move in moves(given.sigmas, given.angles).items():
        movable = minima if label.startswith("coordinate") else [m for m in minima if rotors(m)]
        failed: Counter[str] = Counter()
        generator = torch.Generator().manual_seed(0)
        frames = list(displaced_frames(movable, move, given.calculator, generator, failed=failed))
        found = correlations(models, frames)
        rms = math.sqrt(np.mean(np.concatenate([np.square(m.labels["forces"]).ravel() for m in frames])))
        cells = "  ".join(f"{w.pearson:5.2f} {w.cosine:5.2f}" for w in (found[c].whole() for c in columns))
        print(f"{label:18} {len(frames):6} {rms:6.2f}  {cells}", dict(failed) or "", flush=True)


def moves(sigmas: list[float], angles: list[float]) -> Mapping[str, Move]:
    """Return the ways to displace a minimum, by name."""
    by_coordinates = {f"coordinate {sigma:g} Å": partial(noisy, CoordinateNoise(sigma)) for sigma in sigmas}
    return by_coordinates | {f"rotors {angle:g}°": RotorNoise(math.radians(angle)) for angle in angles}


def noisy(noise: CoordinateNoise, batch: Batch, generator: torch.Generator) -> Batch:
    """Return the noisy batch alone."""
    return noise(batch, generator).batch


def correlations(models: Mapping[str, Model], frames: list[Molecule]) -> dict[tuple[str, str], ForceCorrelation]:
    """Return the correlation of each force that each model implies."""
    found: dict[tuple[str, str], ForceCorrelation] = {}
    for chunk in in_chunks(frames):
        batch = collate(chunk)
        for name, model in models.items():
            for source, forces in implied_forces(model, batch).items():
                of = found.setdefault((name, source), ForceCorrelation())
                for molecule, force in zip(chunk, unbatch(forces, batch), strict=True):
                    of.add(force.double().numpy(), np.asarray(molecule.labels["forces"]), 0.0)
    return found


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


if __name__ == "__main__":
    main()
