"""Errors with a message for the user. Other wrong input is a plain ``ValueError``."""


class RunError(Exception):
    """A run cannot continue; the message says why and what to do."""


class StructureError(ValueError):
    """A molecule is not valid; the message says what was got and what was expected."""
