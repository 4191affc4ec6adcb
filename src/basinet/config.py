"""How settings are declared: frozen dataclasses beside what they build, read strictly.

Every field carries a docstring; it is the text of ``--help``. Unknown keys and wrong types are errors, all reported at
once. There is no registry and no dotted class path in a recipe: a ``kind`` selects a dataclass, ``match`` builds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only dataclass whose fields are read strictly and documented by their docstrings."""
    make: Callable[[type[T]], type[T]] = dataclass(frozen=True, kw_only=True)
    return with_config(STRICT)(make(cls))


@cache
def adapter(kind: Any) -> Any:
    """Return the ``TypeAdapter`` of a settings class or union; made once, for that takes a while."""
    return TypeAdapter(kind)


def read_settings(kind: Any, values: object, where: str) -> Any:
    """Return ``values`` (of a YAML or JSON file) as the settings class or union ``kind``.

    Raises:
        ValueError: one line per problem: the option, what was got, what is allowed.
    """
    try:
        return adapter(kind).validate_python(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_problem(e, values)}" for e in error.errors(include_url=False))
        raise ValueError(f"{where}:\n{problems}") from None


def dump_settings(value: object) -> Any:
    """Return settings as plain values that JSON and YAML can hold."""
    return adapter(type(value)).dump_python(value, mode="json", by_alias=True)


def _problem(error: Any, values: object) -> str:
    option = _option(error["loc"], values) or "settings"
    if error["type"] == "unexpected_keyword_argument":
        return f"{option}: no such option"
    if error["type"] == "missing":
        return f"{option}: must be given"
    if error["type"] == "union_tag_not_found":
        return f"{option}: say which, with {option}.kind=..."
    if error["type"] == "union_tag_invalid":
        return f"{option}.kind: got {error['ctx']['tag']!r}; expected one of {error['ctx']['expected_tags']}"
    if error["type"] == "value_error":
        return f"{option}: {error['ctx']['error']}"
    return f"{option}: got {error['input']!r}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _option(place: Sequence[int | str], values: object) -> str:
    """Return the name of an option as a user writes it: without the ``kind`` that pydantic puts after its group."""
    names: list[str] = []
    for part in place:
        if isinstance(values, list | tuple):
            if isinstance(part, int):
                names.append(str(part))
                values = values[part]
            continue
        if names and not isinstance(values, Mapping):
            continue  # pydantic names the kind it tried
        group: Mapping[Any, Any] = values if isinstance(values, Mapping) else {}
        if group.get("kind") == part:
            values = {**group, "kind": None}
            continue
        names.append(str(part))
        values = group.get(part)
    return ".".join(names)
