"""Compounds of a table: one canonical SMILES each, and the conformers made from it."""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Literal, NamedTuple

from basinet.data.chemistry.conformers import MAX_HEAVY_ATOMS, GenerationError, embed, parse_smiles, require_rdkit
from basinet.data.workers import available_cores, map_in_order
from basinet.structures import Molecule, StructureError

Fragments = Literal["refuse", "largest"]
"""What becomes of a SMILES of several molecules, a salt say: refused, or the one with most heavy atoms is taken."""

WORTH_PROCESSES = 100
"""Compounds below which processes take longer to start than they save."""


class ConformerTask(NamedTuple):
    """A compound to make conformers of."""

    smiles: str
    n_conformers: int
    seed: int
    fragments: Fragments = "refuse"


def canonical_compound(smiles: str, fragments: Fragments = "refuse") -> str:
    """Return the canonical SMILES that stands for a compound: one molecule, stereo kept, hydrogens implied.

    Raises:
        GenerationError: it is empty, does not parse, is several molecules or very large; the reason is short.
    """
    chem = require_rdkit()
    if not smiles:
        raise GenerationError("no SMILES")
    molecule = parse_smiles(smiles)
    parts = chem.GetMolFrags(molecule, asMols=True)
    if len(parts) > 1:
        if fragments == "refuse":
            raise GenerationError("more than one molecule")
        molecule = max(parts, key=lambda part: (part.GetNumHeavyAtoms(), chem.MolToSmiles(part)))
    if molecule.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
        raise GenerationError(f"more than {MAX_HEAVY_ATOMS} heavy atoms")
    return str(chem.CanonSmiles(chem.MolToSmiles(chem.RemoveHs(molecule))))


def conformers(task: ConformerTask) -> list[Molecule] | str:
    """Return the conformers of a compound, or why there are none.

    They depend on the compound, their number and the seed alone, not on its spelling or what else is in a table.
    """
    try:
        smiles = canonical_compound(task.smiles, task.fragments)
        return [dataclasses.replace(m, smiles=smiles) for m in embed(smiles, task.seed, task.n_conformers)]
    except (GenerationError, StructureError) as error:
        return str(error)


def conformer_sets(tasks: Iterable[ConformerTask], processes: int | None = 1) -> Iterator[list[Molecule] | str]:
    """Yield the conformers of each compound in order, or the reason why there are none.

    Args:
        tasks: the compounds; read a little ahead of what is yielded if there are several processes.
        processes: that make them; ``None``: one for each core.
    """
    processes = processes or available_cores()
    if processes == 1:
        yield from map(conformers, tasks)
        return
    with closing(map_in_order(conformers, tasks, processes)) as found:
        yield from found


def processes_for(n_compounds: int, wanted: int | None) -> int:
    """Return how many processes are worth starting."""
    return (wanted or available_cores()) if n_compounds >= WORTH_PROCESSES else 1
