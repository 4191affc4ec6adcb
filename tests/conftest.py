"""Shared by all tests; it also puts this directory on the path, so that every test can import ``molecules``."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("basinet", deadline=None, derandomize=True, database=None)
settings.load_profile("basinet")


@pytest.fixture
def generator() -> torch.Generator:
    """Return a random generator in a known state."""
    return torch.Generator().manual_seed(0)
