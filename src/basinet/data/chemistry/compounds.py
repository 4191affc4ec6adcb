"""Canonicalise compounds and make their conformers."""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Literal, NamedTuple

from basinet.data.chemistry.conformers import MAX_HEAVY_ATOMS, GenerationError, embed, parse_smiles, require_rdkit
from basinet.data.workers import available_cores, map_in_order
from basinet.structures import Molecule, StructureError


def canonical(smiles: str) -> str:
    """Return the canonical SMILES.

    Raises:
        GenerationError: the SMILES does not parse.
    """
    chem = require_rdkit()
    return chem.CanonSmiles(chem.MolToSmiles(parse_smiles(smiles)))  # twice: once is not always a fixed point


def compound(smiles: str) -> str:
    """Return the canonical SMILES without stereochemistry and isotopes: equal for all stereoisomers of a compound.

    Tautomers and protonation states stay different compounds.

    Raises:
        GenerationError: the SMILES does not parse.
    """
    chem = require_rdkit()
    molecule = parse_smiles(smiles)
    for atom in molecule.GetAtoms():
        atom.SetIsotope(0)
    chem.RemoveStereochemistry(molecule)
    return canonical(chem.MolToSmiles(chem.RemoveHs(molecule)))


def compounds(smiles: Iterable[str]) -> frozenset[str]:
    """Return the compounds of some SMILES.

    Raises:
        ValueError: one of them does not parse.
    """
    found: set[str] = set()
    for entry in smiles:
        try:
            found.add(compound(entry))
        except GenerationError as error:
            raise ValueError(f"cannot exclude {entry!r}: it {error}; expected a SMILES such as CCO") from error
    return frozenset(found)


Fragments = Literal["refuse", "largest"]
"""Treatment of a SMILES of several molecules, such as a salt: refuse it, or take the one with most heavy atoms."""

WORTH_PROCESSES = 100
"""Smallest number of compounds worth several processes."""


class ConformerTask(NamedTuple):
    """A compound to make conformers of."""

    smiles: str
    n_conformers: int
    seed: int
    fragments: Fragments = "refuse"


def canonical_compound(smiles: str, fragments: Fragments = "refuse") -> str:
    """Return the canonical SMILES of a compound: one molecule, with stereochemistry, hydrogens implied.

    Raises:
        GenerationError: it is empty, does not parse, is several molecules or too large; the message is a short reason.
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
    """Return the conformers of a compound, or the reason why there are none.

    They depend on the compound, their number and the seed alone.
    """
    try:
        smiles = canonical_compound(task.smiles, task.fragments)
        return [dataclasses.replace(m, smiles=smiles) for m in embed(smiles, task.seed, task.n_conformers)]
    except (GenerationError, StructureError) as error:
        return str(error)


def conformer_sets(tasks: Iterable[ConformerTask], processes: int | None = 1) -> Iterator[list[Molecule] | str]:
    """Yield the conformers of each compound in order, or the reason why there are none.

    Args:
        tasks: the compounds.
        processes: number of processes; ``None``: one for each core.
    """
    processes = processes or available_cores()
    if processes == 1:
        yield from map(conformers, tasks)
        return
    with closing(map_in_order(conformers, tasks, processes)) as found:
        yield from found


def processes_for(n_compounds: int, wanted: int | None) -> int:
    """Return the number of processes worth starting."""
    return (wanted or available_cores()) if n_compounds >= WORTH_PROCESSES else 1
