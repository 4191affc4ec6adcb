"""From files and SMILES to batches: readers, generation, store, splits, loader."""
