"""What a molecule is: records, bond-graph facts, geometry, neighbours, segment sums."""

from basinet.errors import StructureError
from basinet.structures.batch import Batch
from basinet.structures.molecule import Molecule

__all__ = ["Batch", "Molecule", "StructureError"]
