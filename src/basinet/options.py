"""The options of settings, one by one, as ``--help`` lists them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from basinet.config import adapter


class Option(NamedTuple):
    """One option of a recipe, as ``--help`` shows it."""

    name: str
    kind: str
    default: str
    text: str


def describe(kind: type[Any]) -> Iterator[Option]:
    """Yield every option of a recipe, with its allowed values, default and meaning."""
    schema = adapter(kind).json_schema(by_alias=True)
    yield from _options(schema, schema.get("$defs", {}), "", None)


def _options(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any] | None
) -> Iterator[Option]:
    for name, field in schema.get("properties", {}).items():
        default = (defaults or {}).get(name, field.get("default", "required"))
        groups = [definitions[ref.rsplit("/", 1)[1]] for ref in _references(field)]
        if not groups or default is None:
            kind = "null | its options" if groups else _kind(field)
            yield Option(prefix + name, kind, _show(default), field.get("description", ""))
        for group in groups:
            matches = isinstance(default, Mapping) and _has_kind(group, default)
            yield from _options(group, definitions, f"{prefix}{name}.", default if matches else None)


def _has_kind(group: Mapping[str, Any], default: Mapping[str, Any]) -> bool:
    kind = group["properties"].get("kind")
    return kind is None or kind.get("const") == default.get("kind")


def _references(field: Mapping[str, Any]) -> list[str]:
    if "$ref" in field:
        return [field["$ref"]]
    return [part["$ref"] for part in (*field.get("oneOf", []), *field.get("anyOf", [])) if "$ref" in part]


def _kind(field: Mapping[str, Any]) -> str:
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " | ".join(_kind(part) for part in field[several])
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    if "const" in field:
        return str(field["const"])
    kind = str(field.get("type", "value"))
    return {"string": "text", "array": "list"}.get(kind, kind)


def _show(value: object) -> str:
    return "null" if value is None else str(value)
