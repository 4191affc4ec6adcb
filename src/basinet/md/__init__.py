"""Molecular dynamics of many replicas at once, and what to observe."""
