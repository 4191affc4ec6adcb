"""Batches for training: loader, mixtures, splits."""
