"""How much memory does a training step need beside an inference with forces?

Prints the peak of each above what the process held before it, and their ratio; every measurement is a process of its
own, because what was once allocated is not given back.

    OMP_NUM_THREADS=1 python benchmarks/step_memory.py --features 128 --layers 6 --molecules 32
"""

import argparse
import resource
import subprocess
import sys

import torch
from ase.build import molecule as g2

from basinet.backbones.build import build_backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import Model, build_model
from basinet.objectives.base import total_loss
from basinet.objectives.methods import EtOreoConfig
from basinet.objectives.supervised import Forces
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate

WHAT = ("inference", "forces", "et_oreo")
"""Energies and forces in evaluation; a training step on labelled forces; one of ET-OREO on minima, three passes."""


def main() -> None:
    """Measure each in a process of its own and print the table."""
    given = _arguments()
    if given.what:
        print(peak(given, given.what))
        return
    common = [f"--features={given.features}", f"--layers={given.layers}", f"--molecules={given.molecules}"]
    peaks: dict[str, float] = {}
    print(f"ET {given.features} x {given.layers}, {given.molecules} molecules of 20 atoms, peak above the start")
    for what in WHAT:
        command = [sys.executable, __file__, *common, f"--what={what}"]
        peaks[what] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{what:10} {peaks[what]:8.0f} MiB  {peaks[what] / peaks['inference']:5.2f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--molecules", type=int, default=32)
    parser.add_argument("--what", choices=WHAT, help="measure this alone, in this process")
    return parser.parse_args()


def peak(given: argparse.Namespace, what: str) -> float:
    """Return the growth of the peak resident memory, MiB."""
    torch.set_num_threads(1)
    config = EquivariantTransformerConfig(n_features=given.features, n_layers=given.layers)
    model = build_model(build_backbone(config), ["energy", "forces"])
    step(model, what, 1)  # libraries load, threads start
    before = _peak()
    step(model, what, given.molecules)
    return _peak() - before


def step(model: Model, what: str, n_molecules: int) -> None:
    """Do one of the three."""
    batch = molecules(n_molecules)
    if what == "inference":
        model.eval()(batch, ["energy", "forces"])
        return
    objective = Forces() if what == "forces" else EtOreoConfig().build()
    model.train()
    sums = objective.sums(model, batch, torch.Generator().manual_seed(0))
    total_loss(objective, sums, objective.counts(batch)).backward()


def molecules(n: int) -> Batch:
    """Return copies of two molecules, 20 atoms, marked as labelled minima: memory does not ask whether that is true."""
    pair = [g2("bicyclobutane"), g2("bicyclobutane")]
    pair[1].positions += [0, 0, 4.0]
    atoms = pair[0] + pair[1]
    labels = {"energy": 0.0, "forces": torch.zeros(len(atoms), 3).numpy()}
    one = Molecule(
        atomic_numbers=atoms.numbers.astype("int64"), positions=atoms.positions, labels=labels, is_equilibrium=True
    )
    return collate([one] * n)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
