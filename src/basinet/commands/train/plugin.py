"""Take the objective of a run from its recipe or from its plugin."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from basinet.backbones.plugin import backbones_in, line_in, load_plugin
from basinet.commands.recipe import PLUGIN_FILE, TrainableRecipe
from basinet.files import write_text
from basinet.objectives.base import Objective, check_declared

FUNCTION = "objective"


def objective_of(recipe: TrainableRecipe) -> Objective:
    """Return the objective of a recipe, or that of its plugin if that has one.

    Raises:
        ValueError: the plugin cannot be run, or defines neither an objective nor a backbone.
    """
    if recipe.plugin is None or _has_backbones_only(load_plugin(recipe.plugin)):
        return recipe.objective.build()
    if recipe.objective != type(recipe).__dataclass_fields__["objective"].default:
        raise ValueError("plugin and objective are both given, and only one can be learned; leave the other out")
    return load_objective(recipe.plugin, recipe.plugin_options or {})


def load_objective(path: Path, options: Mapping[str, Any]) -> Objective:
    """Run a Python file and return what its function ``objective`` returns, called with the options.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: running it fails, it has no such function, the options do not fit, or its result is no objective.
    """
    make = _function(load_plugin(path), path)
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
        raise ValueError(f"{plugin}{line_in(error, plugin)}: {kind}{first_line}") from error


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


def _has_backbones_only(module: ModuleType) -> bool:
    return FUNCTION not in vars(module) and bool(backbones_in(module))


def _function(module: ModuleType, path: Path) -> Callable[..., Any]:
    found = vars(module).get(FUNCTION)
    if not callable(found):
        there = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{path} has no function {FUNCTION}(); its functions are {', '.join(there) or 'none'}")
    return found
