"""How precisely matrices are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

MatmulPrecision = Literal["highest", "high", "medium"]
"""As torch names it: float32, TF32 or bfloat16 inside products of float32 matrices, where the hardware has them."""


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """Multiply matrices so within the block; the setting is torch's, and of the whole process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
