"""Noise for molecules: a clean batch in, a noisy batch and its target out."""
