"""From a SMILES to molecules in space: distance geometry, then a force field (RDKit)."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from basinet.structures import Molecule
from basinet.units import KCAL_PER_MOL

ForceField = Literal["mmff94", "uff"]
FORCE_FIELDS: tuple[ForceField, ...] = ("mmff94", "uff")
"""The first that has parameters for a molecule is used. MMFF94 has none for a few tiny ones, such as CO and HCl."""

MAX_HEAVY_ATOMS = 200
"""Largest molecule to embed: distance geometry takes minutes beyond and seldom ends well."""
MAX_FORCE_FIELD_STEPS = 2000
LARGEST_SEED = 2**31 - 1
"""At this seed of RDKit too all conformers are the same."""
PRUNE_RMS = 0.1
"""Å. Embedded conformers closer than this, without hydrogens, are the same."""
HESSIAN_STEP = 5e-3
"""Å. Second differences of the force field's energy are then good to a per cent."""


class GenerationError(Exception):
    """A molecule cannot be treated; the message is a short reason, the same for all such molecules, to be counted."""


def require_rdkit() -> ModuleType:
    """Return ``rdkit.Chem``.

    Raises:
        ImportError: RDKit is not installed.
    """
    try:
        from rdkit import Chem
    except ImportError as error:
        raise ImportError('molecules from SMILES need RDKit: pip install "basinet[rdkit]"') from error
    return Chem


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


def embed(
    smiles: str, seed: int, n_conformers: int = 1, force_fields: Sequence[ForceField] = FORCE_FIELDS
) -> list[Molecule]:
    """Return up to ``n_conformers`` conformers, each at a minimum of the first force field that has parameters.

    Distance geometry with experimental torsions (ETKDGv3, Wang et al., J. Chem. Inf. Model. 60, 2044, 2020); if it
    fails, from random coordinates, then without what is known of torsions and rings. Conformers that embed to the same
    place are returned once. Centres that the SMILES leaves open get one configuration or the other, by the seed.

    The molecules have explicit hydrogens, bonds and the formal charge; ``smiles`` is canonical and the atoms are in
    its order, the hydrogens last.

    Raises:
        GenerationError: it cannot be done; the reason is short and can be counted.
    """
    chem = require_rdkit()
    molecule = _with_hydrogens(chem.CanonSmiles(chem.MolToSmiles(parse_smiles(smiles))))
    conformers = _embedded(molecule, seed, n_conformers)
    if molecule.GetNumBonds():
        for conformer in conformers:
            if _force_field(molecule, force_fields, conformer).Minimize(maxIts=MAX_FORCE_FIELD_STEPS):
                raise GenerationError("force field does not converge")
    return [_to_molecule(molecule, conformer) for conformer in conformers]


def force_field_hessian(
    molecule: Molecule, force_fields: Sequence[ForceField] = FORCE_FIELDS
) -> Float64[np.ndarray, "n_coordinates n_coordinates"]:
    """Return the second derivatives of the force-field energy, eV/Å², at the positions of an embedded molecule.

    Differences of energies: the gradient that RDKit gives for other positions than a conformer's own (``CalcGrad``
    with an argument) does not match its energies.

    Raises:
        GenerationError: no force field has parameters for the molecule.
    """
    from rdkit.Geometry import Point3D

    with_hydrogens = _with_hydrogens(molecule.smiles)
    numbers = [atom.GetAtomicNum() for atom in with_hydrogens.GetAtoms()]
    if numbers != molecule.atomic_numbers.tolist():
        raise ValueError(f"the atoms are not those of {molecule.smiles}, in its order; expected a molecule from embed")
    n_coordinates = 3 * molecule.n_atoms
    if n_coordinates == 3:
        return np.zeros((3, 3))
    conformer = require_rdkit().Conformer(molecule.n_atoms)
    for atom, position in enumerate(molecule.positions.tolist()):
        conformer.SetAtomPosition(atom, Point3D(*position))
    field = _force_field(with_hydrogens, force_fields, with_hydrogens.AddConformer(conformer, assignId=True))
    return _second_differences(field.CalcEnergy, molecule.positions.ravel().tolist()) * KCAL_PER_MOL


def _second_differences(energy: Any, x: list[float]) -> Float64[np.ndarray, "n n"]:
    """Differentiate twice, with one evaluation per pair of coordinates."""
    n, h = len(x), HESSIAN_STEP
    hessian = np.empty((n, n))
    centre = energy(x)
    moved = np.empty(n)
    for i in range(n):
        start = x[i]
        x[i] = start - h
        back = energy(x)
        x[i] = start + h
        moved[i] = energy(x)
        hessian[i, i] = moved[i] - 2 * centre + back
        for j in range(i):
            other = x[j]
            x[j] = other + h
            hessian[i, j] = hessian[j, i] = energy(x) - moved[i] - moved[j] + centre
            x[j] = other
        x[i] = start
    return hessian / h**2


def _with_hydrogens(smiles: str) -> Any:
    """Parse and add hydrogens, refusing what has no single, closed-shell structure."""
    chem = require_rdkit()
    molecule = parse_smiles(smiles)
    if len(chem.GetMolFrags(molecule)) > 1:
        raise GenerationError("more than one molecule")
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        raise GenerationError("atom without an element")
    if any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        raise GenerationError("unpaired electrons")
    with_hydrogens = chem.AddHs(molecule)
    n_electrons = sum(atom.GetAtomicNum() for atom in with_hydrogens.GetAtoms()) - chem.GetFormalCharge(molecule)
    if n_electrons % 2:
        raise GenerationError("odd number of electrons")  # metals, whose electrons RDKit does not pair
    return with_hydrogens


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


def _force_field(molecule: Any, force_fields: Sequence[ForceField], conformer: int) -> Any:
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


def _to_molecule(molecule: Any, conformer: int) -> Molecule:
    chem = require_rdkit()
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    smiles = chem.MolToSmiles(chem.RemoveHs(molecule))
    return Molecule(
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64),
        positions=np.array(molecule.GetConformer(conformer).GetPositions(), dtype=np.float64),
        bonds=np.array(bonds, dtype=np.int64).reshape(-1, 2),
        bond_orders=np.array([bond.GetBondTypeAsDouble() for bond in molecule.GetBonds()], dtype=np.float64),
        charge=chem.GetFormalCharge(molecule),
        labels={},
        smiles=smiles,
        name=smiles,
    )
