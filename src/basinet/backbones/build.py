"""From settings to a backbone."""

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

from pydantic import Field

from basinet.backbones.base import Backbone
from basinet.backbones.egnn import EGNN, BondGraph, EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig

BackboneConfig = Annotated[EquivariantTransformerConfig | EGNNConfig, Field(discriminator="kind")]
"""Settings of any backbone, told apart by ``kind``."""


def needs_bonds(config: EquivariantTransformerConfig | EGNNConfig) -> bool:
    """Return whether a backbone reads the bonds of a molecule, and refuses molecules whose bonds are unknown."""
    return isinstance(config, EGNNConfig) and isinstance(config.graph, BondGraph)


def reads_bonds(backbone: Backbone) -> bool:
    """Return whether a backbone that was built reads bonds."""
    return isinstance(backbone, EGNN) and needs_bonds(backbone.config)


def as_written(backbone: Backbone) -> AbstractContextManager[None]:
    """Have a backbone compute everything by its formulas for a while, whatever else it may use."""
    return backbone.plain_edges() if isinstance(backbone, EquivariantTransformer) else nullcontext()


def goes_by_pairs(backbone: Backbone) -> bool:
    """Return whether kernels over pairs of atoms compute the edges of a backbone."""
    return isinstance(backbone, EquivariantTransformer) and backbone.goes_by_pairs


def build_backbone(config: EquivariantTransformerConfig | EGNNConfig) -> Backbone:
    """Return a backbone with fresh weights."""
    match config:
        case EquivariantTransformerConfig():
            return EquivariantTransformer(config)
        case EGNNConfig():
            return EGNN(config)
