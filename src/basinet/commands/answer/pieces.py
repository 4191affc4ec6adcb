"""A batch asked in pieces of molecules of similar size: on a CPU that takes less time than all of it at once."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from basinet.data.stream.batching import by_size, cuts_by_atoms
from basinet.structures.batch import Batch
from basinet.structures.batch_topology import Runs

PIECE_ATOMS = 300
"""In a piece at most. Larger ones need blocks of memory that leave the caches, smaller ones start more operations."""


def in_pieces(ask: Callable[[Batch], Mapping[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
    """Return what ``ask`` says about a batch, by name, asked about a few molecules at a time.

    Molecules of one size waste nothing on padding and know nothing of each other. How a batch is cut depends on its
    sizes alone. On a GPU it is asked as a whole.

    Args:
        ask: gives outputs with a row for each molecule or for each atom; labels are not among what it is given.
        batch: molecules.
    """
    count = batch.atoms_per_molecule
    sizes = count.cpu().numpy()
    order = by_size(sizes)
    cuts = cuts_by_atoms(sizes[order], PIECE_ATOMS) if batch.positions.device.type == "cpu" and len(order) else []
    if not len(cuts):
        return dict(ask(batch))
    batch = batch.replace(labels={}, flags={})
    found = [ask(batch.select(torch.from_numpy(chosen))) for chosen in np.split(order, cuts)]
    molecules = torch.from_numpy(order)
    atoms = Runs.of(count, molecules).rows
    answers: dict[str, Tensor] = {}
    for name in found[0]:
        rows = torch.cat([one[name] for one in found])
        answers[name] = rows[torch.argsort(atoms if len(rows) == batch.n_atoms else molecules)]
    return answers
