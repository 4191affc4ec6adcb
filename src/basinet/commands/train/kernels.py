"""Choose the implementation of the messages in a run."""

import torch

from basinet.backbones.base import Backbone, KernelKind
from basinet.commands.progress import Say
from basinet.commands.recipe import LaunchConfig

NAMES = {"native": "C++ kernels", "triton": "Triton kernels"}


def use_kernels(backbone: Backbone, launch: LaunchConfig, device: torch.device, say: Say) -> None:
    """Use the kernels that a recipe names, or report why PyTorch is used instead.

    Raises:
        RunError: the kernels give wrong results on this device.
    """
    if launch.kernels == "plain":
        return
    kind: KernelKind = "native" if launch.kernels == "auto" else launch.kernels
    if launch.kernels == "auto" and (device.type != "cpu" or kind not in backbone.available_kernels):
        return
    missing = backbone.use_kernels(kind, device)
    if missing is None:
        say(f"{NAMES[kind]} for the edges of the network")
    else:
        say(f"no {NAMES[kind]} for the edges of the network: {missing}; PyTorch computes them")
