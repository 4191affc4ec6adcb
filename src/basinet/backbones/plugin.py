"""Run the Python files of users that define objectives or backbones."""

import importlib.util
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from basinet.backbones.base import BackboneSettings
from basinet.backbones.build import add_backbone


def load_plugin(path: Path) -> ModuleType:
    """Run a Python file, once for each content, and make the backbones that it defines available in this process.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: running it fails, or a backbone in it has no kind of its own.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no plugin {path}; expected a Python file with a function objective() or a backbone")
    name = f"basinet_plugin_{sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:12]}"
    module = sys.modules.get(name)
    if module is None:
        module = _run(path, name)
    for settings in backbones_in(module):
        try:
            add_backbone(settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return module


def backbones_in(module: ModuleType) -> list[type[BackboneSettings]]:
    """Return the settings of backbones that a module defines."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BackboneSettings) and value.__module__ == module.__name__
    ]


def _run(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look classes up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any error of the plugin
        del sys.modules[name]
        raise ValueError(f"{path}{line_in(error, path)}: {type(error).__name__}: {error}") from error
    return module


def line_in(error: Exception, path: Path) -> str:
    """Return the line of the file that an error comes from, as ``, line 3``."""
    if isinstance(error, SyntaxError):
        return "" if error.lineno is None else f", line {error.lineno}"
    lines: list[int] = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f", line {lines[-1]}" if lines else ""
