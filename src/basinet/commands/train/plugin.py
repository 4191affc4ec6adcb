"""Load an objective from a Python file that a recipe names."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from basinet.commands.recipe import TrainableRecipe
from basinet.files import write_text
from basinet.objectives.base import Objective, check_declared

PLUGIN_FILE = "plugin.py"
"""Copy of the file in a run directory, as it was when the run began."""
FUNCTION = "objective"


def objective_of(recipe: TrainableRecipe) -> Objective:
    """Return the objective of a recipe, or that of its plugin.

    Raises:
        ValueError: the plugin cannot be run, or does not return an objective.
    """
    if recipe.plugin is None:
        return recipe.objective.build()
    return load_objective(recipe.plugin, recipe.plugin_options or {})


def load_objective(path: Path, options: Mapping[str, Any]) -> Objective:
    """Run a Python file and return what its function ``objective`` returns, called with the options.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: running it fails, it has no such function, the options do not fit, or its result is no objective.
    """
    make = _function(_run(path), path)
    signature = inspect.signature(make)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(f"{path}: {error}; its options are {FUNCTION}{signature} (plugin_options.NAME=...)") from None
    try:
        made = make(**options)
    except Exception as error:  # any error of the plugin
        raise ValueError(f"{path}: {FUNCTION}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, Objective):
        raise ValueError(
            f"{path}: {FUNCTION}() returned {type(made).__name__}, expected an Objective such as Denoising(noise)"
        )
    with one_line_errors(path):
        check_declared(made)
    return made


@contextmanager
def one_line_errors(plugin: Path | None) -> Iterator[None]:
    """Report any error of a plugin as one line, with the file and, if it is known, the line of it."""
    try:
        yield
    except Exception as error:
        if plugin is None:
            raise
        first_line = (str(error).splitlines() or [""])[0]
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{plugin}{_line_in(error, plugin)}: {kind}{first_line}") from error


def keep_plugin(recipe: TrainableRecipe, out: Path) -> None:
    """Copy the plugin into the run directory."""
    if recipe.plugin is not None:
        write_text(out / PLUGIN_FILE, recipe.plugin.read_text())


def require_same_plugin(recipe: TrainableRecipe, out: Path) -> None:
    """Raise a ``ValueError`` if the plugin was changed since the run began."""
    kept = out / PLUGIN_FILE
    if recipe.plugin is not None and kept.exists() and kept.read_text() != recipe.plugin.read_text():
        raise ValueError(
            f"{recipe.plugin} was changed since the run in {out} began (it has a copy, {PLUGIN_FILE}); change it back, "
            "or start a new run"
        )


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no plugin {path}; expected a Python file with a function {FUNCTION}()")
    name = f"basinet_plugin_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look classes up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any error of the plugin
        del sys.modules[name]
        where = _line_in(error, path)
        raise ValueError(f"{path}{where}: {type(error).__name__}: {error}") from error
    return module


def _line_in(error: Exception, path: Path) -> str:
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


def _function(module: ModuleType, path: Path) -> Callable[..., Any]:
    found = vars(module).get(FUNCTION)
    if not callable(found):
        there = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{path} has no function {FUNCTION}(); its functions are {', '.join(there) or 'none'}")
    return found
