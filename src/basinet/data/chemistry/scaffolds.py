"""Split compounds by scaffold, at random, or by time."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from basinet.data.chemistry.conformers import parse_smiles


def murcko_scaffold(smiles: str) -> str:
    """Return the SMILES of the rings and the linkers between them, without stereo; ``""`` without rings.

    Bemis and Murcko, J. Med. Chem. 39, 2887 (1996), as in RDKit.

    Raises:
        GenerationError: the SMILES does not parse.
    """
    molecule = parse_smiles(smiles)
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=False))


def scaffold_groups(smiles: Sequence[str]) -> list[list[int]]:
    """Return the compounds of each scaffold, largest group first; of equal ones, the later one first.

    The order of MoleculeNet (Wu et al., Chem. Sci. 9, 513, 2018). All compounds without rings are one group.
    """
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(smiles):
        groups.setdefault(murcko_scaffold(entry), []).append(index)
    return sorted(groups.values(), key=lambda group: (len(group), group[0]), reverse=True)


def scaffold_parts(smiles: Sequence[str], fractions: Sequence[float]) -> list[Int64[np.ndarray, " _"]]:
    """Cut compounds into parts of about the given fractions; all compounds of one scaffold are in one part.

    As in MoleculeNet, scaffolds from the most to the least frequent go to the first part that they do not overfill, or
    to the last one; so the last part has rare scaffolds. Deterministic.

    Args:
        smiles: SMILES of each compound.
        fractions: fractions of the parts; they add up to 1.
    """
    ends = np.cumsum(fractions) * len(smiles) + 1e-9
    parts: list[list[int]] = [[] for _ in fractions]
    for group in scaffold_groups(smiles):
        filled = np.cumsum([len(part) for part in parts])
        part = next((i for i, end in enumerate(ends) if filled[i] + len(group) <= end), len(parts) - 1)
        parts[part] += group
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def random_parts(n: int, fractions: Sequence[float], seed: int) -> list[Int64[np.ndarray, " _"]]:
    """Cut ``range(n)`` at random into parts of the given fractions; no part with a fraction is empty."""
    return _cut(np.random.default_rng(seed).permutation(n), fractions)


def time_parts(times: Float64[np.ndarray, " n"], fractions: Sequence[float]) -> list[Int64[np.ndarray, " _"]]:
    """Cut compounds into parts of the given fractions, earliest first; equal times keep their order."""
    return _cut(np.argsort(times, kind="stable"), fractions)


def _cut(order: Int64[np.ndarray, " n"], fractions: Sequence[float]) -> list[Int64[np.ndarray, " _"]]:
    sizes = [max(1, round(f * len(order))) if f > 0 else 0 for f in fractions[1:]]
    ends = np.cumsum([max(0, len(order) - sum(sizes)), *sizes])
    return [np.sort(part).astype(np.int64) for part in np.split(order, ends[:-1])]
