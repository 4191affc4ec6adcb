"""Call the C++ kernels that go through a list of pairs."""

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from basinet.speed.cpp import load
from basinet.structures.sparse import PairList

SOURCES = Path(__file__).with_name("cpp")
WITHOUT = "call backbone.use_kernels('plain')"
REALS = {torch.float32: "float", torch.float64: "double"}


class Problem(ctypes.Structure):
    """As in ``cpp/problem.h``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_pairs", "n_chunks", "n_parts", "n_threads")),
        *((name, ctypes.c_void_p) for name in ("first", "second", "pair_starts", "atom_starts", "strides")),
    ]


def n_parts(pairs: PairList, most: int) -> int:
    """Return the number of parts to cut features into, so that every thread has a task."""
    return min(most, -(-torch.get_num_threads() // max(1, len(pairs.pair_starts) - 1)))


def call(
    library: ctypes.CDLL,
    name: str,
    pairs: PairList,
    given: Sequence[Tensor],
    out: Sequence[Tensor],
    parts: int,
    strides: Sequence[int] = (),
) -> None:
    """Call a kernel with contiguous tensors; those with strides given need contiguous rows only.

    Raises:
        TypeError: a tensor is not an ordinary one on a CPU.
        RuntimeError: a graph is being recorded, and it would not contain the call.
    """
    _require_ordinary(given)
    stride_array = (ctypes.c_int64 * len(strides))(*strides)
    problem = Problem(
        len(pairs.first), len(pairs.pair_starts) - 1, parts, torch.get_num_threads(),
        *(index.data_ptr() for index in pairs), ctypes.addressof(stride_array),
    )  # fmt: skip
    library[name](ctypes.byref(problem), _pointers(given), _pointers(out))


@cache
def library(name: str, dtype: torch.dtype, **sizes: int) -> ctypes.CDLL:
    """Return the kernels of a file, compiled for a dtype and numbers of features and heads.

    Raises:
        NoCompilerError: they cannot be compiled here.
        TypeError: no kernels exist for the dtype.
    """
    if dtype not in REALS:
        raise TypeError(f"the C++ kernels are for float32 and float64, got {dtype}; use launch.kernels=plain")
    names = {"REAL": REALS[dtype]} | {name: str(value) for name, value in sizes.items()}
    return load(SOURCES / f"{name}.cpp", names)


def _require_ordinary(tensors: Sequence[Tensor]) -> None:
    other = next((x for x in tensors if type(x) is not Tensor or not x.is_cpu), None)
    if other is not None:
        kind = f"a {type(other).__name__} on {other.device}"
        raise TypeError(f"the C++ kernels are for tensors on a CPU, got {kind}; {WITHOUT}")
    recorder = sys.modules.get("torch.fx.experimental.proxy_tensor")  # slow to import, and only there if it is used
    if recorder is not None and recorder.get_proxy_mode() is not None:
        raise RuntimeError(f"the C++ kernels cannot be recorded in a graph; {WITHOUT}")


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
