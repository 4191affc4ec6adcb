r"""TensorNet (Simeon and De Fabritiis, NeurIPS 2023), with the total charge of the molecule as an input.

Every atom carries ``F`` Cartesian tensors of rank two, each the sum of a multiple of the identity, a skew and a symmetric
traceless matrix. They are stored as their 1 + 3 + 5 independent numbers (:mod:`basinet.nn.rank_two`), and only products
:math:`XY + YX` occur, so the network keeps parity: it is equivariant under O(3).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from basinet.backbones.base import Backbone, NodeFeatures
from basinet.config import settings
from basinet.nn.linear import xavier
from basinet.nn.radial import ExponentialNormalBasis, cosine_cutoff
from basinet.nn.silu import silu
from basinet.nn.rank_two import anticommutator, harmonics, join, split, squared_norm, squared_norms
from basinet.speed import tensor_pairs as K
from basinet.nn import rank_two

N_ELEMENTS = 100
CHARGE_FACTOR = 0.1


@settings
class TensorNetConfig:
    kind: Literal["tensornet"] = "tensornet"
    n_features: int = 64
    n_layers: int = 2
    n_basis: int = 32
    cutoff: float = 4.5


class TensorNet(Backbone):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        n = config.n_features
        self.n_scalar = self.n_vector = n
        self.basis = ExponentialNormalBasis(config.n_basis, config.cutoff)
        self.embedding = TensorEmbedding(config)
        self.layers = nn.ModuleList(Interaction(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(3 * n)
        self.output = xavier(3 * n, n)

    def forward(self, batch, neighbors):
        basis = self.basis(neighbors.distances)                     # [pairs, K]
        fade = cosine_cutoff(neighbors.distances, self.cutoff)      # [pairs]
        charge = (1 + CHARGE_FACTOR * batch.charges.to(basis))[batch.molecule]
        x = self.embedding(batch.atomic_numbers, neighbors, basis, fade)  # [N, 9, F]

        for layer in self.layers:
            x = layer(x, charge[:, None, None], neighbors, basis, fade)

        scalar = silu(self.output(self.norm(squared_norms(x).flatten(1))))
        return NodeFeatures(scalar, split(x)[1])

    def stages(self):
        return [self.embedding, *self.layers]


class TensorEmbedding(nn.Module):
    kernels = False
    def __init__(self, config):
        super().__init__()
        n = config.n_features
        self.element = nn.Embedding(N_ELEMENTS, n)
        self.of_receiver = xavier(n, n)
        self.of_sender = xavier(n, n, bias=False)
        self.filters = xavier(config.n_basis, n, n, n)
        self.norm = nn.LayerNorm(n)
        self.gate_1 = xavier(n, 2 * n)
        self.gate_2 = xavier(2 * n, 3 * n)
        self.mix = TensorLinear(n)

    def forward(self, atomic_numbers, neighbors, basis, fade):
        embedded = self.element(atomic_numbers)
        if self.kernels:
            f = self.filters(basis) * fade[..., None]
            z = torch.cat([self.of_receiver(embedded), self.of_sender(embedded)], -1)
            n = embedded.shape[-1]
            x = K.directed_sum(neighbors.pair_list, f[:-1], harmonics(-neighbors.unit), z)
            own = f[-1, :n] * (z[:, :n] + z[:, n:]) * 3**0.5
            x = torch.cat([x[:, :1] + own[:, None], x[:, 1:]], 1)
            gate = silu(self.gate_2(silu(self.gate_1(self.norm(squared_norm(x))))))
            return self.mix(x) * spread(gate)
        pair = neighbors.of_receiver(self.of_receiver(embedded)) + neighbors.of_sender(self.of_sender(embedded))
        filters = neighbors.to_edges(self.filters(basis) * fade[..., None])
        f_i, f_a, f_s = filters.chunk(3, dim=-1)
        x = join(
            rank_two.R3 * neighbors.message_sum(f_i * pair)[:, None],
            -rank_two.R2 * neighbors.directed_sum(f_a * pair),
            neighbors.traceless_sum(f_s * pair),
        )
        gate = silu(self.gate_2(silu(self.gate_1(self.norm(squared_norm(x))))))
        return self.mix(x) * spread(gate)


class Interaction(nn.Module):
    kernels = False
    def __init__(self, config):
        super().__init__()
        n = config.n_features
        self.filter_1 = xavier(config.n_basis, n)
        self.filter_2 = xavier(n, 2 * n)
        self.filter_3 = xavier(2 * n, 3 * n)
        self.before = TensorLinear(n)
        self.after = TensorLinear(n)

    def forward(self, x, charge, neighbors, basis, fade):
        filters = silu(self.filter_3(silu(self.filter_2(silu(self.filter_1(basis)))))) * fade[..., None]
        x = x / (squared_norm(x)[:, None] + 1)
        y = self.before(x)
        if self.kernels:
            m = K.tensor_sum(neighbors.pair_list, filters[:-1], y) + spread(filters[-1:]) * y
            c = charge * K.anticommutator(y, m)
            dx = self.after(c / (squared_norm(c)[:, None] + 1))
            return x + dx + charge * 0.5 * K.anticommutator(dx, dx)
        f_i, f_a, f_s = neighbors.to_edges(filters).chunk(3, dim=-1)
        y_i, y_a, y_s = split(y)
        m = join(
            neighbors.weighted_sum(f_i, y_i[:, 0])[:, None],
            neighbors.weighted_sum(f_a, y_a),
            neighbors.weighted_sum(f_s, y_s),
        )
        c = charge * anticommutator(y, m)
        dx = self.after(c / (squared_norm(c)[:, None] + 1))
        return x + dx + charge * 0.5 * anticommutator(dx, dx)


class TensorLinear(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.identity, self.skew, self.traceless = (xavier(n, n, bias=False) for _ in range(3))

    def forward(self, x):
        i, a, s = split(x)
        return join(self.identity(i), self.skew(a), self.traceless(s))


def spread(gate):
    i, a, s = gate[:, None].chunk(3, dim=-1)
    return join(i, a.expand(-1, 3, -1), s.expand(-1, 5, -1))
