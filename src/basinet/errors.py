"""Raise errors with a message for the user. Other wrong input is a plain ``ValueError``."""

from importlib import import_module
from typing import Any


class RunError(Exception):
    """A run cannot continue; the message says why and what to do."""


class StructureError(ValueError):
    """A molecule is not valid; the message says what was got and what was expected."""


def optional_module(name: str, extra: str, purpose: str) -> Any:
    """Return a module of an optional dependency.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    package = name.partition(".")[0]
    try:
        import_module(package)
        return import_module(name)
    except ImportError:
        raise ImportError(f'{purpose} needs {package}: pip install "basinet[{extra}]"') from None
