"""Errors that end a run for a reason a person should read. Wrong input is a plain ``ValueError``."""


class RunError(Exception):
    """A run cannot go on; the message says why and what to do."""
