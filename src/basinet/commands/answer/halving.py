"""Cut batches that do not fit into memory in half until they do."""

import gc
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from basinet.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_MESSAGE = "can't allocate memory"
"""Text of the plain ``RuntimeError`` that torch raises on a CPU."""


class OutOfMemoryError(RunError):
    """One molecule alone does not fit into memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and CPU_MESSAGE in str(error)
    )


class Halving(Generic[Item, Result]):
    """Computes lists of items, at most ``size`` at once; ``size`` halves when memory runs out, and stays so.

    Args:
        compute: gives a result for each item of a list.
        size: items at once, to begin with.
        say: called once for each halving.
    """

    def __init__(
        self, compute: Callable[[Sequence[Item]], list[Result]], size: int, say: Callable[[str], None]
    ) -> None:
        self.compute = compute
        self.size = size
        self.say = say

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Return a result for each item, in order.

        Raises:
            OutOfMemoryError: one item alone is too large.
        """
        results: list[Result] = []
        while len(results) < len(items):
            part = items[len(results) : len(results) + self.size]
            try:
                results += self.compute(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise OutOfMemoryError("one molecule alone does not fit into memory") from None
                self.size = (len(part) + 1) // 2
                self.say(f"out of memory with {len(part)} molecules at once; continuing with {self.size}")
            else:
                continue
            _free()  # outside the handler: the error holds the tensors of the failed pass
        return results


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
