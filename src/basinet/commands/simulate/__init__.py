"""Molecular dynamics and its benchmark."""
