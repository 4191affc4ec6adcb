"""Records of molecules, bond graphs, geometry, neighbours and sums per molecule."""

from basinet.errors import StructureError
from basinet.structures.batch import Batch
from basinet.structures.molecule import Molecule

__all__ = ["Batch", "Molecule", "StructureError"]
