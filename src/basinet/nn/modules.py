"""Linear maps with published initialisation, and buffers that keep their precision."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

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


class ExactBuffers(nn.Module):
    """A module whose buffers move between devices but are never cast.

    ``model.float()`` casts all buffers, also those that are float64 because float32 cannot hold them: a total energy of
    some thousand eV, a sum over all noise that was ever seen.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, value in exact.items():
            self._buffers[name] = value.to(self.get_buffer(name).device)
        return self
