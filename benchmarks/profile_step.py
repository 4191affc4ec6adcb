"""Where does the time of a force-training step go, and how close is it to what the machine allows?

Every operation of PyTorch and every call of a C++ kernel in one step is timed, with the bytes of the tensors that it
reads and writes and, of PyTorch's, the floating-point operations, for torchmd-net and for ours; beside them the rate of
a large matrix product and of a copy of a large tensor, measured in between. Prints a table and writes it into
docs/performance.md.

    OMP_NUM_THREADS=1 python benchmarks/profile_step.py
"""

import argparse
import copy
import os
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from basinet.models.model import Model
from basinet.speed import native, pair_native, pair_sum
from basinet.speed.products import linear
from basinet.structures.batch import Batch
from rows import molecules, page, training
from rows.stock import ET_128X8, fresh_et, torchmd_net_of
from rows.timing import NotMeasured

ONEDNN = "_linear_pointwise"
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", ONEDNN)
SUMS = ("sum", "index", "gather", "scatter", "cat", "stack", "embedding", "sort", "cumsum")
"""Parts of the names of operations that move or add up rows."""
STOCK, EAGER, KERNELS = "torchmd-net", "eager", "kernels"
BY_KERNELS = "edges: C++ kernels"
PHASES = ("energy", "forces", "gradient")
Stage = tuple[str, str]


class Cost(NamedTuple):
    """What a stage took."""

    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: "Cost") -> "Cost":
        """Return the sum."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


class Peak(NamedTuple):
    """The best rates of the machine, one thread."""

    flops: float
    """In a second."""
    bytes: float
    """Read and written in a second."""


class Meter(TorchDispatchMode):
    """Adds up the costs of operations by phase and kind."""

    def __init__(self, n_atoms: int) -> None:
        super().__init__()
        self.n_atoms, self.phase = n_atoms, PHASES[0]
        self.costs: dict[Stage, Cost] = defaultdict(Cost)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it cost."""
        begin = time.perf_counter()
        found = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - begin
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
        is_view = bool(func.is_view) or not made
        moved = 0.0 if is_view else float(sum(x.numel() * x.element_size() for x in [*given, *made]))
        name = func.overloadpacket.__name__
        cost = Cost(seconds, 0.0 if is_view else _flops(name, given, made), moved)
        stage = self.phase, _kind(name, [*given, *made], self.n_atoms)
        self.costs[stage] = self.costs[stage].plus(cost)
        return found


def _flops(name: str, given: list[Tensor], made: list[Tensor]) -> float:
    """Return floating-point operations: two for each term of a product, otherwise one for each number written."""
    if name in PRODUCTS:
        rows = given[0] if name == ONEDNN else given[-2]
        return 2.0 * made[0].numel() * rows.shape[-1]
    return float(sum(x.numel() for x in made if x.is_floating_point()))


