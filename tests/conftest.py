"""Shared by all tests; it also puts this directory on the path, so that every test can import ``molecules``."""

import os
import signal

import pytest
import torch
from hypothesis import settings

from basinet.backbones.build import build_backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import Model, build_model

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in the background; children too
    signal.signal(signal.SIGINT, signal.default_int_handler)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels then run on the CPU

settings.register_profile("basinet", deadline=None, derandomize=True, database=None)
settings.load_profile("basinet")


@pytest.fixture
def generator() -> torch.Generator:
    """Return a random generator in a known state."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def backbone_config() -> EquivariantTransformerConfig:
    """Return the settings of the smallest backbone that has all its parts."""
    return EquivariantTransformerConfig(n_features=16, n_layers=1, n_heads=4, n_basis=8)


@pytest.fixture
def model(backbone_config: EquivariantTransformerConfig) -> Model:
    """Return a small model in float64 with all outputs, in training mode, the same every time."""
    torch.manual_seed(0)
    return build_model(build_backbone(backbone_config), ["energy", "forces", "noise"]).double()
