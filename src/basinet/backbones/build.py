"""From settings to a backbone."""

from typing import Annotated

from pydantic import Field

from basinet.backbones.base import Backbone
from basinet.backbones.egnn import EGNN, EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig

BackboneConfig = Annotated[EquivariantTransformerConfig | EGNNConfig, Field(discriminator="kind")]
"""Settings of any backbone, told apart by ``kind``."""


def build_backbone(config: EquivariantTransformerConfig | EGNNConfig) -> Backbone:
    """Return a backbone with fresh weights."""
    match config:
        case EquivariantTransformerConfig():
            return EquivariantTransformer(config)
        case EGNNConfig():
            return EGNN(config)
