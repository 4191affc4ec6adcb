"""Energy-based equivariant networks for 3D molecules: pre-train, fine-tune, run."""

__version__ = "0.1.0"
