"""A compiled graph is used only if it agrees with eager PyTorch, on the molecules it is first wanted for."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from basinet.errors import RunError
from basinet.models.compiled import CompiledNetwork, Graph, Network
from basinet.models.evaluator import What
from basinet.structures.batch import Batch
from basinet.structures.layouts import neighbors_of
from basinet.structures.segment import sum_per_molecule

Say = Callable[[str], None]

ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Errors below this are rounding, relative to the largest element of an output or gradient."""
TIMES_EAGER = 4.0
"""An error below this many times that of eager PyTorch is rounding too. Deep networks multiply it."""
NEGLIGIBLE = 1e-6
"""A gradient smaller than this part of the largest one is nothing but rounding."""
TIMED = 3
"""Rounds of the comparison of speed."""


class WrongGraphError(RunError):
    """What was compiled is not what was asked for."""


class Errors(NamedTuple):
    """Largest errors, relative to the largest element of each tensor."""

    outputs: float
    gradients: float

    def within(self, limit: float, eager: "Errors") -> bool:
        """Return whether all is rounding; NaN is not."""
        return all(x <= max(limit, TIMES_EAGER * y) for x, y in zip(self, eager, strict=True))


class Guard:
    """Compares outputs and gradients of each graph with eager PyTorch, both with eager PyTorch in float64.

    Args:
        say: called with lines about what is being done.
        strict: whether a graph that is wrong, or cannot be made, ends the run; otherwise eager PyTorch takes its place.
    """

    def __init__(self, say: Say, *, strict: bool) -> None:
        self._say, self._strict = say, strict

    def __call__(self, network: CompiledNetwork, what: What, batch: Batch, make: Callable[[], Graph]) -> Graph | None:
        """Make a graph and return it if it is right."""
        of = f"{what.replace('_', ', ')} for {network.shapes.n_molecules} molecules"
        self._say(f"compiling {of}; this takes from seconds to minutes")
        start = time.monotonic()
        try:
            graph = make()
        except Exception as error:  # anything a compiler may stumble over
            return self._refuse(f"{of} cannot be compiled ({type(error).__name__}: {str(error)[:300]})", error)
        seconds = time.monotonic() - start
        exact = measure(network.network.double(), batch.to(dtype=torch.float64), what)
        slow = errors(_by(network, batch, lambda: network.eager(what, batch), what), exact)
        fast = errors(_by(network, batch, lambda: network.by_graph(what, graph, batch), what), exact)
        found = (
            f"outputs are off by {fast.outputs:.0e} and gradients by {fast.gradients:.0e} "
            f"(eager: {slow.outputs:.0e} and {slow.gradients:.0e})"
        )
        if not fast.within(ROUNDING[batch.positions.dtype], slow):
            return self._refuse(f"{of} of {graph.size} atoms, compiled, are wrong: {found}", None)
        faster = _seconds(lambda: _by(network, batch, lambda: network.eager(what, batch), what))
        faster /= _seconds(lambda: _by(network, batch, lambda: network.by_graph(what, graph, batch), what))
        self._say(f"compiled in {seconds:.0f} s for up to {graph.size} atoms: {faster:.1f} times as fast; {found}")
        return graph

    def _refuse(self, why: str, cause: Exception | None) -> None:
        if self._strict:
            raise WrongGraphError(f"{why}; run with training.compile=never, and please report this") from cause
        self._say(f"{why}; eager PyTorch computes them")


class Measured(NamedTuple):
    """Outputs, and gradients of a fixed random combination of them, in float64."""

    outputs: list[Tensor]
    gradients: list[Tensor]


def measure(network: Network, batch: Batch, what: What) -> Measured:
    """Return what a network says of a batch."""
    return _measured(network, batch, lambda: network(batch, neighbors_of, what), what)


def _by(network: CompiledNetwork, batch: Batch, run: Callable[[], Sequence[Tensor]], what: What) -> Measured:
    return _measured(network.network, batch, run, what)


def _measured(network: Network, batch: Batch, run: Callable[[], Sequence[Tensor]], what: What) -> Measured:
    outputs = run()
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in outputs]
    loss = torch.stack([(x * w).sum().double() for x, w in zip(outputs, weights, strict=True)]).sum()
    free = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, free, allow_unused=True) if loss.requires_grad else [None] * len(free)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(free, found, strict=True)]
    values = [x.detach().double() for x in outputs]
    if "energy" in what:  # reference energies are large, and the same for all
        values[0] = values[0] - sum_per_molecule(network.energy.standard.references[batch.atomic_numbers], batch)
    return Measured(values, [g.double() for g in gradients])


def errors(found: Measured, exact: Measured) -> Errors:
    """Return the largest errors of outputs and gradients."""
    everywhere = max((float(g.abs().max()) for g in exact.gradients if g.numel()), default=0.0)
    return Errors(_largest(found.outputs, exact.outputs, 0.0), _largest(found.gradients, exact.gradients, everywhere))


def _largest(found: Sequence[Tensor], exact: Sequence[Tensor], everywhere: float) -> float:
    parts = [
        (x - y).abs().max() / y.abs().max().clamp_min(max(NEGLIGIBLE * everywhere, 1e-30))
        for x, y in zip(found, exact, strict=True)
        if y.numel()
    ]
    return float(torch.stack(parts).max()) if parts else 0.0


def _seconds(run: Callable[[], object]) -> float:
    """Return the time of the fastest of a few runs."""
    times: list[float] = []
    for _ in range(TIMED):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
