"""Networks whose edge stage is computed one way or another."""

import torch
from torch import Tensor

from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig
from basinet.models.model import Model, build_model
from basinet.speed.cpp import NoCompilerError, find_compiler
from basinet.speed.differentiable import EdgeStage
from basinet.structures.batch import Batch
from basinet.structures.dense import DenseNeighbors

CONFIGS = {
    "own": EquivariantTransformerConfig(n_features=8, n_layers=2, n_heads=2, n_basis=8),
    "as published": EquivariantTransformerConfig(n_features=8, n_layers=2, n_heads=2, n_basis=8, vector_cutoff=False),
}
EXACT = 1e-12
"""Rounding in float64, relative to values of about one."""


def has_compiler() -> bool:
    """Return whether there is a C++ compiler here."""
    try:
        find_compiler()
    except NoCompilerError:
        return False
    return True


def model_of(config: EquivariantTransformerConfig, edge_stage: EdgeStage | None) -> Model:
    """Return a model in float64 in training mode, the same every time, whose biases are not zero."""
    torch.manual_seed(0)
    backbone = EquivariantTransformer(config)
    model = build_model(backbone, ["energy", "forces", "noise"]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    backbone.use_edge_stage(edge_stage)
    return model


def force_training(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Return energies, forces and noise in the dense layout, and what a loss on them gives each parameter."""
    found = model(batch, ["energy", "forces", "noise"], layout=DenseNeighbors)
    torch.stack([value.square().sum() for value in found.values()]).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in found.items()} | gradients
