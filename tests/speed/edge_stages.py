"""Networks whose edge stage is computed one way or another."""

import torch
from torch import Tensor

from basinet.backbones.equivariant_transformer import (
    PLAIN,
    EquivariantTransformer,
    EquivariantTransformerConfig,
    PlainEdges,
)
from basinet.backbones.transformer_kernels import Implementation, by_blocks, native_kernels
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


def native_of(config: EquivariantTransformerConfig) -> Implementation:
    """Return the C++ kernels for a network."""
    found = native_kernels(config.n_features, config.n_heads, torch.device("cpu"))
    assert isinstance(found, Implementation), found
    return found


def blocks(stage: EdgeStage) -> Implementation:
    """Return an edge stage over blocks as an implementation."""
    return by_blocks(stage, PlainEdges)


def model_of(config: EquivariantTransformerConfig, implementation: Implementation = PLAIN) -> Model:
    """Return a model in float64 in training mode, the same every time, whose biases are not zero."""
    torch.manual_seed(0)
    backbone = EquivariantTransformer(config)
    model = build_model(backbone, ["energy", "forces", "noise"]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    backbone.implementation = implementation
    return model


def force_training(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Return energies, forces and noise in the dense layout, and what a loss on them gives each parameter."""
    found = model(batch, ["energy", "forces", "noise"], layout=DenseNeighbors)
    torch.stack([value.square().sum() for value in found.values()]).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in found.items()} | gradients
