"""EGNN in the layer form of 3D-EMGP: what a message is made of is gathered and concatenated edge by edge.

The equations are those of :mod:`basinet.backbones.egnn`, and so are the weights; only the order of the arithmetic is
that of the released code: indices of edges, one wide matrix product for each edge, sums by index.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basinet.backbones.egnn import EGNN, BondGraph, element_features
from basinet.models.model import Model
from basinet.structures.batch import Batch
from basinet.structures.blocks import hop_blocks
from basinet.structures.pairs import all_pairs


class PublishedEGNN(nn.Module):
    """The network of a model of ours with an EGNN of fixed coordinates, sharing its parameters; gives energies."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        assert isinstance(model.backbone, EGNN)
        assert isinstance(model.backbone.config.graph, BondGraph)
        self.model = model
        self.backbone = model.backbone
        self.n_hops = model.backbone.config.graph.max_hops

    def forward(self, batch: Batch) -> Tensor:
        """Return the energy of each molecule."""
        pairs = all_pairs(batch)
        receiver, sender = torch.cat([pairs.first, pairs.second]), torch.cat([pairs.second, pairs.first])
        codes = F.one_hot(self._hops(batch, receiver, sender), self.n_hops + 1).to(batch.positions.dtype)
        squared = (batch.positions[receiver] - batch.positions[sender]).square().sum(-1, keepdim=True)
        scalar = self.backbone.embedding(element_features(batch.atomic_numbers).to(batch.positions.dtype))
        for layer in self.backbone.layers:
            first = layer.messages.first.joined
            message = torch.cat([scalar[receiver], scalar[sender], squared, codes], dim=-1)
            message = F.silu(layer.messages.second(F.silu(first(message))))
            message = message * torch.sigmoid(layer.messages.gate(message))
            received = torch.zeros_like(scalar).index_add(0, receiver, message)
            update = layer.update
            scalar = scalar + update.second(F.silu(update.first(torch.cat([scalar, received], dim=-1))))
        atomic = self.model.heads["energy"].readout.atoms.plain(scalar)[:, 0]
        return torch.zeros(batch.n_molecules, dtype=torch.float64).index_add(0, batch.molecule, atomic.double())

    def _hops(self, batch: Batch, receiver: Tensor, sender: Tensor) -> Tensor:
        molecule = batch.molecule[receiver]
        first = batch.first_atom[molecule]
        return hop_blocks(batch, self.n_hops)[molecule, receiver - first, sender - first]
