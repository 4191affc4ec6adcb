"""How much faster is a training step whose network is compiled?

Prints, for each kind of step, the time to compile, the median of the ratios of interleaved eager and compiled steps in
this process, and the largest difference of a gradient relative to its largest element. Compiling takes minutes.

    OMP_NUM_THREADS=1 python benchmarks/compiled_step.py forces denoising egnn
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.compiled import CompiledNetwork
from basinet.models.joint import inductor
from basinet.models.model import Model, build_model
from basinet.models.shapes import shapes_for
from basinet.objectives.base import Objective, total_loss
from basinet.objectives.methods import coordinate_denoising
from basinet.objectives.supervised import EnergyForces, Forces
from basinet.structures.batch import Batch
from step_memory import molecules

ROUNDS = 9
STEPS: dict[str, Callable[[], Objective]] = {
    "forces": Forces,
    "energy-forces": lambda: EnergyForces(1.0, 10.0),
    "denoising": coordinate_denoising,
    "egnn": Forces,
}


def main() -> None:
    """Measure each kind of step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help="kinds of step (default: all)")
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--molecules", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.steps or STEPS:
        measure(name, given.features, 7 if name == "egnn" else given.layers, molecules(given.molecules))


def measure(name: str, n_features: int, n_layers: int, batch: Batch) -> None:
    """Compile and compare one kind of step."""
    torch.manual_seed(0)
    objective = STEPS[name]()
    model = build_model(build_backbone(_config(name, n_features, n_layers)), objective.requires).train()
    shapes = shapes_for(batch.atoms_per_molecule.numpy(), batch.n_molecules)
    assert shapes is not None
    network = CompiledNetwork(model, shapes, inductor())
    eager, compiled = (lambda n=n: step(model, objective, batch, n) for n in (None, network))
    expected = eager()
    start = time.monotonic()
    found = compiled()
    seconds = time.monotonic() - start
    pairs = [(_seconds(eager), _seconds(compiled)) for _ in range(ROUNDS)]
    ratio = statistics.median(a / b for a, b in pairs)
    times = [statistics.median(times) for times in zip(*pairs, strict=True)]
    error = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True) if a.any())
    print(
        f"{name}, {n_features} x {n_layers}, {batch.n_molecules} molecules, {shapes}: compiled in {seconds:.0f} s, "
        f"{ratio:.2f} times as fast ({times[0]:.2f} s, {times[1]:.2f} s), gradients differ by {error:.0e}; "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def step(model: Model, objective: Objective, batch: Batch, network: CompiledNetwork | None) -> list[torch.Tensor]:
    """Return the gradients of one step."""
    model.zero_grad(set_to_none=True)
    with model.evaluated_by(network):
        sums = objective.sums(model, batch, torch.Generator().manual_seed(0))
    total_loss(objective, sums, objective.counts(batch)).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def _config(name: str, n_features: int, n_layers: int) -> EquivariantTransformerConfig | EGNNConfig:
    if name == "egnn":
        return EGNNConfig(n_features=n_features, n_layers=n_layers, graph=RadiusGraph(cutoff=5.0))
    return EquivariantTransformerConfig(n_features=n_features, n_layers=n_layers)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
