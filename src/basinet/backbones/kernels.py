"""Kernels in place of PyTorch for the edges of a backbone, once they have shown that they compute the same."""

import warnings
from functools import cache
from typing import TypeVar

import torch
from torch import nn

from basinet.backbones.base import Backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformer
from basinet.errors import RunError
from basinet.speed.check import largest_error, largest_pair_error
from basinet.speed.cpp import NoCompilerError
from basinet.speed.differentiable import EdgeStage
from basinet.speed.edge_stage import EdgeInputs
from basinet.speed.pair_native import native

Module = TypeVar("Module", bound=nn.Module)

TOLERANCE = 1e-4
"""Of kernels in float32 against the formulas in float64, relative: rounding gives some 1e-6."""


class NoKernelsWarning(UserWarning):
    """A model answers more slowly than it could, and the same."""


def use_native(backbone: Backbone) -> str | None:
    """Have the edges of an Equivariant Transformer on a CPU computed by C++ kernels, whatever becomes of its dtype.

    They are compiled when they are first wanted, which takes seconds, once on a machine. Energies, forces and gradients
    change by rounding. There is no third derivative.

    Returns:
        Why they are not used; ``None``: they are.

    Raises:
        RunError: the kernels do not compute what they should.
    """
    if not isinstance(backbone, EquivariantTransformer):
        return f"they are for the Equivariant Transformer, and the network is {type(backbone).__name__}"
    device = next(backbone.parameters()).device
    if device.type != "cpu":
        return f"they are for CPUs, and the network is on {device}"
    try:
        error = _native_error(backbone.config.n_features, backbone.config.n_heads)
    except NoCompilerError as refused:
        return str(refused)
    _refuse_wrong(error, device)
    backbone.use_edge_stage(native)
    return None


def with_kernels(model: Module) -> Module:
    """Return a model that is to be asked and not trained, its edges by kernels where there are some for it.

    Where they cannot be compiled a :class:`NoKernelsWarning` says why, and PyTorch computes the same.
    """
    for module in model.modules():
        if isinstance(module, EquivariantTransformer) and next(module.parameters()).device.type == "cpu":
            missing = use_native(module)
            if missing is not None:
                warnings.warn(f"no C++ kernels, so answers take longer: {missing}", NoKernelsWarning, 2)
    return model


def use_checked(backbone: EquivariantTransformer, edge_stage: EdgeStage[EdgeInputs], device: torch.device) -> float:
    """Use an implementation that has shown that it computes what it should; return its largest relative error.

    Raises:
        RunError: it does not.
    """
    config = backbone.config
    error = largest_error(
        edge_stage, n_features=config.n_features, n_heads=config.n_heads, device=device, dtype=torch.float32
    )
    _refuse_wrong(error, device)
    backbone.use_edge_stage(edge_stage)
    return error


@cache
def _native_error(n_features: int, n_heads: int) -> float:
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.device("cpu"):  # wherever it is called
        return largest_pair_error(native, n_features=n_features, n_heads=n_heads, dtype=torch.float32)


def _refuse_wrong(error: float, device: torch.device) -> None:
    if not error < TOLERANCE:
        raise RunError(
            f"the kernels are off by {error:.1e} on {device}, expected less than {TOLERANCE:g}; "
            "use launch.kernels=plain"
        )
