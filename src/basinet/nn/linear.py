"""Linear maps with the initialisation of the published networks."""

import torch
from torch import nn

from basinet.speed.products import Linear


def xavier(n_in: int, *n_out: int, bias: bool = True) -> Linear:
    """Return one linear map with Xavier-uniform weights and zero bias.

    Several ``n_out`` fuse several maps of the same input into one matrix product; each is initialised as if it stood
    alone.
    """
    linear = Linear(n_in, sum(n_out), bias=bias)
    with torch.no_grad():
        for part in linear.weight.split(n_out):
            nn.init.xavier_uniform_(part)
        if bias:
            nn.init.zeros_(linear.bias)
    return linear
