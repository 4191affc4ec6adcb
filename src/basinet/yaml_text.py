"""Read YAML so that nothing is dropped or changed in silence.

A key that stands twice is an error. Scalars are read as YAML 1.2 reads them (``NO`` is a text and ``010`` is ten), and
each value remembers how it was typed, for options that are texts (:func:`basinet.config.read_settings`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

MOST_VALUES = 100_000
"""Limit on the values of a file, which aliases of aliases would exceed."""
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(f"{sign}inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_CLOSING: Mapping[str, str] = {"[": "]", "{": "}", "'": "'", '"': '"'}
_STANDARD = "tag:yaml.org,2002:"
_NULLS = tuple(word for word, value in _WORDS.items() if value is None)


@dataclass(frozen=True)
class Typed:
    """A value and the text that was typed for it."""

    value: Any
    text: str


def parse_text(text: str) -> dict[str, Any]:
    """Return the mapping in a YAML text; values that are not texts are :class:`Typed`.

    Raises:
        ValueError: it is not YAML, not a mapping, or has a key twice; the message says where.
    """
    value = _parsed(text)
    if not isinstance(value, dict):
        found = value.value if isinstance(value, Typed) else value
        raise ValueError(f"expected options, one 'key: value' a line, got {type(found).__name__}")
    return value


def parse_option(text: str) -> Any:
    """Return the value of an option as typed on a command line; what is not a text is :class:`Typed`.

    A text is taken as it is, also with ``#``, ``:`` or brackets in it, unless it is quoted.

    Raises:
        ValueError: it has a key twice, or a bracket or a quote that is not closed.
    """
    whole = text.strip()
    try:
        value = _parsed(text)
    except yaml.YAMLError as error:
        if _CLOSING.get(whole[:1], "") not in whole[1:]:
            raise ValueError(f"the value is not YAML: {' '.join(str(error).split())}") from None
        return whole
    if isinstance(value, str):
        return value if whole[:1] in ("'", '"') else whole
    if isinstance(value, Typed) and value.value is None and whole not in _NULLS:
        return whole  # "#y" is a comment to YAML
    return Typed(value.value if isinstance(value, Typed) else value, whole)


def plain(value: Any, as_text: Callable[[tuple[int | str, ...]], bool], place: tuple[int | str, ...] = ()) -> Any:
    """Return values without the texts that were typed for them; at the places of ``as_text``, those texts."""
    if isinstance(value, Typed):
        return value.text if as_text(place) else plain(value.value, as_text, place)
    if isinstance(value, dict):
        return {name: plain(entry, as_text, (*place, name)) for name, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry, as_text, (*place, number)) for number, entry in enumerate(value)]
    return value


def typed_text(values: Any, place: Sequence[int | str]) -> str | None:
    """Return the text that was typed for the value at a place; ``None`` if it is not known or empty."""
    for part in place:
        values = values.value if isinstance(values, Typed) else values
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return (values.text or None) if isinstance(values, Typed) else None


def _parsed(text: str) -> Any:
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        return Typed(None, "") if node is None else _Reader().value(node)
    except RecursionError:
        raise ValueError("it is nested too deeply, or holds itself") from None


class _Reader:
    """Turns the nodes of a document into values."""

    def __init__(self) -> None:
        self.n_values = 0

    def value(self, node: Any) -> Any:
        self.n_values += 1
        if self.n_values > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values, or aliases of aliases")
        tag = node.tag.removeprefix(_STANDARD)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, tag)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self.value(entry) for entry in node.value]
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node)
        raise yaml.MarkedYAMLError(None, None, f"the tag {node.tag} is not allowed", node.start_mark)

    def _mapping(self, node: Any) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, entry in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be a word", key.start_mark)
            if key.tag == f"{_STANDARD}merge":
                for one in entry.value if isinstance(entry, yaml.SequenceNode) else [entry]:
                    if not isinstance(one, yaml.MappingNode):
                        raise yaml.MarkedYAMLError(None, None, "<< needs a mapping", one.start_mark)
                    merged = self._mapping(one) | merged
                continue
            if key.value in own:
                raise ValueError(
                    f"the key {key.value!r} stands twice, again in line {key.start_mark.line + 1}; expected each key "
                    "once: join what belongs under it"
                )
            own[key.value] = self.value(entry)
        return merged | own


def _scalar(node: Any, tag: str) -> Any:
    if tag not in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge"):
        raise yaml.MarkedYAMLError(None, None, f"the tag {node.tag} is not allowed", node.start_mark)
    text: str = node.value
    if node.style is not None:
        return text
    if text in _WORDS:
        return Typed(_WORDS[text], text)
    if _INTEGER.fullmatch(text):
        return Typed(int(text), text)
    if _BASED.fullmatch(text):
        return Typed(int(text, 0), text)
    if _FLOAT.fullmatch(text):
        return Typed(float(text), text)
    return text
