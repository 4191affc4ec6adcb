"""Make calculators by name: GFN-xTB through tblite, or any ASE calculator."""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from ase.calculators.calculator import BaseCalculator

from basinet.data.chemistry.conformers import GenerationError
from basinet.errors import optional_module

XTB_METHODS = MappingProxyType({"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"})
"""Named calculators and their levels of theory."""


def make_calculator(name: str, charge: int = 0, options: Mapping[str, Any] = MappingProxyType({})) -> BaseCalculator:
    """Return an ASE calculator for molecules of the given total charge.

    Args:
        name: ``gfn2-xtb``, ``gfn1-xtb``, or ``module:Class`` for any callable that returns an ASE calculator, such as
            ``ase.calculators.lj:LennardJones``; ``file.py:function`` for one in a file.
        charge: Total charge, e; passed to a callable that has a parameter ``charge``.
        options: Keyword arguments of the calculator.

    Raises:
        GenerationError: the molecule is charged and the calculator has no parameter ``charge``.
        ValueError: the name is unknown or cannot be imported, or GFN-xTB has no such option.
        ImportError: tblite is not installed.
    """
    if name in XTB_METHODS:
        return _xtb(XTB_METHODS[name], charge, options)
    factory = _load(name)
    if "charge" in inspect.signature(factory).parameters:
        return factory(charge=charge, **options)
    if charge:
        raise GenerationError("calculator takes no charge")
    return factory(**options)


def level_of_theory(name: str, options: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the level of theory for a store: the method and its options.

    >>> level_of_theory("gfn2-xtb")
    'GFN2-xTB'
    >>> level_of_theory("ase.calculators.lj:LennardJones", {"sigma": 2.0})
    'ase.calculators.lj:LennardJones(sigma=2.0)'
    """
    method = XTB_METHODS.get(name, calculator_name(name))
    if not options:
        return method
    return f"{method}({', '.join(f'{key}={value!r}' for key, value in sorted(options.items()))})"


def calculator_name(name: str) -> str:
    """Return the name without the directory of its file.

    >>> calculator_name("examples/pyscf_calculator.py:density_functional")
    'pyscf_calculator.py:density_functional'
    """
    module, colon, attribute = name.rpartition(":")
    return f"{Path(module).name}:{attribute}" if colon and module.endswith(".py") else name


def calculator_version(name: str) -> str:
    """Return the package and version of a calculator, such as ``tblite 0.8.0``, or the hash of its file."""
    file = Path(name.rpartition(":")[0])
    if file.suffix == ".py":
        return f"{file.name} sha256:{sha256(file.read_bytes()).hexdigest()[:16]}"
    package = "tblite" if name in XTB_METHODS else name.split(":")[0].split(".")[0]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package  # a local module


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` strings into keyword arguments; a value is a Python literal or a word.

    >>> parse_options(["accuracy=0.1", "mixer=broyden"])
    {'accuracy': 0.1, 'mixer': 'broyden'}
    """
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not (equals and key.isidentifier() and value):
            raise ValueError(f"calculator option {option!r} is not key=value, such as accuracy=0.1")
        try:
            parsed[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[key] = value
    return parsed


def _xtb(method: str, charge: int, options: Mapping[str, Any]) -> BaseCalculator:
    TBLite = optional_module("tblite.ase", "labels", "computing GFN-xTB labels").TBLite
    known = set(TBLite.default_parameters) - {"method", "charge", "verbosity"}
    if unknown := sorted(set(options) - known):  # tblite ignores unknown options
        raise ValueError(f"{method} has no option {', '.join(unknown)}; choose from {', '.join(sorted(known))}")
    return TBLite(method=method, charge=charge, verbosity=0, **options)


def _load(name: str) -> Callable[..., BaseCalculator]:
    module, colon, attribute = name.rpartition(":")
    if not (colon and module and attribute):
        raise ValueError(
            f"unknown calculator {name!r}; choose one of {', '.join(XTB_METHODS)}, or name an ASE calculator as "
            "module:Class, such as ase.calculators.lj:LennardJones, or file.py:function"
        )
    try:
        return getattr(_of_file(module) if module.endswith(".py") else importlib.import_module(module), attribute)
    except Exception as error:  # a user's file may fail in any way
        raise ValueError(
            f"calculator {name!r} cannot be imported ({type(error).__name__}: {error}); expected module:Class or "
            "file.py:function"
        ) from error


@cache
def _of_file(path: str) -> ModuleType:
    """Import a file, once per process."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"basinet_calculator_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
