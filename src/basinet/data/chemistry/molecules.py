"""Canonical SMILES and compounds."""

from collections.abc import Iterable

from basinet.data.chemistry.conformers import GenerationError, parse_smiles, require_rdkit


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
    """Return the compounds that are named, for a test of membership.

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
