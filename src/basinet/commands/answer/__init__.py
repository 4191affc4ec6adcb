"""Predictions, evaluations and embeddings of files."""