def _kind(name: str, tensors: list[Tensor], n_atoms: int) -> str:
    """Return which kind of work an operation is, by what it works on."""
    largest = max((x.numel() // max(x.shape[-1], 1) if x.ndim else 1 for x in tensors), default=0)
    if name == ONEDNN:  # both factors of the gradient of a weight lie transposed
        largest = max(n for x in tensors for n in x.shape)
    if largest <= 4 * n_atoms:
        return "atoms"
    if name in PRODUCTS:
        return "edges: matrix products"
    return "edges: gathers and sums" if any(part in name for part in SUMS) else "edges: element by element"


Phases = Callable[[Callable[[str], None]], None]
"""A step, given a function to which it announces its phases."""


def profiles(steps: Mapping[str, Phases], n_atoms: int, rounds: int) -> tuple[dict[str, dict[Stage, Cost]], Peak]:
    """Return the median cost of each stage of each step, which take turns, and the best rates seen meanwhile."""
    for step in steps.values():
        step(lambda phase: None)
    found: dict[str, list[dict[Stage, Cost]]] = {name: [] for name in steps}
    peak = peak_now()
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(_metered(step, n_atoms))
        peak = Peak(*map(max, peak, peak_now()))
    return {name: _medians(costs) for name, costs in found.items()}, peak


@contextmanager
def _kernels_by(meter: Meter) -> Iterator[None]:
    """Note the calls of C++ kernels, of which PyTorch knows nothing."""
    call = native.call

    def metered(
        library: Any, name: str, pairs: Any, given: Sequence[Tensor], out: Sequence[Tensor], *rest: Any
    ) -> None:
        begin = time.perf_counter()
        call(library, name, pairs, given, out, *rest)
        seconds = time.perf_counter() - begin
        moved = float(sum(x.numel() * x.element_size() for x in [*given, *out]))
        stage = meter.phase, BY_KERNELS
        meter.costs[stage] = meter.costs[stage].plus(Cost(seconds, 0.0, moved))

    pair_native.call = pair_sum.call = metered
    try:
        yield
    finally:
        pair_native.call = pair_sum.call = call


def _metered(step: Phases, n_atoms: int) -> dict[Stage, Cost]:
    with Meter(n_atoms) as meter, _kernels_by(meter):

        def enter(phase: str) -> None:
            meter.phase = phase

        step(enter)
    return meter.costs


def _medians(rounds: Sequence[Mapping[Stage, Cost]]) -> dict[Stage, Cost]:
    return {
        stage: cost._replace(seconds=statistics.median(costs[stage].seconds for costs in rounds))
        for stage, cost in rounds[0].items()
    }


def force_step(energies: Callable[[Batch], Tensor], batch: Batch, enter: Callable[[str], None]) -> None:
    """Do a force-training step in phases: energy, forces, the gradient of the loss in the parameters."""
    enter(PHASES[0])
    positions = batch.positions.detach().requires_grad_()
    energy = energies(batch.replace(positions=positions))
    enter(PHASES[1])
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    loss = training.of_forces(energy, -gradient, batch)
    enter(PHASES[2])
    loss.backward()


def peak_now() -> Peak:
    """Measure a large product of matrices and a copy."""
    a, x = torch.randn(1024, 1024), torch.randn(64 * 2**20)
    y = torch.empty_like(x)
    product = min(_seconds(lambda: linear(a, a)) for _ in range(5))
    copy = min(_seconds(lambda: y.copy_(x)) for _ in range(3))
    return Peak(2 * 1024**3 / product, 2 * 4 * x.numel() / copy)


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def table(found: Mapping[str, Mapping[Stage, Cost]], peak: Peak) -> str:
    """Return all profiles as a table in Markdown; work and shares are those of the last."""
    shown = [name for name in (STOCK, EAGER, KERNELS) if name in found]
    header = ("phase", "work", *shown, "GFLOP", "GB", "of peak FLOP/s", "of copy bandwidth")
    rows = [header, tuple("---" for _ in header)]
    kinds = sorted({kind for costs in found.values() for _, kind in costs})
    for phase in (*PHASES, "all"):
        for kind in (*kinds, "all"):
            costs = [_total(found[name], phase, kind) for name in shown]
            last = costs[-1]
            numbers = ["-"] * 4
            if last.seconds:
                numbers[1] = f"{last.bytes / 1e9:.2f}"
                numbers[3] = f"{100 * last.bytes / last.seconds / peak.bytes:.0f} %"
            if last.flops:
                numbers[0] = f"{last.flops / 1e9:.2f}"
                numbers[2] = f"{100 * last.flops / last.seconds / peak.flops:.0f} %"
            times = [f"{1e3 * cost.seconds:.0f} ms" if cost.seconds else "-" for cost in costs]
            rows.append((phase, kind, *times, *numbers))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _total(costs: Mapping[Stage, Cost], phase: str, kind: str) -> Cost:
    total = Cost()
    for (p, k), cost in costs.items():
        if phase in (p, "all") and kind in (k, "all"):
            total = total.plus(cost)
    return total


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True, help="into docs/performance.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    batch = training.labelled(molecules.batch_of(molecules.of_size(20, 32)))
    model = fresh_et(ET_128X8, ["energy", "forces"]).train()
    by_kernels = copy.deepcopy(model)
    steps: dict[str, Phases] = {EAGER: partial(force_step, lambda b: model(b, ["energy"])["energy"], batch)}
    if (why_not := by_kernels.backbone.use_kernels("native")) is None:
        steps[KERNELS] = partial(force_step, lambda b: by_kernels(b, ["energy"])["energy"], batch)
    else:
        print(f"no kernels: {why_not}", file=sys.stderr)
    try:
        steps[STOCK] = partial(force_step, _stock_energies(model), batch)
    except NotMeasured as why:
        print(f"torchmd-net: {why}", file=sys.stderr)
    found, peak = profiles(steps, batch.n_atoms, given.rounds)
    text = (
        f"{page.machine(load, given.rounds)}\n\nLargest rates, one thread: {peak.flops / 1e9:.0f} GFLOP/s in a product "
        f"of 1024 x 1024 matrices, {peak.bytes / 1e9:.1f} GB/s in a copy of 256 MB (read and written). FLOP (not "
        f"counted in kernels), bytes and shares are those of the last of the three.\n\n{table(found, peak)}"
    )
    print(text)
    if given.write:
        page.write("profile", text)


def _stock_energies(model: Model) -> Callable[[Batch], Tensor]:
    stock = torchmd_net_of(model).train()
    stock.derivative = False  # pyright: ignore[reportArgumentType]
    return lambda batch: stock(batch.atomic_numbers, batch.positions, batch.molecule)[0][:, 0]


if __name__ == "__main__":
    main()
