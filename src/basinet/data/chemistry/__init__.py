"""SMILES, conformers, bonds and compounds."""
