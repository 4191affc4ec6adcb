"""List the options of settings, as ``--help`` shows them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from basinet.config import adapter

Schema = Mapping[str, Any]


class Option(NamedTuple):
    """An option of a recipe."""

    name: str
    kind: str
    """Allowed values, or their type."""
    default: str
    text: str
    when: str
    """The choice of a ``kind`` that the option belongs to, such as ``model.kind=egnn``; empty for all others."""

    @property
    def group(self) -> str:
        """The part of the name before the first dot."""
        return self.name.partition(".")[0] if "." in self.name else ""


def describe(kind: type[Any]) -> Iterator[Option]:
    """Yield every option of a recipe."""
    schema = adapter(kind).json_schema(by_alias=True)
    yield from _options(schema, schema.get("$defs", {}), "", None, "")


def _options(schema: Schema, definitions: Schema, prefix: str, defaults: Schema | None, when: str) -> Iterator[Option]:
    for name, field in schema.get("properties", {}).items():
        if name == "kind" and "const" in field:
            continue  # the kind of a group, which is an option of the group that holds it
        path = prefix + name
        default = (defaults or {}).get(name, field.get("default", "required"))
        groups = [definitions[ref.rsplit("/", 1)[1]] for ref in _references(field)]
        kinds = [_kind_of(group) for group in groups]
        text = field.get("description", "")
        if not groups or default is None:
            yield Option(path, "null | its options" if groups else _kind(field), _show(default), text, when)
        if len(groups) > 1:
            chosen = default.get("kind") if isinstance(default, Mapping) else default
            yield Option(f"{path}.kind", " | ".join(kinds), _show(chosen), text, when)
        for group, of_group in zip(groups, kinds, strict=True):
            is_chosen = isinstance(default, Mapping) and default.get("kind", of_group) == of_group
            choice = f"{path}.kind={of_group}" if len(groups) > 1 else when
            yield from _options(group, definitions, f"{path}.", default if is_chosen else None, choice)


def _kind_of(group: Schema) -> str:
    return group["properties"].get("kind", {}).get("const", "")


def _references(field: Schema) -> list[str]:
    if "$ref" in field:
        return [field["$ref"]]
    return [part["$ref"] for part in (*field.get("oneOf", []), *field.get("anyOf", [])) if "$ref" in part]


def _kind(field: Schema) -> str:
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
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
