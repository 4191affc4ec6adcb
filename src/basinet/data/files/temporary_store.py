"""The molecules of a file as a store: in memory if they are few, otherwise on the disk until nobody needs them."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.structures import Molecule

IN_MEMORY = 2**19
"""Atoms that are kept in memory; about 100 MB."""


def store_of(
    molecules: Iterator[Molecule], source: str, units: Mapping[str, str], level_of_theory: str
) -> MoleculeStore:
    """Return a store of all molecules of a stream.

    Molecules beyond ``IN_MEMORY`` atoms go to the directory for temporary files (``TMPDIR``), as large as a store of
    them would be. Its files are mapped and then deleted, so that their room is free when the store is gone, whatever
    becomes of this process.

    Args:
        molecules: At least one.
        source: Where they came from.
        units: Of labels other than energies and forces.
        level_of_theory: Of the energies and forces.
    """
    block, n_atoms = _block(molecules)
    if n_atoms < IN_MEMORY:
        return MoleculeStore.from_molecules(block, level_of_theory=level_of_theory, source=source, units=units)
    directory = Path(tempfile.mkdtemp(prefix="basinet-"))
    try:
        origin: dict[str, Any] = {"level_of_theory": level_of_theory, "source": source, "settings": {}}
        writer = StoreWriter.open(directory / "store", **origin, units=units)
        while block:
            writer.write_shard(block)
            block, _ = _block(molecules)
        return writer.finish()
    finally:
        if os.name == "posix":  # elsewhere a file that is mapped cannot be deleted
            shutil.rmtree(directory, ignore_errors=True)


def _block(molecules: Iterator[Molecule]) -> tuple[list[Molecule], int]:
    """Return molecules of about ``IN_MEMORY`` atoms, and the number of their atoms."""
    block: list[Molecule] = []
    n_atoms = 0
    for molecule in molecules:
        block.append(molecule)
        n_atoms += molecule.n_atoms
        if n_atoms >= IN_MEMORY:
            break
    return block, n_atoms
