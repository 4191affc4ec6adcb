"""The command line."""

from basinet.cli.entry import app, main

__all__ = ["app", "main"]
