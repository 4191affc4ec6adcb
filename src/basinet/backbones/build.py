"""Read the settings of any backbone, those of plugins included."""

from collections.abc import Callable, Mapping
from inspect import getfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, GetPydanticSchema, PlainSerializer, WrapValidator

from basinet.backbones.base import Backbone, BackboneSettings
from basinet.backbones.egnn import EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.config import adapter, dump_settings

KINDS = frozenset({"equivariant_transformer", "egnn"})
"""Backbones that come with basinet."""
BUILT_IN = Annotated[EquivariantTransformerConfig | EGNNConfig, Field(discriminator="kind")]
_added: dict[str, type[BackboneSettings]] = {}
"""Settings from plugins, by kind; only :func:`add_backbone` writes here."""


def add_backbone(settings: type[BackboneSettings]) -> None:
    """Let recipes and model files have a backbone of a further kind, in this process.

    Raises:
        ValueError: the class has no kind of its own.
    """
    kind = adapter(settings).json_schema().get("properties", {}).get("kind", {}).get("const")
    if kind is None or kind in KINDS:
        raise ValueError(
            f"{settings.__name__} has the kind {kind!r}; give it one of its own: "
            'kind: Literal["my_net"] = "my_net", in a class under @settings'
        )
    _added[kind] = settings


def is_known(kind: str) -> bool:
    """Return whether a backbone of this kind can be built in this process."""
    return kind in KINDS or kind in _added


def plugin_of(settings: BackboneSettings) -> str | None:
    """Return the name of the file that defines a backbone; ``None``: basinet does."""
    return None if type(settings).__module__.startswith("basinet.") else Path(getfile(type(settings))).name


def _read(value: Any, built_in: Callable[[Any], BackboneSettings]) -> BackboneSettings:
    if isinstance(value, BackboneSettings):
        return value
    added = _added.get(value.get("kind", "")) if isinstance(value, Mapping) else None
    return built_in(value) if added is None else adapter(added).validate_python(value)


BackboneConfig = Annotated[
    BackboneSettings,
    GetPydanticSchema(lambda _, handler: handler(BUILT_IN)),
    WrapValidator(_read),
    PlainSerializer(dump_settings),
]
"""Settings of any backbone; ``kind`` selects it."""


def build_backbone(config: BackboneSettings) -> Backbone:
    """Return a backbone with random weights."""
    return config.build()
