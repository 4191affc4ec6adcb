"""Keep molecules in flat memory-mapped arrays."""

from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter

__all__ = ["MoleculeStore", "StoreWriter"]
