"""From settings to a backbone."""

from basinet.backbones.base import Backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig

BackboneConfig = EquivariantTransformerConfig
"""Settings of any backbone, told apart by ``kind``."""


def build_backbone(config: BackboneConfig) -> Backbone:
    """Return a backbone with fresh weights."""
    return EquivariantTransformer(config)
