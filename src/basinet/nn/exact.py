"""Buffers that keep their precision."""

from collections.abc import Callable

from torch import Tensor, nn


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
