"""Whether a run compiles its network, for which shapes, and whether that pays."""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch.utils._python_dispatch import TorchDispatchMode

from basinet.backbones.base import NodeFeatures
from basinet.models.compiled import CompiledNetwork, Network
from basinet.models.evaluator import Evaluator, Said, What
from basinet.models.joint import Compiler, inductor, missing_compiler
from basinet.models.model import Model
from basinet.models.shapes import CHUNK, Shapes, shapes_for
from basinet.structures.batch import Batch
from basinet.structures.layouts import DENSE_LIMIT, neighbors_of
from basinet.training.guard import Guard, Say

CompileMode = Literal["auto", "always", "never"]
"""Whether to compile: if it pays, in any case, or not."""

FEWEST_STEPS = 200
"""Shorter runs are not even asked how long a step takes."""
SECONDS_PER_OPERATION = 0.03
"""To compile one operation of an eager pass and what follows from it, on one core; an upper estimate."""
SAVED = 0.35
"""Part of an eager step that is saved; a lower estimate (measured: 0.4 to 0.6, docs/performance.md)."""


class Estimate(NamedTuple):
    """What compiling would save and cost, s."""

    n_steps: int
    per_step: float
    """Of an eager step."""
    n_graphs: int
    cost: float

    @property
    def saved(self) -> float:
        """Time saved over all steps."""
        return SAVED * self.n_steps * self.per_step

    @property
    def pays(self) -> bool:
        """Whether more is saved than spent."""
        return self.saved > self.cost

    def __str__(self) -> str:
        verdict = "pays" if self.pays else "does not pay"
        return (
            f"compiling the network {verdict}: {self.n_steps} steps of {self.per_step:.2g} s, of which it would save "
            f"about {self.saved:.0f} s and cost about {self.cost:.0f} s ({self.n_graphs} graphs)"
        )


class Recorder(Evaluator):
    """The network itself; remembers what it was asked."""

    def __init__(self, model: Model) -> None:
        self._network = Network(model)
        self.asked: set[What] = set()

    def evaluate(self, what: What, batch: Batch) -> Said:
        """Return what was asked for."""
        self.asked.add(what)
        found = list(self._network(batch, neighbors_of, what))
        energy = found.pop(0) if "energy" in what else None
        forces = found.pop(0) if "forces" in what else None
        return Said(energy, forces, NodeFeatures(*found) if found else None)


class _Counter(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        return func(*args, **(kwargs or {}))


def estimate(model: Model, n_steps: int, step: Callable[[], object], shapes: Shapes) -> Estimate:
    """Return what compiling would save and cost.

    Args:
        model: whose network it is.
        n_steps: that are left.
        step: computes the loss and its gradients as a step does.
        shapes: that would be compiled.
    """
    recorder = Recorder(model)
    with _Counter() as counter, model.evaluated_by(recorder):
        step()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    n_graphs = len(recorder.asked) * len(shapes.sizes)
    # The operations of all passes of a step together: those that share a graph are counted each.
    return Estimate(n_steps, seconds, n_graphs, counter.n * len(shapes.sizes) * SECONDS_PER_OPERATION)


class Compilation:
    """What a run may compile its network for, and whether it does.

    Args:
        n_atoms: of each molecule to train on.
        n_molecules: of a batch of one process.
        say: called with lines about what is decided and done.
        compiler: of the graphs.
    """

    def __init__(
        self,
        n_atoms: Int[np.ndarray, " n_molecules"],
        n_molecules: int,
        say: Say,
        compiler: Callable[[], Compiler] = inductor,
    ) -> None:
        self._n_atoms, self._n_molecules, self._say = n_atoms, n_molecules, say
        self._compiler = compiler

    def shapes(self, device: torch.device) -> Shapes | None:
        """Return what would be compiled; ``None``: nothing, all molecules are too large."""
        return shapes_for(self._n_atoms, self._n_molecules, chunk=CHUNK if device.type == "cpu" else None)

    def hindrance(self, mode: CompileMode, n_steps: int, device: torch.device) -> str | None:
        """Return why nothing can be compiled, or it is not worth asking; ``None``: it may be.

        Raises:
            ValueError: compiling was asked for and is impossible.
        """
        if mode == "never":
            return "training.compile=never"
        if self.shapes(device) is None:
            return f"all molecules have more than {DENSE_LIMIT} atoms"
        if mode == "auto" and n_steps < FEWEST_STEPS:
            return f"{n_steps} steps are too few"
        if mode == "auto" and device.type != "cpu":
            return f"what it saves on {device.type} is not known (training.compile=always compiles in any case)"
        missing = missing_compiler(device)
        if missing is None:
            return None
        if mode == "always":
            raise ValueError(
                f"training.compile=always needs {missing}, and there is none; install one, or say "
                "training.compile=never (or auto, which goes on without)"
            )
        return f"there is no {missing.removeprefix('a ')}"

    def decide(self, mode: CompileMode, found: Callable[[Shapes], Estimate], device: torch.device) -> bool:
        """Return whether to compile where nothing hinders it, and say why."""
        shapes = self.shapes(device)
        if shapes is None or mode == "always":
            return mode == "always"
        guess = found(shapes)
        self._say(str(guess))
        return guess.pays

    def say_no(self, mode: CompileMode, why: str) -> None:
        """Say that eager PyTorch computes all, if that is news."""
        if mode != "never":
            self._say(f"the network is not compiled: {why}")

    def network(self, model: Model, mode: CompileMode, device: torch.device) -> CompiledNetwork:
        """Return the network of a model, each graph compiled when it is first wanted."""
        shapes = self.shapes(device)
        missing = missing_compiler(device)
        if shapes is None or missing is not None:
            raise ValueError(
                f"the run was begun with its network compiled, and here there is no {missing or 'molecule it fits'}; "
                "go on where there is one, or start a new run with training.compile=never"
            )
        return CompiledNetwork(model, shapes, self._compiler(), Guard(self._say, strict=mode == "always"))
