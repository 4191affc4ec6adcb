"""Fetch public data sets by name."""
