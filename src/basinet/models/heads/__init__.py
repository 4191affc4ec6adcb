"""Heads: from node features to energies, vectors and properties."""
