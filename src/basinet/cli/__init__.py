"""The command line."""

from basinet.cli.commands import app, main

__all__ = ["app", "main"]
