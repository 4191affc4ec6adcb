"""Embed a SMILES in space: distance geometry, then a force field (RDKit)."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

from basinet.errors import optional_module

ForceField = Literal["mmff94", "uff"]
FORCE_FIELDS: tuple[ForceField, ...] = ("mmff94", "uff")
"""The first that has parameters for a molecule is used. MMFF94 has none for a few tiny ones, such as CO and HCl."""

MAX_FORCE_FIELD_STEPS = 2000
LARGEST_SEED = 2**31 - 1
"""At this seed of RDKit too all conformers are the same."""
PRUNE_RMS = 0.1
"""Å. Embedded conformers closer than this, without hydrogens, are the same."""


class GenerationError(Exception):
    """A molecule cannot be treated; the message is a short reason, the same for all such molecules, to be counted."""


def require_rdkit() -> ModuleType:
    """Return ``rdkit.Chem``.

    Raises:
        ImportError: RDKit is not installed.
    """
    return optional_module("rdkit.Chem", "rdkit", "making molecules from SMILES")


def parse_smiles(smiles: str) -> Any:
    """Return the RDKit molecule of a SMILES.

    Raises:
        GenerationError: it does not parse.
    """
    chem = require_rdkit()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        molecule = chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise GenerationError("does not parse")
    return molecule


def embed_smiles(
    smiles: str, seed: int, n_conformers: int = 1, force_fields: Sequence[ForceField] = FORCE_FIELDS
) -> tuple[Any, list[int]]:
    """Return an RDKit molecule with explicit hydrogens and the identifiers of its relaxed conformers.

    Distance geometry with experimental torsions (ETKDGv3, Wang et al., J. Chem. Inf. Model. 60, 2044, 2020); if it
    fails, from random coordinates, then without knowledge of torsions and rings. Conformers that embed to the same
    place are returned once. Each is relaxed with the first force field that has parameters.

    Raises:
        GenerationError: it cannot be done; the reason is short and can be counted.
    """
    chem = require_rdkit()
    molecule = with_hydrogens(chem.CanonSmiles(chem.MolToSmiles(parse_smiles(smiles))))
    conformers = _embedded(molecule, seed, n_conformers)
    if molecule.GetNumBonds():
        for conformer in conformers:
            if force_field(molecule, force_fields, conformer).Minimize(maxIts=MAX_FORCE_FIELD_STEPS):
                raise GenerationError("force field does not converge")
    return molecule, conformers


def with_hydrogens(smiles: str) -> Any:
    """Return the RDKit molecule of a SMILES with explicit hydrogens: one molecule with closed shells.

    Raises:
        GenerationError: it is several molecules, or has radicals or atoms without an element.
    """
    chem = require_rdkit()
    molecule = parse_smiles(smiles)
    if len(chem.GetMolFrags(molecule)) > 1:
        raise GenerationError("more than one molecule")
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        raise GenerationError("atom without an element")
    if any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        raise GenerationError("unpaired electrons")
    complete = chem.AddHs(molecule)
    n_electrons = sum(atom.GetAtomicNum() for atom in complete.GetAtoms()) - chem.GetFormalCharge(molecule)
    if n_electrons % 2:
        raise GenerationError("odd number of electrons")  # metals, whose electrons RDKit does not pair
    return complete


def _embedded(molecule: Any, seed: int, n_conformers: int) -> list[int]:
    """Embed and return the identifiers of the conformers."""
    from rdkit import rdBase
    from rdkit.Chem import rdDistGeom

    parameters = rdDistGeom.ETKDGv3()
    # RDKit multiplies the seed by the number of the conformer: from 0 all conformers would be the same.
    parameters.randomSeed = seed % LARGEST_SEED or 1
    parameters.pruneRmsThresh = PRUNE_RMS if n_conformers > 1 else -1.0
    attempts = (
        {},
        {"useRandomCoords": True},
        {"useExpTorsionAnglePrefs": False, "useBasicKnowledge": False},  # cages that no known torsion fits
    )
    with rdBase.BlockLogs():
        for changes in attempts:
            for name, value in changes.items():
                setattr(parameters, name, value)
            if found := list(rdDistGeom.EmbedMultipleConfs(molecule, n_conformers, parameters)):
                return found
    raise GenerationError("embedding failed")


def force_field(molecule: Any, force_fields: Sequence[ForceField], conformer: int) -> Any:
    """Return the first force field that has parameters, ready for the positions of a conformer."""
    from rdkit import rdBase
    from rdkit.Chem import rdForceFieldHelpers

    with rdBase.BlockLogs():
        for name in force_fields:
            if name == "mmff94" and (properties := rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule)) is not None:
                field = rdForceFieldHelpers.MMFFGetMoleculeForceField(molecule, properties, confId=conformer)
            elif name == "uff" and rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
                field = rdForceFieldHelpers.UFFGetMoleculeForceField(molecule, confId=conformer)
            else:
                continue
            field.Initialize()
            return field
    raise GenerationError("no force-field parameters")
