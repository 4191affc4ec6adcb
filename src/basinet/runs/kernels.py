"""Who computes the edges of the network in a run."""

from importlib.util import find_spec

import torch

from basinet.backbones.base import Backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformer
from basinet.errors import RunError
from basinet.kernels.check import largest_error
from basinet.kernels.chunked import IN_CHUNKS
from basinet.kernels.differentiable import EdgeStage
from basinet.recipe import LaunchConfig
from basinet.runs.train import Say

TOLERANCE = 1e-4
"""Of kernels in float32 against the formulas in float64, relative: rounding gives some 1e-6."""
WITHOUT = "going on as with launch.kernels=plain"


def use_kernels(backbone: Backbone, launch: LaunchConfig, device: torch.device, say: Say) -> None:
    """Have the edges of a backbone computed as asked for, or say why the ordinary path is taken.

    Raises:
        RunError: the kernels do not compute what they should on this device.
    """
    if launch.kernels == "plain":
        return
    if not isinstance(backbone, EquivariantTransformer):
        kind = type(backbone).__name__
        say(f"launch.kernels={launch.kernels} is for the Equivariant Transformer, and the network is {kind}; {WITHOUT}")
    elif launch.kernels == "chunked":
        backbone.use_edge_stage(IN_CHUNKS)
    else:
        _use_triton(backbone, device, say)


def _use_triton(backbone: EquivariantTransformer, device: torch.device, say: Say) -> None:
    if device.type != "cuda":
        say(f"launch.kernels=triton needs a CUDA device, and this run is on {device.type}; {WITHOUT}")
        return
    if find_spec("triton") is None:
        say(f'launch.kernels=triton: Triton is not installed (pip install "basinet[triton]"); {WITHOUT}')
        return
    from basinet.kernels.edge_triton import IN_TRITON

    error = use_checked(backbone, IN_TRITON, device)
    say(f"Triton kernels for the edges of dense batches, within {error:.0e} of the formulas on this device")


def use_checked(backbone: EquivariantTransformer, edge_stage: EdgeStage, device: torch.device) -> float:
    """Use an implementation that has shown that it computes what it should; return its largest relative error."""
    config = backbone.config
    error = largest_error(
        edge_stage, n_features=config.n_features, n_heads=config.n_heads, device=device, dtype=torch.float32
    )
    if not error < TOLERANCE:
        raise RunError(
            f"the kernels are off by {error:.1e} on {device}, expected less than {TOLERANCE:g}; "
            "use launch.kernels=plain"
        )
    backbone.use_edge_stage(edge_stage)
    return error
