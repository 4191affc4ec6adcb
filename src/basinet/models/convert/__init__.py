"""Checkpoints of other codes, read and written."""
