"""Where the published reference data is, for tests that need it.

It is not part of the repository. Set ``BASINET_REFERENCE_DATA`` to its directory, or put it in ``../shared/data``
beside the checkout; without it these tests are skipped and say so.
"""

import os
from pathlib import Path

import pytest

VARIABLE = "BASINET_REFERENCE_DATA"


def reference_file(name: str) -> Path:
    """Return the path of a file such as ``rmd17/rmd17_ethanol.npz``; skip the test if it is not there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get(VARIABLE, beside)) / name
    if not path.is_file():
        pytest.skip(f"no {path}; set {VARIABLE} to the directory of the reference data")
    return path
