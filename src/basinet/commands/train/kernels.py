"""Who computes the edges of the network in a run."""

from importlib.util import find_spec

import torch

from basinet.backbones.base import Backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformer
from basinet.backbones.kernels import use_checked, use_native
from basinet.commands.progress import Say
from basinet.commands.recipe import LaunchConfig

WITHOUT = "going on as with launch.kernels=plain"


def use_kernels(backbone: Backbone, launch: LaunchConfig, device: torch.device, say: Say) -> None:
    """Have the edges of a backbone computed as asked for, or say why the ordinary path is taken.

    Raises:
        RunError: the kernels do not compute what they should on this device.
    """
    kernels = launch.kernels
    if kernels == "plain" or (kernels == "auto" and device.type != "cpu"):
        return
    if not isinstance(backbone, EquivariantTransformer):
        if kernels != "auto":
            kind = type(backbone).__name__
            say(f"launch.kernels={kernels} is for the Equivariant Transformer, and the network is {kind}; {WITHOUT}")
    elif kernels == "triton":
        _use_triton(backbone, device, say)
    else:
        _use_native(backbone, device, say)


def _use_native(backbone: Backbone, device: torch.device, say: Say) -> None:
    if device.type != "cpu":
        say(f"launch.kernels=native is for CPUs, and this run is on {device.type}; {WITHOUT}")
        return
    missing = use_native(backbone)
    if missing is None:
        say("C++ kernels for the edges of the network")
    else:
        say(f"no C++ kernels for the edges of the network: {missing}; {WITHOUT}")


def _use_triton(backbone: EquivariantTransformer, device: torch.device, say: Say) -> None:
    if device.type != "cuda":
        say(f"launch.kernels=triton needs a CUDA device, and this run is on {device.type}; {WITHOUT}")
        return
    if find_spec("triton") is None:
        say(f'launch.kernels=triton: Triton is not installed (pip install "basinet[triton]"); {WITHOUT}')
        return
    from basinet.speed.edge_triton import IN_TRITON

    error = use_checked(backbone, IN_TRITON, device)
    say(f"Triton kernels for the edges of dense batches, within {error:.0e} of the formulas on this device")
