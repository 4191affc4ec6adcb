"""How fast is basinet on a GPU, beside torchmd-net?

Training steps, energies and forces, and dynamics at batches of 32 and 1024 molecules, with the memory that each takes,
and torsion noise; ours eager and with Triton kernels. Prints a table and writes it into docs/performance.md.

    python benchmarks/gpu.py                # needs a CUDA device
    python benchmarks/gpu.py --smoke        # tiny sizes on any device: does the script work? its numbers mean nothing
"""

import argparse
import copy
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import nn

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.md.dynamics import Dynamics, start
from basinet.md.integrators import VelocityVerlet, replica_seeds
from basinet.md.potentials import model_potential
from basinet.models.model import Model
from basinet.noise.internal import RotorNoise
from basinet.structures.batch import Batch, collate
from rows import molecules, page, training
from rows.stock import ET_128X8, fresh_et, torchmd_net_of
from rows.timing import Line, NotMeasured, compared, not_measured, race

PEER = "torchmd-net ET, eager"
TINY = EquivariantTransformerConfig(n_features=16, n_layers=1, n_heads=4, n_basis=8)
TEMPERATURE = 100.0
"""K."""


class Setting(NamedTuple):
    """Sizes, and where."""

    device: torch.device
    network: EquivariantTransformerConfig
    batches: tuple[int, ...]
    """Molecules."""
    rounds: int


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, any device, nothing written")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    setting = _setting(given.smoke, given.rounds)
    lines = [line for n in setting.batches for row in (force_steps, inference, dynamics) for line in row(setting, n)]
    lines += torsion_noise(setting, setting.batches[-1])
    text = f"{_device_name(setting.device)}, torch {torch.__version__}, float32, {setting.rounds} rounds in turn.\n\n"
    text += page.table(lines)
    print(text)
    if not given.smoke:
        page.write("gpu", text)


def _setting(smoke: bool, rounds: int) -> Setting:
    has_gpu = torch.cuda.is_available()
    if smoke:
        return Setting(torch.device("cuda" if has_gpu else "cpu"), TINY, (2, 4), 3)
    if not has_gpu:
        sys.exit("no CUDA device here; try --smoke to see whether the script works")
    device = torch.device("cuda")
    return Setting(device, ET_128X8, (32, 1024), rounds)


def force_steps(setting: Setting, n: int) -> list[Line]:
    """Compare force-training steps, and the memory they take."""
    batch = training.labelled(molecules.batch_of(molecules.of_size(20, n))).to(setting.device)
    model = fresh_et(setting.network, ["energy", "forces"]).to(setting.device).train()
    runs = {name: _step_of(m, batch) for name, m in _forms(model).items()}
    what = f"force-training step, {n} x 20 atoms"
    return _against_stock(what, "1.5 (6)", setting, runs, lambda: _stock_step(model, batch, setting.device))


def inference(setting: Setting, n: int) -> list[Line]:
    """Compare energies and forces."""
    batch = molecules.batch_of(molecules.of_size(20, n)).to(setting.device)
    model = fresh_et(setting.network, ["energy", "forces"]).to(setting.device).eval()
    potentials = {name: model_potential(m) for name, m in _forms(model).items()}
    runs = {name: (lambda potential=potential: potential(batch)) for name, potential in potentials.items()}

    def stock() -> Callable[[], object]:
        peer = torchmd_net_of(copy.deepcopy(model).cpu()).to(setting.device).eval()
        return lambda: peer(batch.atomic_numbers, batch.positions.detach().clone(), batch.molecule)

    return _against_stock(f"energy + forces, {n} x 20 atoms", "1.3 (5)", setting, runs, stock)


def dynamics(setting: Setting, n: int) -> list[Line]:
    """Time a step of replicas of aspirin; nobody to compare with runs them together."""
    batch = collate([molecules.aspirin()] * n).to(setting.device)
    form, model = list(_forms(fresh_et(setting.network, ["energy", "forces"]).to(setting.device)).items())[-1]
    potential = model_potential(model)
    integrator = VelocityVerlet(dt=0.5)
    begin = start(potential, batch, integrator, TEMPERATURE, replica_seeds(0, n))
    run = Dynamics(potential, begin, integrator, record_every=1000)
    times = race({"ours": _synchronized(lambda: run.run(run.state.step + 1), setting.device)}, setting.rounds)
    rate = n / sorted(times["ours"])[len(times["ours"]) // 2]
    note = f"{rate:.3g} replica-steps/s"
    return [Line(f"MD, {n} aspirins, a step of all", form, "itself", "", note=note)]


def torsion_noise(setting: Setting, n: int) -> list[Line]:
    """Time the turning of all rotors of a batch on the device against the same on the CPU."""
    batch = collate(list(molecules.qm9_sized(n)))
    runs: dict[str, Callable[[], object]] = {}
    for name, device in {"ours": setting.device, "cpu": torch.device("cpu")}.items():
        there, generator = batch.to(device), torch.Generator(device).manual_seed(0)
        noise = RotorNoise(sigma=0.1)
        runs[name] = _synchronized(lambda noise=noise, there=there, g=generator: noise(there, g), setting.device)
    times = race(runs, setting.rounds)
    line = Line(f"torsion noise, {n} molecules", str(setting.device), "the same on the CPU", "")
    return [compared(line, times["ours"], times["cpu"])]


def _forms(model: Model) -> dict[str, Model]:
    """Return the model as it is, and with Triton kernels where those run."""
    forms = {"eager": model}
    if next(model.parameters()).is_cuda and find_spec("triton") is not None:
        forms["Triton kernels"] = copy.deepcopy(model)
        assert forms["Triton kernels"].backbone.use_kernels("triton") is None
    return forms


def _step_of(model: Model, batch: Batch) -> Callable[[], object]:
    return lambda: training.step(model, training.our_forces, batch)


def _stock_step(model: Model, batch: Batch, device: torch.device) -> Callable[[], object]:
    peer: nn.Module = torchmd_net_of(copy.deepcopy(model).cpu()).to(device).train()
    return lambda: training.step(peer, training.stock_forces, batch)


def _against_stock(
    what: str,
    reach: str,
    setting: Setting,
    ours: Mapping[str, Callable[[], object]],
    stock: Callable[[], Callable[[], object]],
) -> list[Line]:
    """Return a line for each form of ours, with its memory and that of torchmd-net."""
    runs = {name: _synchronized(run, setting.device) for name, run in ours.items()}
    try:
        runs[PEER] = _synchronized(stock(), setting.device)
    except NotMeasured as why:
        return [not_measured(what, form, PEER, reach, why) for form in ours]
    memory = {name: _memory(run, setting.device) for name, run in runs.items()}
    times = race(runs, setting.rounds)
    lines: list[Line] = []
    for form in ours:
        note = "memory not measured" if memory[form] is None else f"memory {memory[form]} against {memory[PEER]} MiB"
        lines.append(compared(Line(what, form, PEER, reach, note=note), times[form], times[PEER]))
    return lines


def _memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Return the peak of allocated memory above what was there before, MiB; ``None`` where nobody counts."""
    if device.type != "cuda":
        return None
    run()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20)


def _synchronized(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return the call until the device has finished."""

    def both() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return both


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    main()
