"""Does the time of an epoch grow in proportion to the data?"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import Model
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate
from basinet.structures.sparse import SparseNeighbors
from rows import molecules, training
from rows.stock import fresh_et
from rows.timing import Line

BATCH_SIZE = 16
LENGTHS = (32, 64, 128, 256)
"""Molecules of 20 atoms in a set."""
SIZES = (8, 11, 14, 17, 20, 23)
"""Atoms of each of 64 molecules: all within reach of each other, so there are more edges for each atom."""
CARBONS = (8, 16, 24, 32, 48)
"""Of each of 16 alkanes: longer than the cutoff, so edges grow as atoms do."""
CONFIG = EquivariantTransformerConfig(n_features=32, n_layers=3, n_heads=4)
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "time_per_epoch.png"


class Epoch(NamedTuple):
    """One data set, and the time of an epoch over it."""

    n_molecules: int
    n_atoms: int
    n_edges: int
    """Ordered pairs within the cutoff, and each atom with itself."""
    seconds: float


class Panel(NamedTuple):
    """What the time is drawn against."""

    axis: str
    what: str
    x: Sequence[int]
    epochs: Sequence[Epoch]


def linear_epochs(rounds: int) -> list[Line]:
    """Time epochs of force training over more molecules, over larger and over longer ones, and fit straight lines."""
    model = fresh_et(CONFIG, ["energy", "forces"]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    longer = [molecules.of_size(20, n) for n in LENGTHS]
    larger = [molecules.of_size(n, 64) for n in SIZES]
    chains = [[molecules.chain(n)] * BATCH_SIZE for n in CARBONS]
    found = iter(_timed(model, optimizer, [*longer, *larger, *chains], rounds))
    of_longer, of_larger, of_chains = ([next(found) for _ in sets] for sets in (longer, larger, chains))
    panels = [
        Panel("molecules", "32 to 256 molecules of 20 atoms", [e.n_molecules for e in of_longer], of_longer),
        Panel("atoms", "16 alkanes of 26 to 146 atoms", [e.n_atoms for e in of_chains], of_chains),
        Panel("edges", "64 molecules of 8 to 23 atoms", [e.n_edges for e in of_larger], of_larger),
    ]
    _draw(panels)
    return [_line(panel) for panel in panels]


def _timed(
    model: Model, optimizer: torch.optim.Optimizer, sets: Sequence[Sequence[Molecule]], rounds: int
) -> list[Epoch]:
    """Return the epochs over all sets, which take turns."""
    batches = [[training.labelled(collate(s[i : i + BATCH_SIZE])) for i in range(0, len(s), BATCH_SIZE)] for s in sets]
    times: list[list[float]] = [[] for _ in sets]
    for turn in range(rounds + 1):
        for i, parts in enumerate(batches):
            begin = time.perf_counter()
            _epoch(model, optimizer, parts)
            if turn:
                times[i].append(time.perf_counter() - begin)
    return [_described(parts, statistics.median(t)) for parts, t in zip(batches, times, strict=True)]


def _epoch(model: Model, optimizer: torch.optim.Optimizer, parts: Sequence[Batch]) -> None:
    for part in parts:
        training.step(model, training.our_forces, part)
        optimizer.step()


def _described(parts: Sequence[Batch], seconds: float) -> Epoch:
    edges = sum(len(SparseNeighbors(part, CONFIG.cutoff).receiver) for part in parts)
    return Epoch(sum(p.n_molecules for p in parts), sum(p.n_atoms for p in parts), edges, seconds)


def _line(panel: Panel) -> Line:
    """Return how well a straight line explains the times, and the exponent of a power law."""
    x, seconds = np.array(panel.x), np.array([e.seconds for e in panel.epochs])
    exponent = np.polyfit(np.log(x), np.log(seconds), 1)[0]
    residual = seconds - np.polyval(np.polyfit(x, seconds, 1), x)
    explained = 1 - residual.var() / seconds.var()
    note = f"grows as the power {exponent:.2f}; a straight line explains {100 * explained:.1f} % of the variance"
    return Line(f"time per epoch against {panel.axis}: {panel.what}", "eager", "itself", "linear", note=note)


def _draw(panels: Sequence[Panel]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(9, 2.8), layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        seconds = [e.seconds for e in panel.epochs]
        axis.plot(panel.x, seconds, "o", color="C0")
        ends = np.array([0, max(panel.x)])
        axis.plot(ends, np.polyval(np.polyfit(panel.x, seconds, 1), ends), color="0.6", zorder=0)
        axis.set(xlabel=panel.axis, title=panel.what, xlim=(0, None), ylim=(0, None))
        axis.title.set_fontsize(8)
    axes[0].set_ylabel("time per epoch, s")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)
