"""Errors with units, and the report."""
