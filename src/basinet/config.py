"""How settings are declared: frozen dataclasses beside what they build, read strictly.

Every field carries a docstring; it is the text of ``--help``. Unknown keys and wrong types are errors, all reported at
once. There is no registry and no dotted class path in a recipe: a ``kind`` selects a dataclass, ``match`` builds.
"""

import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, AllowInfNan, ConfigDict, TypeAdapter, ValidationError, with_config

from basinet.yaml_text import plain, typed_text

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
CLOSE = 0.75
"""Least similarity of the option that a message suggests, between 0 and 1."""

Count = Annotated[int, Ge(1)]
"""A number of things: at least 1."""
Positive = Annotated[float, Gt(0), AllowInfNan(False)]
"""Positive and finite."""
NonNegative = Annotated[float, Ge(0), AllowInfNan(False)]
"""Zero or positive, and finite."""


def expanded(path: str) -> str:
    """Return a path with ``~`` and ``$VARIABLE`` replaced, unless a file has that very name."""
    if not (path.startswith("~") or "$" in path) or os.path.lexists(path):
        return path
    return os.path.expandvars(os.path.expanduser(path))


PathText = Annotated[str, AfterValidator(expanded)]
"""A path, or a word that stands for one."""


def _expanded_paths(value: Any) -> Any:
    """Return a path, or each path of a tuple, with ``~`` and ``$VARIABLE`` replaced."""
    if isinstance(value, tuple):
        parts: tuple[Any, ...] = value
        return tuple(map(_expanded_paths, parts)) if any(isinstance(part, Path) for part in parts) else value
    return type(value)(expanded(str(value))) if isinstance(value, Path) else value


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only dataclass whose fields are read strictly and documented by their docstrings.

    ``~`` and ``$VARIABLE`` in its paths are replaced. Limits in the types of its fields (:data:`Count`,
    ``Annotated[float, Gt(0)]``) hold for objects made in Python as well as for files. They are checked before the
    class's own ``__post_init__``.
    """
    own: Callable[[T], None] | None = getattr(cls, "__post_init__", None)

    def check(self: T) -> None:
        for field in fields(self):  # pyright: ignore[reportArgumentType]
            object.__setattr__(self, field.name, _expanded_paths(getattr(self, field.name)))
        if problems := list(_beyond_limits(self)):
            raise ValueError("; ".join(problems))
        if own is not None:
            own(self)

    setattr(cls, "__post_init__", check)  # noqa: B010 (type checkers know no such attribute)
    make: Callable[[type[T]], type[T]] = dataclass(frozen=True, kw_only=True)
    return with_config(STRICT)(make(cls))


@cache
def adapter(kind: Any) -> Any:
    """Return the ``TypeAdapter`` of a settings class or union; made once, for that takes a while."""
    return TypeAdapter(kind)


def read_settings(kind: Any, values: object, where: str) -> Any:
    """Return ``values`` (of a YAML or JSON file) as the settings class or union ``kind``.

    Where an option is a text, a value of another type is the text that was typed for it: a column may be called 007.

    Raises:
        ValueError: one line per problem: the option, what was got, what is allowed.
    """
    texts: set[tuple[int | str, ...]] = set()
    while True:
        given = plain(values, texts.__contains__)
        try:
            return adapter(kind).validate_python(given)
        except ValidationError as error:
            wrong = error.errors(include_url=False)
            places = [_place(e["loc"], given) for e in wrong if e["type"] in _TEXT_WANTED]
            # The last part may be the name that pydantic gives to one of several types.
            wanted = {p if typed_text(values, p) else p[:-1] for p in places}
            wanted = {place for place in wanted if typed_text(values, place)}
            if wanted - texts:
                texts |= wanted
                continue
            problems = "\n".join(f"  {_problem(kind, e, given)}" for e in wrong)
            raise ValueError(f"{where}:\n{problems}") from None


_TEXT_WANTED = frozenset({"string_type", "path_type"})
"""Errors of pydantic about an option that is a text."""


def without_retired(values: Any, retired: Mapping[str, Sequence[object]], why: str) -> Any:
    """Return the values of a settings class without options that it once had, for files of earlier versions.

    Args:
        values: as they were read.
        retired: the values of each option that changed nothing.
        why: end of the message where it has another value.

    Raises:
        ValueError: an option has another value.
    """
    if not isinstance(values, Mapping):
        return values
    for name in retired.keys() & values.keys():
        if values[name] not in retired[name]:
            raise ValueError(f"{name}={values[name]} {why}")
    return {name: value for name, value in values.items() if name not in retired}


def dump_settings(value: object) -> Any:
    """Return settings as plain values that JSON and YAML can hold."""
    return adapter(type(value)).dump_python(value, mode="json", by_alias=True)


def _beyond_limits(value: Any) -> Iterator[str]:
    """Yield one line for each field of a settings object that does not keep the limits in its type."""
    for field in fields(value):
        for problem in _broken(field.type, getattr(value, field.name)):
            yield f"{field.name} {problem}"


def _broken(kind: Any, value: Any) -> Iterator[str]:
    """Yield the limits that a value or its entries do not keep; types without limits have none."""
    if get_origin(kind) is not Annotated:
        for entry in value if isinstance(value, tuple) else (value,):
            for part in get_args(kind):
                yield from _broken(part, entry)
        return
    inner, *limits = get_args(kind)
    if not isinstance(value, int | float):
        yield from _broken(inner, value)
    elif problem := next((text for limit in limits if (text := _breaks(limit, value))), ""):
        yield f"{problem}, got {value}"


def _breaks(limit: Any, value: int | float) -> str:
    """Return what a value must be, if it does not keep a limit."""
    for kind, key, holds in _LIMITS:
        if isinstance(limit, kind) and not holds(value, bound := getattr(limit, key)):
            return _must_be(key, bound)
    return ""


_LIMITS: Sequence[tuple[type[Any], str, Callable[[Any, Any], bool]]] = (
    (Gt, "gt", operator.gt),
    (Ge, "ge", operator.ge),
    (Lt, "lt", operator.lt),
    (Le, "le", operator.le),
    (AllowInfNan, "allow_inf_nan", lambda value, allowed: allowed or math.isfinite(value)),
)
"""Kinds of limits, the attribute that holds the bound (which pydantic names in its errors), and their meaning."""


def _must_be(key: str, bound: Any) -> str:
    if key == "allow_inf_nan":
        return "must be finite"
    words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}[key]
    return "must be positive" if key == "gt" and bound == 0 else f"must be {words} {bound:g}"


def _problem(kind: Any, error: Any, values: object) -> str:
    option = _option(error["loc"], values) or "settings"
    if error["type"] == "unexpected_keyword_argument":
        return _unknown(kind, option, error["input"], values)
    if error["type"] == "missing":
        return f"{option}: must be given"
    if error["type"] == "union_tag_not_found":
        return f"{option}: say which, with {option}.kind=..."
    if error["type"] == "union_tag_invalid":
        return f"{option}.kind: got {error['ctx']['tag']!r}; expected one of {error['ctx']['expected_tags']}"
    if error["type"] == "finite_number":
        return f"{option} must be finite, got {error['input']}"
    if bounds := [key for _, key, _ in _LIMITS if key in error.get("ctx", ())]:
        return f"{option} {_must_be(bounds[0], error['ctx'][bounds[0]])}, got {error['input']}"
    if error["type"] == "value_error":
        return f"{option}: {error['ctx']['error']}"
    return f"{option}: got {error['input']!r}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _option(place: Sequence[int | str], values: object) -> str:
    """Return the name of an option as a user writes it."""
    return ".".join(map(str, _place(place, values)))


def _place(place: Sequence[int | str], values: object) -> tuple[int | str, ...]:
    """Return the keys and numbers that lead to a value, without the ``kind`` that pydantic puts after its group."""
    names: list[int | str] = []
    for part in place:
        if isinstance(values, list | tuple):
            if isinstance(part, int):
                names.append(part)
                values = values[part]
            continue
        if names and not isinstance(values, Mapping):
            continue  # pydantic names the kind it tried
        group: Mapping[Any, Any] = values if isinstance(values, Mapping) else {}
        if group.get("kind") == part:
            values = {**group, "kind": None}
            continue
        names.append(part)
        values = group.get(part)
    return tuple(names)


def _unknown(kind: Any, option: str, given: object, values: object) -> str:
    """Return the problem with an unknown option, and the known one that its name is closest to."""
    while isinstance(given, Mapping) and len(given) == 1:  # an unknown group: name the option in it
        name, given = next(iter(given.items()))
        option = f"{option}.{name}"
    schema = adapter(kind).json_schema(by_alias=True)
    known = list(_options(schema, schema.get("$defs", {}), values, ""))
    group, dot, last = option.rpartition(".")
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == group]
    near = get_close_matches(option, elsewhere, n=1, cutoff=0.0)
    near = near or [f"{group}{dot}{name}" for name in get_close_matches(last, siblings, n=1, cutoff=CLOSE)]
    return f"unknown option {option}" + (f"; did you mean {near[0]}?" if near else "")


def _options(schema: Any, definitions: Mapping[str, Any], values: object, prefix: str) -> Iterator[str]:
    """Yield the names of options; of a group with several kinds, those of the kind that the values choose."""
    group: Mapping[Any, Any] = values if isinstance(values, Mapping) else {}
    for name, field in schema.get("properties", {}).items():
        yield prefix + name
        parts = [field, *field.get("oneOf", []), *field.get("anyOf", [])]
        for inner in (definitions[part["$ref"].rpartition("/")[2]] for part in parts if "$ref" in part):
            chosen = group.get(name)
            kind = inner.get("properties", {}).get("kind", {}).get("const")
            if kind is None or not isinstance(chosen, Mapping) or chosen.get("kind", kind) == kind:
                yield from _options(inner, definitions, chosen, f"{prefix}{name}.")
