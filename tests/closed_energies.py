"""Energies of a closed form in place of a network's."""

from basinet.backbones.base import Backbone
from basinet.models.heads.property import ENERGY, POOLED_ENERGY, PropertyHead, Readout, build_property_head


def energy_head(readout: Readout, backbone: Backbone, *, pooled: bool = False) -> PropertyHead:
    """Return the head of an energy that a readout of its own gives."""
    head = build_property_head(POOLED_ENERGY if pooled else ENERGY, backbone)
    head.readout = readout
    return head
