"""Fine-tuning on a table of SMILES and measurements."""
