"""Where the published reference data is, for tests that need it.

It is not part of the repository. Set ``BASINET_REFERENCE_DATA`` and ``BASINET_REFERENCE_CHECKPOINTS`` to its
directories, or put them in ``../shared/data`` and ``../shared/checkpoints`` beside the checkout; without them these
tests are skipped and say so.
"""

import os
from pathlib import Path

import pytest


def reference_file(name: str) -> Path:
    """Return the path of a file such as ``rmd17/rmd17_ethanol.npz``; skip the test if it is not there."""
    return _find(name, "BASINET_REFERENCE_DATA", "data")


def reference_checkpoint(name: str) -> Path:
    """Return the path of released weights such as ``3d-emgp/checkpoint-3dmgp``; skip the test if they are not there."""
    return _find(name, "BASINET_REFERENCE_CHECKPOINTS", "checkpoints")


def _find(name: str, variable: str, directory: str) -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / directory
    path = Path(os.environ.get(variable, beside)) / name
    if not path.is_file():
        pytest.skip(f"no {path}; set {variable} to the directory that holds it")
    return path
