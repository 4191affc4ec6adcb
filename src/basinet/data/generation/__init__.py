"""Labelled conformations made from SMILES."""
